"""Hidden activations and their derivatives, stated once, and the kernels that apply them.

Twins of the functions of the same names in ``fusedmlp.reference``, which specify them. An
activation is its position in HIDDEN_ACTIVATIONS: a string would compile everything once for each.
Kernels take a range of columns of whole vectors, so that workers can share a batch, and every
element is computed by the same instructions wherever it lies.

Most derivatives follow from the value a = f(z). Those of gelu and silu need z: the forward pass
then writes f'(z) beside a, the *slope*, because both have their costly terms in common.

No fastmath: ``nnan`` and ``ninf`` would lose the NaN that tells the trainer to stop, ``arcp``
makes x / 255 differ from NumPy's, ``reassoc`` and ``contract`` round as the compiler likes. Where
a fused multiply-add pays, it is written out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from fusedmlp.network import HIDDEN_ACTIVATIONS, LEAKY_RELU_SLOPE
from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.simd.elementary import TANH_IS_ONE, exp, expm1, normal_cdf, tanh
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
LEAKY_RELU: Final = HIDDEN_ACTIVATIONS.index("leaky_relu")
ELU: Final = HIDDEN_ACTIVATIONS.index("elu")
GELU: Final = HIDDEN_ACTIVATIONS.index("gelu")
SILU: Final = HIDDEN_ACTIVATIONS.index("silu")

INVERSE_ROOT_2_PI: Final = 1.0 / math.sqrt(2.0 * math.pi)


@inline_kernel
def activate(z: Vector, activation: int) -> Vector:
    """f(z). sigmoid: 1 / (1 + e⁻ᶻ), which is 0 where e⁻ᶻ = ∞; tanh; relu: max(z, 0); leaky_relu.

    elu: z, and eᶻ − 1 below 0; gelu: z·Φ(z); silu: z·σ(z).
    """
    zero = cast_like(0.0, z)
    if activation == SIGMOID:
        return 1.0 / (exp(zero - z) + 1.0)
    if activation == TANH:
        return tanh(z)
    if activation == RELU:
        # Written so that NaN, which is not below 0, stays NaN.
        return select(z < zero, zero, z)
    if activation == LEAKY_RELU:
        return select(z > zero, z, z * LEAKY_RELU_SLOPE)
    if activation == ELU:
        lowest = cast_like(-TANH_IS_ONE, z)
        return select(z < zero, expm1(select(z < lowest, lowest, z)), z)
    if activation == GELU:
        return z * normal_cdf(z, exp(z * z * -0.5))
    if activation == SILU:
        return z / (exp(zero - z) + 1.0)
    return z


@inline_kernel
def slope_from_z(z: Vector, activation: int) -> Vector:
    """f'(z). gelu: Φ(z) + z·φ(z), φ(z) = e^(−z²/2) / √(2π); silu: σ·(1 + z·(1 − σ))."""
    if activation == GELU:
        power = exp(z * z * -0.5)
        return normal_cdf(z, power) + z * power * INVERSE_ROOT_2_PI
    probability = 1.0 / (exp(cast_like(0.0, z) - z) + 1.0)
    return probability * (z * (1.0 - probability) + 1.0)


@kernel
def saves_slope(activation: int) -> bool:
    """Whether the derivative needs z: then the forward pass of training writes the slope."""
    if activation == GELU:
        return True
    return activation == SILU


@inline_kernel
def multiply_derivative(delta: Vector, f: Vector, activation: int) -> Vector:
    """Delta ⊙ f'(z) from f(z), or from the slope, which is f'(z).

    sigmoid: f·(1 − f); tanh: 1 − f²; relu: 1 where f > 0; leaky_relu likewise, else 0.01; elu: 1
    where f > 0, else f + 1.
    """
    if activation == SIGMOID:
        return delta * f * (1.0 - f)
    if activation == TANH:
        return delta * (1.0 - f * f)
    if activation == RELU:
        # A product and not a selection: NaN·0 is NaN, as specified.
        zero = cast_like(0.0, f)
        return delta * select(f > zero, cast_like(1.0, f), zero)
    if activation == LEAKY_RELU:
        one, zero = cast_like(1.0, f), cast_like(0.0, f)
        return delta * select(f > zero, one, cast_like(LEAKY_RELU_SLOPE, f))
    if activation == ELU:
        one, zero = cast_like(1.0, f), cast_like(0.0, f)
        return delta * select(f > zero, one, f + one)
    if saves_slope(activation):
        return delta * f
    return delta


@kernel
def bias_activation(
    z: FloatArray, b: FloatArray, slope: FloatArray, activation: int, columns: tuple[int, int]
) -> None:
    """Z ← f(z + b), in place, in a range of columns.

    Parameters
    ----------
    z
        (B, width), the product a·W; becomes the activation.
    b
        (width,).
    slope
        (B, width), receives f'(z + b) where :func:`saves_slope`; or (0, width), which receives
        nothing.
    """
    width, lanes = z.shape[1], lane_count(z)
    if len(slope) > 0 and saves_slope(activation):
        for i in range(len(z)):
            for j in range(columns[0], columns[1], lanes):
                at = i * width + j
                store(slope, at, slope_from_z(load(z, at) + load(b, j), activation))
    for i in range(len(z)):
        for j in range(columns[0], columns[1], lanes):
            at = i * width + j
            store(z, at, activate(load(z, at) + load(b, j), activation))


@kernel
def hidden_delta(
    delta: FloatArray,
    saved: FloatArray,
    kept: npt.NDArray[np.uint8],
    activation: int,
    keep: float,
    columns: tuple[int, int],
) -> None:
    """Delta ← delta ⊙ kept / keep ⊙ f'(z), in place, in a range of columns.

    The derivative follows from the activation's value f(z) = a·keep, or is the saved slope.

    Parameters
    ----------
    delta
        (B, ·), the next layer's delta times Wᵀ; its rows may be shorter than those of ``saved``.
    saved
        (B, width), the slope where :func:`saves_slope`; else the activation, which dropout has
        divided by ``keep`` = 1 − dropout.
    kept
        (B, width), the dropout mask; not read where ``keep`` is 1.
    """
    delta_width, width, lanes = delta.shape[1], saved.shape[1], lane_count(delta)
    unscaled = 1.0 if saves_slope(activation) else keep
    for i in range(len(delta)):
        for j in range(columns[0], columns[1], lanes):
            here, at = i * delta_width + j, i * width + j
            d, f = load(delta, here), load(saved, at)
            if keep < 1.0:
                d = d * load_as(kept, at, d) * (1.0 / keep)
                f = f * unscaled
            store(delta, here, multiply_derivative(d, f, activation))
