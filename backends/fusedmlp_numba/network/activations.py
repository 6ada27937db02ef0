"""Hidden activations and their derivatives, stated once, and the kernels that apply them.

Twins of the kernels of the same names in ``fusedmlp_numpy.kernels``, which specify them. An
activation is its position in HIDDEN_ACTIVATIONS: a string would compile everything once for each.
Kernels take a range of columns of whole vectors, so that workers can share a batch, and every
element is computed by the same instructions wherever it lies.

No fastmath: ``nnan`` and ``ninf`` would lose the NaN that tells the trainer to stop, ``arcp``
makes x / 255 differ from NumPy's, ``reassoc`` and ``contract`` round as the compiler likes. Where
a fused multiply-add pays, it is written out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp.network import HIDDEN_ACTIVATIONS
from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.simd.elementary import exp, tanh
from fusedmlp_numba.simd.intrinsics import cast_like
from fusedmlp_numba.simd.vector_memory import load, load_as, store
from fusedmlp_numba.simd.vectors import Vector, inline_kernel, lane_count, select

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fusedmlp.types import FloatArray

SIGMOID: Final = HIDDEN_ACTIVATIONS.index("sigmoid")
TANH: Final = HIDDEN_ACTIVATIONS.index("tanh")
RELU: Final = HIDDEN_ACTIVATIONS.index("relu")


@inline_kernel
def activate(z: Vector, activation: int) -> Vector:
    """f(z). sigmoid: 1 / (1 + e⁻ᶻ), which is 0 where e⁻ᶻ = ∞; tanh; relu: max(z, 0)."""
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
        # A product and not a selection: NaN·0 is NaN, as specified.
        zero = cast_like(0.0, f)
        return delta * select(f > zero, cast_like(1.0, f), zero)
    return delta


@kernel
def bias_activation(
    z: FloatArray, b: FloatArray, activation: int, columns: tuple[int, int]
) -> None:
    """Z ← f(z + b), in place, in a range of columns.

    Parameters
    ----------
    z
        (B, width), the product a·W; becomes the activation.
    b
        (width,).
    """
    width, lanes = z.shape[1], lane_count(z)
    for i in range(len(z)):
        for j in range(columns[0], columns[1], lanes):
            at = i * width + j
            store(z, at, activate(load(z, at) + load(b, j), activation))


@kernel
def hidden_delta(
    delta: FloatArray,
    a: FloatArray,
    kept: npt.NDArray[np.uint8],
    activation: int,
    keep: float,
    columns: tuple[int, int],
) -> None:
    """Delta ← delta ⊙ kept / keep ⊙ f'(z), in place, in a range of columns.

    The derivative follows from the activation's value f(z) = a·keep.

    Parameters
    ----------
    delta
        (B, ·), the next layer's delta times Wᵀ; its rows may be shorter than those of a.
    a
        (B, width), the activation, which dropout has divided by ``keep`` = 1 − dropout.
    kept
        (B, width), the dropout mask; not read where ``keep`` is 1.
    """
    delta_width, width, lanes = delta.shape[1], a.shape[1], lane_count(delta)
    for i in range(len(delta)):
        for j in range(columns[0], columns[1], lanes):
            here, at = i * delta_width + j, i * width + j
            d, f = load(delta, here), load(a, at)
            if keep < 1.0:
                d = d * load_as(kept, at, d) * (1.0 / keep)
                f = f * keep
            store(delta, here, multiply_derivative(d, f, activation))
