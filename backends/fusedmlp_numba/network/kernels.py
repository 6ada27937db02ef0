"""The formulas of single operations, compiled: each the twin of the NumPy kernel of its name.

The specification is ``fusedmlp_numpy.kernels``; a test compares every pair. Here are those of the
inputs and the hidden layers; outputs.py, dropout.py and updates.py have the rest. Differences in
form: activations, outputs and optimizers are numbers (their place in the contract's tuples), since
compiled code would be built anew for each string; and elementwise kernels take a range of columns,
so that threads can share a batch without any sum depending on how it was cut. Ranges are whole
panels, which are the vectors of lanes.py, so that every element is computed by the same
instructions wherever it lies. Products are in products.py, whole steps in steps.py.

No fastmath: ``nnan`` and ``ninf`` would lose the NaN that tells the trainer to stop, ``arcp``
makes x / 255 differ from NumPy's, ``reassoc`` and ``contract`` round as the compiler likes. Where
a fused multiply-add pays, it is written out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp.network import HIDDEN_ACTIVATIONS
from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.constants import PIXEL_MAX
from fusedmlp_numba.network.dropout import dropout_mask, philox4x32
from fusedmlp_numba.network.outputs import (
    EXP_OUTPUT,
    SIGMOID_OUTPUT,
    SOFTMAX_OUTPUT,
    output_activation,
    poisson_deviance,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    squared_error,
)
from fusedmlp_numba.network.updates import adam, momentum, nesterov, sgd
from fusedmlp_numba.simd.dtype_dispatch import read_elements
from fusedmlp_numba.simd.elementary import exp, tanh
from fusedmlp_numba.simd.intrinsics import cast_like
from fusedmlp_numba.simd.vectors import (
    Vector,
    broadcast,
    inline_kernel,
    lane_count,
    load,
    load_as,
    select,
    store,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fusedmlp.types import FloatArray, IntArray

__all__ = [
    "EXP_OUTPUT",
    "RELU",
    "SIGMOID",
    "SIGMOID_OUTPUT",
    "SOFTMAX_OUTPUT",
    "TANH",
    "adam",
    "bias_activation",
    "column_sums",
    "dropout_mask",
    "gather_rows",
    "hidden_delta",
    "momentum",
    "nesterov",
    "output_activation",
    "philox4x32",
    "poisson_deviance",
    "sgd",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "squared_error",
]

SIGMOID: Final = HIDDEN_ACTIVATIONS.index("sigmoid")
TANH: Final = HIDDEN_ACTIVATIONS.index("tanh")
RELU: Final = HIDDEN_ACTIVATIONS.index("relu")

SUMMED_ROWS: Final = 16
"""Rows that :func:`column_sums` walks along together: few enough for the processor to foresee,
enough to seldom visit the sums in memory."""


@kernel
def gather_rows(
    stored: npt.NDArray[np.uint8], element: int, D: int, rows: IntArray, out: FloatArray
) -> None:
    """Out = x[rows] in out's dtype; pixels become x / 255.

    Parameters
    ----------
    stored
        The memory of x (N, D), whose elements are of type ``element`` of sizes.py.
    rows
        (B,) row numbers.
    out
        (B, ≥ D).
    """
    width, most = out.shape[1], cast_like(PIXEL_MAX, out)
    for i in range(len(rows)):
        read_elements(out, i * width, stored, element, rows[i] * D, D, most)


@inline_kernel
def activate(z: Vector, activation: int) -> Vector:
    """f(z). sigmoid: 1 / (1 + e⁻ᶻ), where e⁻ᶻ = ∞ rightly gives 0; tanh; relu: max(z, 0)."""
    zero = cast_like(0.0, z)
    if activation == SIGMOID:
        return 1.0 / (exp(zero - z) + 1.0)
    if activation == TANH:
        return tanh(z)
    if activation == RELU:
        # Written so that NaN, which is not below 0, stays NaN.
        return select(z < zero, zero, z)
    return z


@inline_kernel
def multiply_derivative(delta: Vector, f: Vector, activation: int) -> Vector:
    """Delta ⊙ f'(z) from f(z). sigmoid: f·(1 − f); tanh: 1 − f²; relu: 1 where f > 0."""
    if activation == SIGMOID:
        return delta * f * (1.0 - f)
    if activation == TANH:
        return delta * (1.0 - f * f)
    if activation == RELU:
        # A product and not a choice: NaN·0 is NaN, as in the specification.
        zero = cast_like(0.0, f)
        return delta * select(f > zero, cast_like(1.0, f), zero)
    return delta


@kernel
def bias_activation(z: FloatArray, b: FloatArray, activation: int, first: int, last: int) -> None:
    """Z ← f(z + b), in place, in columns first to last.

    Parameters
    ----------
    z
        (B, width), the product a·W; becomes the activation.
    b
        (width,).
    """
    width, lanes = z.shape[1], lane_count(z)
    for i in range(len(z)):
        for j in range(first, last, lanes):
            at = i * width + j
            store(z, at, activate(load(z, at) + load(b, j), activation))


@kernel
def hidden_delta(
    delta: FloatArray,
    a: FloatArray,
    kept: npt.NDArray[np.uint8],
    activation: int,
    keep: float,
    first: int,
    last: int,
) -> None:
    """Delta ← delta ⊙ kept / keep ⊙ f'(z), in place, f' from the activation's value f(z) = a·keep.

    Parameters
    ----------
    delta
        (B, ·), the next layer's delta times Wᵀ; its rows may lie closer than those of a.
    a
        (B, width), the activation, which dropout has divided by ``keep`` = 1 − dropout.
    kept
        (B, width), the dropout mask; not read where ``keep`` is 1.
    """
    row, width, lanes = delta.shape[1], a.shape[1], lane_count(delta)
    for i in range(len(delta)):
        for j in range(first, last, lanes):
            here, at = i * row + j, i * width + j
            d, f = load(delta, here), load(a, at)
            if keep < 1.0:
                d = d * load_as(kept, at, d) * (1.0 / keep)
                f = f * keep
            store(delta, here, multiply_derivative(d, f, activation))


@kernel
def column_sums(delta: FloatArray, out: FloatArray, first: int, last: int) -> None:
    """Out = 1ᵀ·delta in columns first to last, summed in the order of the rows.

    Parameters
    ----------
    delta
        (B, width).
    out
        (width,).
    """
    B, width, lanes = len(delta), delta.shape[1], lane_count(delta)
    for i in range(0, B, SUMMED_ROWS):
        for j in range(first, last, lanes):
            total = load(out, j) if i > 0 else broadcast(cast_like(0.0, delta))
            for row in range(i, min(i + SUMMED_ROWS, B)):
                total = total + load(delta, row * width + j)
            store(out, j, total)
