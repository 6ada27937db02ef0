"""How each kernel of kernels.cu, and its twin in strict.cu, is launched: under the kernel's name.

The formulas are in kernels.cu and in :mod:`fusedmlp_numpy.kernels`, whose functions of the same
names compute the same things. Functions here choose the grid and give every scalar the width
that the kernel's parameter has: CuPy passes the bytes on unchecked, so a wrong width is silent
garbage on the device. Shapes follow the legend in :mod:`fusedmlp.types`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from fusedmlp.backend import keep_threshold
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS

if TYPE_CHECKING:
    from fusedmlp.network import HiddenActivation, Output
    from fusedmlp_cupy.cublas import Transposed
    from fusedmlp_cupy.programs import Argument, DeviceArray, Geometry, Program

KERNELS: Final[dict[str, str | None]] = {
    "gather_rows_uint8": "gather_rows",
    "gather_rows_float32": "gather_rows",
    "gather_rows_float64": "gather_rows",
    "gather_rows_csr_float32": "gather_rows",
    "gather_rows_csr_float64": "gather_rows",
    "dropout_mask": "dropout_mask",
    "bias_activation": "bias_activation",
    "bias_activation_dropout": "bias_activation",
    "hidden_delta": "hidden_delta",
    "hidden_delta_dropout": "hidden_delta",
    "softmax_cross_entropy": "softmax_cross_entropy",
    "sigmoid_cross_entropy": "sigmoid_cross_entropy",
    "squared_error": "squared_error",
    "poisson_deviance": "poisson_deviance",
    "output_activation": "output_activation",
    "bias_gradient": None,  # np.add.reduce in the NumPy engine
    "batch_weights": None,  # w.sum() in the NumPy engine
    "batch_sums": None,  # the sums that the NumPy output kernels return
    "advance_cursor": None,  # the NumPy engine's own loop
    "l2_gradient": None,  # dW += l2 * W in the NumPy engine
    "sgd": "sgd",
    "momentum": "momentum",
    "nesterov": "nesterov",
    "adam": "adam",
}
"""Every kernel of kernels.cu, and its twin in :mod:`fusedmlp_numpy.kernels`."""

STRICT_KERNELS: Final = (
    *(name for name in KERNELS if name not in ("dropout_mask", "advance_cursor")),
    "product",
)
"""Every kernel of strict.cu that the engine launches."""

# The block shapes that kernels.cu is written for; the enums there hold the same numbers.
ROW_LANES: Final = 32
ROWS_PER_BLOCK: Final = 4
COLUMN_LANES: Final = 32
COLUMN_DEPTH: Final = 8
SUM_THREADS: Final = 256

RATE_COLUMNS: Final = 5
"""Scalars of a step that the host computes for the updates: see formulas.cu."""

THREADS: Final = 256
MAX_BLOCKS: Final = 4096
"""Blocks of a flat launch at most; the loops stride over the rest."""

NULL: Final = np.uint64(0)
"""A null pointer as CuPy passes it on; None would become an invalid argument list."""

Inputs: TypeAlias = "DeviceArray | tuple[DeviceArray, DeviceArray, DeviceArray]"
"""Stored inputs (N, D), or (indptr, indices, values) of a CSR matrix."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Which rows a launch is for.

    Parameters
    ----------
    rows
        Row numbers of the whole call, or None for the data set's own order.
    first
        Where the batch begins in ``rows``.
    number
        Number of the batch in the call.
    size
        B.
    cursor
        (2,) int64 on the device: batches and rows that ``number`` and ``first`` are counted from;
        None where they are counted from the call's begin.
    """

    rows: DeviceArray | None
    first: int
    number: int
    size: int
    cursor: DeviceArray | None = None

    def row_arguments(self) -> tuple[Argument, ...]:
        """Return the arguments ``rows, cursor, first``."""
        rows = NULL if self.rows is None else self.rows
        return rows, self.cursor_argument(), np.int64(self.first)

    def number_arguments(self) -> tuple[Argument, Argument]:
        """Return the arguments ``cursor, batch``."""
        return self.cursor_argument(), np.int64(self.number)

    def cursor_argument(self) -> Argument:
        """Return the argument ``cursor``."""
        return NULL if self.cursor is None else self.cursor


@dataclass(frozen=True, slots=True)
class Dropout:
    """What the masks of one hidden layer depend on, besides the batch; see fusedmlp.backend.

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
        return (
            self.steps,
            *batch.number_arguments(),
            np.uint32(self.layer),
            np.uint32(self.seed % 2**32),
            np.uint32(self.seed // 2**32),
            np.uint64(keep_threshold(self.rate)),
        )


@dataclass(frozen=True, slots=True)
class Targets:
    """What an output kernel compares with, and where its row sums go.

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


def gather_rows(program: Program, x: Inputs, batch: Batch, out: DeviceArray) -> None:
    """Out (B, D) = the batch's rows of x; see the NumPy twin."""
    B, D = out.shape
    tail = (*batch.row_arguments(), np.int32(B), np.int32(D), out)
    if isinstance(x, tuple):
        name = f"gather_rows_csr_{x[2].dtype.name}"
        program.launch(name, (B,), (THREADS,), (*x, *tail))
    else:
        program.launch(f"gather_rows_{x.dtype.name}", *_elements(B, D), (x, *tail))


def dropout_mask(program: Program, out: DeviceArray, batch: Batch, dropout: Dropout) -> None:
    """Out (B, H) uint8: 1 where the unit is kept. For comparing backends only."""
    B, H = out.shape
    args = (out, np.int32(B), np.int32(H), *dropout.arguments(batch))
    program.launch("dropout_mask", *_elements(B, _quads(H)), args)


def bias_activation(
    program: Program,
    z: DeviceArray,
    b: DeviceArray,
    activation: HiddenActivation,
    batch: Batch,
    dropout: Dropout | None,
) -> None:
    """Z (B, H) ← f(z + b), then the mask where there is dropout."""
    B, H = z.shape
    args = (z, b, np.int32(B), np.int32(H), np.int32(HIDDEN_ACTIVATIONS.index(activation)))
    if dropout is None:
        program.launch("bias_activation", *_elements(B, H), args)
    else:
        scale = z.dtype.type(1.0 / (1.0 - dropout.rate))
        args = (*args, *dropout.arguments(batch), scale)
        program.launch("bias_activation_dropout", *_elements(B, _quads(H)), args)


def hidden_delta(
    program: Program,
    delta: DeviceArray,
    a: DeviceArray,
    activation: HiddenActivation,
    batch: Batch,
    dropout: Dropout | None,
) -> None:
    """Delta (B, H) ← delta ⊙ f'(z) from a = f(z), behind the mask where there is dropout."""
    B, H = delta.shape
    args = (delta, a, np.int32(B), np.int32(H), np.int32(HIDDEN_ACTIVATIONS.index(activation)))
    if dropout is None:
        program.launch("hidden_delta", *_elements(B, H), args)
    else:
        real = delta.dtype.type
        scales = real(1.0 / (1.0 - dropout.rate)), real(1.0 - dropout.rate)
        args = (*args, *dropout.arguments(batch), *scales)
        program.launch("hidden_delta_dropout", *_elements(B, _quads(H)), args)


OUTPUT_KERNELS: Final[dict[str, str]] = {
    "softmax": "softmax_cross_entropy",
    "sigmoid": "sigmoid_cross_entropy",
    "identity": "squared_error",
    "exp": "poisson_deviance",
}


def output_delta(
    program: Program,
    z: DeviceArray,
    b: DeviceArray,
    output: Output,
    batch: Batch,
    targets: Targets,
) -> None:
    """Z (B, K), the product a·W, becomes the scaled delta; row losses go to ``targets``."""
    B, K = z.shape
    args = (
        z,
        b,
        targets.y,
        NULL if targets.w is None else targets.w,
        *batch.row_arguments(),
        np.int64(batch.number),
        np.int32(B),
        np.int32(K),
        np.int32(targets.mean),
        NULL if targets.weights is None else targets.weights,
        targets.losses,
        targets.correct,
    )
    program.launch(OUTPUT_KERNELS[output], *_row_blocks(B), args)


def output_activation(program: Program, z: DeviceArray, b: DeviceArray, output: Output) -> None:
    """Z (B, K), the product a·W, becomes the network's outputs."""
    B, K = z.shape
    args = (z, b, np.int32(B), np.int32(K), np.int32(OUTPUTS.index(output)))
    program.launch("output_activation", *_row_blocks(B), args)


def product(
    program: Program,
    a: DeviceArray,
    b: DeviceArray,
    out: DeviceArray,
    transposed: Transposed = "",
) -> None:
    """Out (m, n) = a (m, k) · b (k, n), in strict mode, where cuBLAS has no say.

    Parameters
    ----------
    transposed
        Which of the two, if any, is given as its transpose, in C order: ``a``, ``b`` or nothing.
    """
    m, n = out.shape
    k = b.shape[1] if transposed == "b" else b.shape[0]
    sizes = np.int32(m), np.int32(k), np.int32(n)
    args = (a, b, *sizes, np.int32(transposed == "a"), np.int32(transposed == "b"), out)
    program.launch("product", *_elements(m, n), args)


def bias_gradient(program: Program, delta: DeviceArray, db: DeviceArray) -> None:
    """Db (H,) = the sum of delta (B, H) over its rows."""
    B, H = delta.shape
    grid = (-(-H // COLUMN_LANES),)
    args = (delta, np.int32(B), np.int32(H), db)
    program.launch("bias_gradient", grid, (COLUMN_LANES, COLUMN_DEPTH), args)


def batch_weights(
    program: Program, w: DeviceArray, rows: DeviceArray | None, n: int, size: int, out: DeviceArray
) -> None:
    """Out (n_batches,) = Σ w over each batch of ``size`` of the call's n rows."""
    args = (w, NULL if rows is None else rows, np.int64(n), np.int32(size), out)
    program.launch("batch_weights", *_batches(n, size), args)


def batch_sums(program: Program, targets: Targets, n: int, size: int, out: DeviceArray) -> None:
    """Out (2, n_batches) = each batch's sums of the rows' losses and of correct."""
    args = (
        targets.losses,
        targets.correct,
        np.int64(n),
        np.int32(size),
        out[0:1],
        out[1:2],
    )
    program.launch("batch_sums", *_batches(n, size), args)


def advance_cursor(
    program: Program, cursor: DeviceArray, batches: int, rows: int, *, restart: bool = False
) -> None:
    """Count so many batches and rows on, from where the cursor is or from 0."""
    args = (cursor, np.int64(batches), np.int64(rows), np.int32(restart))
    program.launch("advance_cursor", (1,), (1,), args)


def l2_gradient(
    program: Program, gradient: DeviceArray, theta: DeviceArray, n_weights: int, l2: float
) -> None:
    """gradient[:n_weights] += l2·theta."""
    args = (gradient, theta, np.int64(n_weights), theta.dtype.type(l2))
    program.launch("l2_gradient", *_flat(n_weights), args)


def update(
    program: Program,
    name: str,
    arrays: tuple[DeviceArray, ...],
    n_weights: int,
    rates: DeviceArray,
    batch: Batch,
    constants: tuple[float, ...],
) -> None:
    """One optimizer step of kernel ``name`` on all parameters.

    Parameters
    ----------
    arrays
        theta, gradient and the optimizer's slots, each (n,).
    rates
        (n_batches, RATE_COLUMNS); the row of the batch's number is used.
    constants
        l2, then the optimizer's own.
    """
    (n,) = arrays[0].shape
    real = arrays[0].dtype.type
    sizes = np.int64(n), np.int64(n_weights)
    args = (*arrays, *sizes, rates, *batch.number_arguments(), *(real(c) for c in constants))
    program.launch(name, *_flat(n), args)


def _quads(width: int) -> int:
    return -(-width // 4)


def _elements(rows: int, columns: int) -> tuple[Geometry, Geometry]:
    """Give each row and each ``THREADS`` columns a block."""
    return (rows, min(-(-columns // THREADS), 65535)), (THREADS,)


def _row_blocks(rows: int) -> tuple[Geometry, Geometry]:
    return (-(-rows // ROWS_PER_BLOCK),), (ROW_LANES, ROWS_PER_BLOCK)


def _batches(n: int, size: int) -> tuple[Geometry, Geometry]:
    return (-(-n // size),), (SUM_THREADS,)


def _flat(n: int) -> tuple[Geometry, Geometry]:
    return (min(-(-n // THREADS), MAX_BLOCKS),), (THREADS,)
