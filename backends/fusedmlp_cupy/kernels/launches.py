"""How each kernel of kernels.cu, outputs.cu and updates.cu is launched: under the kernel's name.

The formulas are in formulas.cu and in :mod:`fusedmlp.reference`, whose functions of the same names
compute the same things. Functions here choose the grid. The strict program has the same
kernels with the same arguments. Shapes follow the legend in :mod:`fusedmlp.types`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.network import OUTPUTS
from fusedmlp.optimizers import UPDATE_FORMULAS
from fusedmlp_cupy.kernels.arguments import (
    COLUMN_DEPTH,
    COLUMN_LANES,
    NULL,
    ROW_LANES,
    ROWS_PER_BLOCK,
    SUM_THREADS,
    activation_index,
    optimizer_constants,
    or_null,
)

if TYPE_CHECKING:
    from fusedmlp.network import HiddenActivation, Output
    from fusedmlp_cupy.kernels.arguments import Batch, Dropout, Inputs, Targets
    from fusedmlp_cupy.runtime.types import Argument, DeviceArray, Geometry, Program, Transposed

THREADS: Final = 256
MAX_BLOCKS: Final = 4096
"""Most blocks of a flat launch; the loops stride over the rest."""

MAX_GRID_Y: Final = 65535
"""CUDA's limit of a grid's second dimension."""


def gather_rows(program: Program, x: Inputs, batch: Batch, out: DeviceArray) -> None:
    """Out (B, D) = the batch's rows of x."""
    B, D = out.shape
    tail = (*batch.row_arguments(), np.int32(B), np.int32(D), out)
    if isinstance(x, tuple):
        name = f"gather_rows_csr_{x[2].dtype.name}"
        program.launch(name, (B,), (THREADS,), (*x, *tail))
    else:
        program.launch(f"gather_rows_{x.dtype.name}", *_elements(B, D), (x, *tail))


def bias_activation(
    program: Program,
    z: DeviceArray,
    b: DeviceArray,
    activation: HiddenActivation,
    batch: Batch,
    dropout: Dropout | None,
    kept_z: DeviceArray | None = None,
) -> None:
    """Z (B, H) ← f(z + b), then the mask where there is dropout; ``kept_z`` ← z + b if given."""
    B, H = z.shape
    args = (z, b, or_null(kept_z), np.int32(B), np.int32(H), activation_index(activation))
    if dropout is None:
        program.launch("bias_activation", *_elements(B, H), args)
    else:
        masked = (*args, *dropout.arguments(batch), dropout.scales(z.dtype, activation)[0])
        program.launch("bias_activation_dropout", *_elements(B, _quads(H)), masked)


def hidden_delta(
    program: Program,
    delta: DeviceArray,
    saved: DeviceArray,
    activation: HiddenActivation,
    batch: Batch,
    dropout: Dropout | None,
) -> None:
    """Delta (B, H) ← delta ⊙ f'(z), behind the mask where there is dropout.

    ``saved`` (B, H) is z for the activations in :data:`fusedmlp.network.DERIVATIVE_NEEDS_Z`, and
    a = f(z), behind the mask, for the others.
    """
    B, H = delta.shape
    args = (delta, saved, np.int32(B), np.int32(H), activation_index(activation))
    if dropout is None:
        program.launch("hidden_delta", *_elements(B, H), args)
    else:
        masked = (*args, *dropout.arguments(batch), *dropout.scales(delta.dtype, activation))
        program.launch("hidden_delta_dropout", *_elements(B, _quads(H)), masked)


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
        or_null(targets.w),
        *batch.row_arguments(),
        np.int64(batch.number),
        np.int32(B),
        np.int32(K),
        *targets.objective_arguments(),
    )
    program.launch(OUTPUT_KERNELS[output], *_row_blocks(program, B), args)


def output_activation(program: Program, z: DeviceArray, b: DeviceArray, output: Output) -> None:
    """Z (B, K), the product a·W, becomes the network's outputs."""
    B, K = z.shape
    args = (z, b, np.int32(B), np.int32(K), np.int32(OUTPUTS.index(output)))
    program.launch("output_activation", *_row_blocks(program, B), args)


