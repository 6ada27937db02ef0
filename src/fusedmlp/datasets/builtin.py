"""Data sets that need no download: scikit-learn's two moons and its 8 x 8 digits."""

from __future__ import annotations

import numpy as np

from fusedmlp.datasets.dataset import Dataset
from fusedmlp.errors import InvalidInputError


def load_moons(
    n_samples: int = 200, noise: float = 0.2, seed: int = 0, n_test: int = 1_000
) -> Dataset:
    """Draw the two moons: all ``n_samples`` points to train on, and a fresh draw to test on.

    Parameters
    ----------
    n_samples : int
        Training points N; they are ``make_moons(n_samples, noise=noise, random_state=seed)``.
    noise : float
        Standard deviation of the noise, in the units of the points (a moon has radius 1).
    seed : int
        From 0 to 2**32 - 1. The test points come from another stream of the same seed.
    n_test : int
        Test points.

    Returns
    -------
    Dataset
        float64 inputs with D = 2, two classes.

    Raises
    ------
    InvalidInputError
        If a number is out of range.
    """
    from sklearn.datasets import make_moons

    if n_samples < 2 or n_test < 2:
        raise InvalidInputError(
            f"n_samples={n_samples} and n_test={n_test}: expected 2 or more, one point per moon"
        )
    if not 0 <= noise < np.inf:
        raise InvalidInputError(f"noise={noise}: expected a finite number, 0 or more")
    _check_seed(seed)
    # A neighbouring integer would do, but then seed s would test on the points of seed s + 1.
    test_seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
    x_train, y_train = make_moons(n_samples, noise=noise, random_state=seed)
    x_test, y_test = make_moons(n_test, noise=noise, random_state=test_seed)
    return Dataset(
        name="moons",
        x_train=x_train,
        y_train=y_train.astype(np.int64),
        x_test=x_test,
        y_test=y_test.astype(np.int64),
        n_outputs=2,
        task="classification",
        class_names=("upper", "lower"),
        source=f"scikit-learn make_moons (noise {noise:g}, seed {seed})",
        image_shape=None,
    )


def load_digits(seed: int = 0, test_size: float = 0.2) -> Dataset:
    """Load the 1,797 handwritten digits that come with scikit-learn.

    Parameters
    ----------
    seed : int
        From 0 to 2**32 - 1; decides the stratified split.
    test_size : float
        Share of the rows to test on, between 0 and 1.

    Returns
    -------
    Dataset
        float32 inputs from 0 to 1 (the file's 0..16 divided by 16) with D = 64, ten classes.

    Raises
    ------
    InvalidInputError
        If ``test_size`` or ``seed`` is out of range.
    """
    from sklearn.datasets import load_digits as load_table
    from sklearn.model_selection import train_test_split

    n_rows, n_classes = 1_797, 10
    _check_seed(seed)
    # Stratifying needs at least one row of every class on either side.
    if not n_classes <= test_size * n_rows <= n_rows - n_classes:
        raise InvalidInputError(
            f"test_size={test_size}: expected a share of the rows between 0.006 and 0.994"
        )
    x, y = load_table(return_X_y=True)
    pixels = (x / 16).astype(np.float32)  # exact: sixteenths
    x_train, x_test, y_train, y_test = train_test_split(
        pixels, y.astype(np.int64), test_size=test_size, random_state=seed, stratify=y
    )
    return Dataset(
        name="digits",
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        n_outputs=n_classes,
        task="classification",
        class_names=tuple(str(digit) for digit in range(n_classes)),
        source=f"scikit-learn load_digits (test share {test_size:g}, seed {seed})",
        image_shape=(8, 8),
    )


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise InvalidInputError(f"seed={seed}: expected a whole number from 0 to 2**32 - 1")
