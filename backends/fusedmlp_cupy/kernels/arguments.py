"""Arguments that several kernels share, as records, and the numbers that the CUDA sources hold too.

Every scalar gets the width of the kernel's parameter here: CuPy passes the bytes on unchecked, so a
wrong width is silent garbage on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from fusedmlp.backend import keep_threshold
from fusedmlp.network import DERIVATIVE_NEEDS_Z, HIDDEN_ACTIVATIONS

if TYPE_CHECKING:
    from fusedmlp.network import HiddenActivation
    from fusedmlp_cupy.runtime.types import Argument, DeviceArray

# The enumerations of common.cu hold the same numbers.
ROW_LANES: Final = 32
ROWS_PER_BLOCK: Final = 4
COLUMN_LANES: Final = 32
COLUMN_DEPTH: Final = 8
SUM_THREADS: Final = 256

RATE_COLUMNS: Final = 5
"""Scalars of a step that the host computes for the optimizers: Rate of formulas.cu."""

OPTIMIZER_CONSTANTS: Final = 5
"""``l2`` and ``c1`` to ``c4``: Optimizer of formulas.cu."""

NULL: Final = np.uint64(0)
"""A null pointer as CuPy passes it on; None would become an invalid argument list."""

Inputs: TypeAlias = "DeviceArray | tuple[DeviceArray, DeviceArray, DeviceArray]"
"""Stored inputs (N, D), or (indptr, indices, values) of a CSR matrix."""


def or_null(array: DeviceArray | None) -> Argument:
    """Return an optional array as an argument."""
    return NULL if array is None else array


def optimizer_constants(
    constants: tuple[float, ...], real: type[np.floating]
) -> tuple[np.floating, ...]:
    """Return an optimizer's constants in the engine's type, with zeros for those it has not."""
    padded = (*constants, *[0.0] * OPTIMIZER_CONSTANTS)[:OPTIMIZER_CONSTANTS]
    return tuple(real(constant) for constant in padded)


def activation_index(activation: HiddenActivation) -> np.int32:
    """Return the number by which the kernels know a hidden activation."""
    return np.int32(HIDDEN_ACTIVATIONS.index(activation))


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows that a launch works on.

    Parameters
    ----------
    rows
        Row numbers of the whole call, or None for the data set's own order.
    first
        Index of the batch's first row in ``rows``.
    number
        Number of the batch in the call.
    size
        B.
    cursor
        (2,) int64 on the device: batches and rows that ``number`` and ``first`` are relative to;
        None for 0.
    """

    rows: DeviceArray | None
    first: int
    number: int
    size: int
    cursor: DeviceArray | None = None

    def row_arguments(self) -> tuple[Argument, ...]:
        """Return the arguments ``rows, cursor, first``."""
        return or_null(self.rows), or_null(self.cursor), np.int64(self.first)

    def number_arguments(self) -> tuple[Argument, Argument]:
        """Return the arguments ``cursor, batch``."""
        return or_null(self.cursor), np.int64(self.number)


@dataclass(frozen=True, slots=True)
class Dropout:
    """What determines the masks of one hidden layer, besides the batch; see fusedmlp.backend.

    Parameters
    ----------
    steps
        (n_batches,) uint32: steps taken before each batch, mod 2³².
    layer
        Hidden layer, from 0.
    rate
        Probability of silencing a unit.
    """

    steps: DeviceArray
    layer: int
    seed: int
    rate: float

    def arguments(self, batch: Batch) -> tuple[Argument, ...]:
        """Return the arguments ``steps`` to ``threshold``."""
        layer = np.uint32(self.layer)
        return (self.steps, *batch.number_arguments(), layer, *self.seed_arguments())

    def seed_arguments(self) -> tuple[Argument, ...]:
        """Return the arguments ``seed_low, seed_high, threshold``."""
        low, high = np.uint32(self.seed % 2**32), np.uint32(self.seed // 2**32)
        return low, high, np.uint64(keep_threshold(self.rate))

    def scales(
        self, dtype: np.dtype[np.generic], activation: HiddenActivation
    ) -> tuple[Argument, Argument]:
        """Return the arguments ``scale, unscale``: of an activation, of what is saved."""
        unscale = 1.0 if activation in DERIVATIVE_NEEDS_Z else 1.0 - self.rate
        return dtype.type(1.0 / (1.0 - self.rate)), dtype.type(unscale)


@dataclass(frozen=True, slots=True)
class Targets:
    """Targets of the output kernels, and where the rows' losses go.

    Parameters
    ----------
    y
        (N,) int64 class numbers, or (N, K) values.
    w
        (N,) sample weights or None.
    mean
        Whether delta is divided by the batch's weight.
    weights
        (n_batches,) float64 Σ w of each batch, or None where every weight is 1.
    losses, correct
        (n,) float64, one entry a row of the call.
    """

    y: DeviceArray
    w: DeviceArray | None
    mean: bool
    weights: DeviceArray | None
    losses: DeviceArray
    correct: DeviceArray

    def objective_arguments(self) -> tuple[Argument, ...]:
        """Return the arguments ``mean`` to ``correct``."""
        return np.int32(self.mean), or_null(self.weights), self.losses, self.correct
