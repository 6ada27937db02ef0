"""Independent streams of random numbers from one seed, the same on every backend.

Each use has its own stream, so an additional draw in one place changes nothing elsewhere. The
shuffle of an epoch is drawn from (seed, epoch), so resuming needs no generator state. Dropout
masks are not drawn here: they come from the counter-based generator in :mod:`fusedmlp.backend`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.errors import InvalidInputError

if TYPE_CHECKING:
    from fusedmlp.types import IntArray


class Stream(IntEnum):
    """Use of a stream. The numbers must not change: results would no longer be reproducible."""

    WEIGHTS = 1
    SHUFFLE = 2
    VALIDATION_SPLIT = 3
    DATASET = 4


def checked_seed(seed: int) -> int:
    """Return ``seed``, checked to fit the 64-bit key of the dropout generator."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise InvalidInputError(f"seed {seed!r} is not a whole number in [0, 2**64)")
    return int(seed)


def generator(seed: int, stream: Stream, index: int = 0) -> np.random.Generator:
    """Return the generator of a stream; ``index`` is a number within it, such as an epoch."""
    sequence = np.random.SeedSequence([checked_seed(seed), int(stream), index])
    return np.random.Generator(np.random.PCG64(sequence))


def shuffled(rows: IntArray, seed: int, epoch: int) -> IntArray:
    """Return the row numbers in the order of epoch ``epoch``, from 0: (n,)."""
    return generator(seed, Stream.SHUFFLE, epoch).permutation(rows)


def validation_split(n_rows: int, fraction: float, seed: int) -> tuple[IntArray, IntArray]:
    """Return row numbers for training and, drawn at random, for validation, each ascending.

    Parameters
    ----------
    fraction
        Fraction in [0, 1) of the rows that are for validation.

    Raises
    ------
    InvalidInputError
        The fraction is not 0, and rounds to no row.
    """
    n_validation = round(n_rows * fraction)
    if not n_validation:
        if fraction:
            raise InvalidInputError(f"validation {fraction} of {n_rows} rows is no row: use more")
        return np.arange(n_rows), np.arange(0)
    order = generator(seed, Stream.VALIDATION_SPLIT).permutation(n_rows)
    return np.sort(order[n_validation:]), np.sort(order[:n_validation])