def strict_product(
    program: Program,
    a: DeviceArray,
    b: DeviceArray,
    out: DeviceArray,
    transposed: Transposed = "",
) -> None:
    """Out (m, n) = a (m, k) · b (k, n) in strict mode's order of sums.

    Parameters
    ----------
    transposed
        Operand, if any, that is given as its transpose in C order: ``a``, ``b`` or nothing.
    """
    m, n = out.shape
    k = b.shape[1] if transposed == "b" else b.shape[0]
    sizes = np.int32(m), np.int32(k), np.int32(n)
    args = (a, b, *sizes, np.int32(transposed == "a"), np.int32(transposed == "b"), out)
    program.launch("product", *_elements(m, n), args)


def bias_gradient(program: Program, delta: DeviceArray, db: DeviceArray) -> None:
    """Db (H,) = the sum of delta (B, H) over its rows."""
    B, H = delta.shape
    block = (COLUMN_LANES, 1 if program.strict else COLUMN_DEPTH)
    args = (delta, np.int32(B), np.int32(H), db)
    program.launch("bias_gradient", (-(-H // COLUMN_LANES),), block, args)


def batch_weights(
    program: Program, w: DeviceArray, rows: DeviceArray | None, n: int, size: int, out: DeviceArray
) -> None:
    """Out (n_batches,) = Σ w over each batch of ``size`` of the call's n rows."""
    args = (w, or_null(rows), np.int64(n), np.int32(size), out)
    program.launch("batch_weights", *_batches(program, n, size), args)


def batch_sums(program: Program, targets: Targets, n: int, size: int, out: DeviceArray) -> None:
    """out[:2] (2, n_batches) = each batch's sums of the rows' losses and of correct."""
    sums = out[0:1], out[1:2]
    args = (targets.losses, targets.correct, np.int64(n), np.int32(size), *sums)
    program.launch("batch_sums", *_batches(program, n, size), args)


def weight_squares(
    program: Program, W: DeviceArray, batch: Batch, at: int, out: DeviceArray
) -> None:
    """out[batch, at : at + D] = Σ w² of each row of W (D, H); out is (n_batches, rows)."""
    D, H = W.shape
    place = *batch.number_arguments(), np.int64(at), np.int64(out.shape[1])
    args = (W, np.int32(D), np.int32(H), *place, out)
    program.launch("weight_squares", *_row_blocks(program, D), args)


def sum_squares(program: Program, squares: DeviceArray, out: DeviceArray) -> None:
    """Out (1, n_batches) = the sums of the lines of ``squares`` (n_batches, rows)."""
    n_batches, rows = squares.shape
    n = n_batches * rows
    # The kernel sums two arrays: here the same one twice, into one place.
    args = (squares, squares, np.int64(n), np.int32(rows), out, out)
    program.launch("batch_sums", *_batches(program, n, rows), args)


def advance_cursor(
    program: Program, cursor: DeviceArray, batches: int, rows: int, *, restart: bool = False
) -> None:
    """Add batches and rows to the cursor, or set it to them."""
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
    """One optimizer step by formula ``name`` on all parameters.

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
    padded: tuple[Argument, ...] = (*arrays, NULL, NULL)
    args = (
        np.int32(UPDATE_FORMULAS.index(name)),
        *padded[:4],
        *sizes,
        rates,
        *batch.number_arguments(),
        *optimizer_constants(constants, real),
    )
    program.launch("update", *_flat(n), args)


def _quads(width: int) -> int:
    return -(-width // 4)


def _elements(rows: int, columns: int) -> tuple[Geometry, Geometry]:
    """Give each row and each ``THREADS`` columns a block."""
    return (rows, min(-(-columns // THREADS), MAX_GRID_Y)), (THREADS,)


def _row_blocks(program: Program, rows: int) -> tuple[Geometry, Geometry]:
    lanes = 1 if program.strict else ROW_LANES
    return (-(-rows // ROWS_PER_BLOCK),), (lanes, ROWS_PER_BLOCK)


def _batches(program: Program, n: int, size: int) -> tuple[Geometry, Geometry]:
    return (-(-n // size),), (1 if program.strict else SUM_THREADS,)


def _flat(n: int) -> tuple[Geometry, Geometry]:
    return (min(-(-n // THREADS), MAX_BLOCKS),), (THREADS,)
