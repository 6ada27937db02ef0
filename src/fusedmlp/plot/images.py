"""Rows and weights as images: what a model gets wrong, and what its first layer looks at."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.errors import InvalidInputError
from fusedmlp.plot.classifier import Classifier, as_mlp
from fusedmlp.plot.image_grid import ImageGrid
from fusedmlp.plot.style import (
    COLOURS,
    WHITE,
    check_matplotlib_installed,
    colour_map,
    shown_figure,
)
from fusedmlp.scalars import whole

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from fusedmlp.io.onnx import Estimator
    from fusedmlp.model import MLP
    from fusedmlp.types import InputsLike

LONGEST_LINE: Final = 10
"""Letters of a title's line over an image."""


def misclassified(
    model: MLP | Estimator,
    x: InputsLike,
    y: npt.ArrayLike,
    *,
    shape: tuple[int, int] | None = None,
    count: int = 25,
) -> Figure:
    """Draw the wrong rows of which the model is most sure, as images.

    Parameters
    ----------
    model
        An MLP with a softmax output or one sigmoid output, or a fitted
        :class:`fusedmlp.sklearn.MLPClassifier`.
    x, y
        Rows (N, D) as the model takes them, and their classes (N,).
    shape
        Rows and columns of an image, with the product D; None for square images.
    count
        Images at most.

    Returns
    -------
    A new figure of ``pyplot``. Each title has the true class, the predicted class and its
    probability. Small values are light, large ones dark. Where no row is wrong, the picture says
    so.

    Raises
    ------
    InvalidInputError
        The model has no classes, ``x`` and ``y`` do not fit it or each other, or ``shape`` does
        not fit D.
    MissingDependencyError
        Matplotlib is not installed.
    """
    grid = wrong_rows(model, x, y, shape, count)
    return grid.draw(shown_figure(*grid.size))


def first_layer_weights(
    model: MLP | Estimator, *, shape: tuple[int, int] | None = None, count: int = 25
) -> Figure:
    """Draw the weights (D,) from all inputs to each unit of the first layer, as images.

    The units with the largest weights, by Euclidean norm, are drawn, in their order in the layer.

    Parameters
    ----------
    model
        An MLP or a fitted estimator of :mod:`fusedmlp.sklearn`.
    shape
        Rows and columns of an image, with the product D; None for square images.
    count
        Units at most.

    Returns
    -------
    A new figure of ``pyplot``. Positive weights are vermilion, negative ones blue, zero is white;
    the scale is the same for all units and symmetric about 0.

    Raises
    ------
    InvalidInputError
        ``model`` is none, or ``shape`` does not fit D.
    MissingDependencyError
        Matplotlib is not installed.
    """
    grid = unit_weights(model, shape, count)
    return grid.draw(shown_figure(*grid.size))


def wrong_rows(
    model: MLP | Estimator,
    x: InputsLike,
    y: npt.ArrayLike,
    shape: tuple[int, int] | None = None,
    count: int = 25,
) -> ImageGrid:
    """Return what :func:`misclassified` draws."""
    check_matplotlib_installed()
    most = whole("count", count)
    classifier = Classifier(model, "misclassified")
    image = image_shape(shape, classifier.mlp.network.n_inputs)
    probabilities = classifier.probabilities(x)
    predicted = probabilities.argmax(axis=1)
    true = classifier.class_numbers(y, len(predicted))
    wrong = np.flatnonzero(predicted != true)
    chosen = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")[:most]]
    values = classifier.rows(x, chosen).reshape(-1, *image)
    names = classifier.names
    titles = [
        _title(names[true[i]], names[predicted[i]], float(probabilities[i, predicted[i]]))
        for i in chosen
    ]
    heading = f"{wrong.size:,} of {len(true):,} rows wrong"
    if not wrong.size:
        heading = f"none of the {len(true):,} rows is wrong"
    elif len(chosen) < wrong.size:
        heading += f", the {len(chosen)} surest"
    limits = float(values.min(initial=np.inf)), float(values.max(initial=-np.inf))
    return ImageGrid(values, tuple(titles), heading, "gray_r", limits)


def unit_weights(
    model: MLP | Estimator, shape: tuple[int, int] | None = None, count: int = 25
) -> ImageGrid:
    """Return what :func:`first_layer_weights` draws."""
    check_matplotlib_installed()
    most = whole("count", count)
    mlp = as_mlp(model)
    image = image_shape(shape, mlp.network.n_inputs)
    W = mlp.parameters.weights[0]
    chosen = np.sort(np.argsort(-np.linalg.norm(W, axis=0), kind="stable")[:most])
    limit = float(np.abs(W[:, chosen]).max()) or 1.0
    n_units = W.shape[1]
    shown = f"all {n_units}" if len(chosen) == n_units else f"{len(chosen)} of {n_units:,}"
    return ImageGrid(
        W[:, chosen].T.reshape(-1, *image),
        tuple(f"unit {unit}" for unit in chosen),
        f"first layer, {shown} units",
        colour_map(COLOURS[0], WHITE, COLOURS[1]),
        (-limit, limit),
        scale="weight",
    )


def image_shape(shape: tuple[int, int] | None, n_inputs: int) -> tuple[int, int]:
    """Return rows and columns of an image of ``n_inputs`` values.

    Raises
    ------
    InvalidInputError
        They do not fit, or no shape is given and no square does.
    """
    if shape is None:
        side = math.isqrt(n_inputs)
        if side * side != n_inputs:
            raise InvalidInputError(
                f"{n_inputs} inputs are no square image: give shape=(rows, columns)"
            )
        return side, side
    if len(shape) != 2 or math.prod(shape) != n_inputs or min(shape) < 1:
        raise InvalidInputError(
            f"shape {shape} does not fit {n_inputs} inputs: give (rows, columns) with that product"
        )
    return shape


def _title(true: str, predicted: str, probability: float) -> str:
    """Return the title over an image, its lines short enough for their column."""
    one_line = f"{true} → {predicted}"
    if len(one_line) > LONGEST_LINE:
        one_line = f"{_cut(true)} →\n{_cut(predicted)}"
    return f"{one_line}\n{probability:.1%}"


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_LINE else f"{name[: LONGEST_LINE - 1]}…"
