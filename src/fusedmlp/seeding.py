"""One seed, many independent streams of random numbers, the same on every backend.

Each use has a stream of its own, so that one more draw in one place changes nothing elsewhere,
and each epoch's shuffle is drawn afresh from (seed, epoch), so that resuming needs no generator
state. Dropout does not draw from here: its masks come from the counter-based generator that
:mod:`fusedmlp.backend` specifies.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.errors import InvalidInputError

if TYPE_CHECKING:
    from fusedmlp.types import IntArray


class Stream(IntEnum):
    """What a stream is for; results are reproducible only while the numbers stay as they are."""

    WEIGHTS = 1
    SHUFFLE = 2
    VALIDATION_SPLIT = 3
    DATASET = 4


def checked_seed(seed: int) -> int:
    """Return ``seed`` if it is a whole number that fits the 64-bit key of the dropout generator."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise InvalidInputError(f"seed {seed!r} is not a whole number in [0, 2**64)")
    return int(seed)


def generator(seed: int, stream: Stream, index: int = 0) -> np.random.Generator:
    """Return the generator of ``stream`` number ``index`` (an epoch, say) under ``seed``."""
    sequence = np.random.SeedSequence([checked_seed(seed), int(stream), index])
    return np.random.Generator(np.random.PCG64(sequence))


def shuffled(rows: IntArray, seed: int, epoch: int) -> IntArray:
    """Return the row numbers in the order of epoch ``epoch``, from 0: (n,)."""
    return generator(seed, Stream.SHUFFLE, epoch).permutation(rows)


def validation_split(n_rows: int, share: float, seed: int) -> tuple[IntArray, IntArray]:
    """Draw which rows to hold out: training and validation row numbers, each ascending.

    Parameters
    ----------
    share
        In [0, 1); 0 holds out none.

    Raises
    ------
    InvalidInputError
        The share comes to less than half a row.
    """
    n_held_out = round(n_rows * share)
    if not n_held_out:
        if share:
            raise InvalidInputError(f"validation {share} of {n_rows} rows is no row: use more")
        return np.arange(n_rows), np.arange(0)
    order = generator(seed, Stream.VALIDATION_SPLIT).permutation(n_rows)
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])
