"""The hidden activations: value and derivative of each, all in place.

``f(ops, z)`` replaces z (B, H) by a = f(z). ``f_delta(ops, delta, saved)`` multiplies delta (B, H)
by f'(z). ``saved`` is a, or z for the activations in
:data:`fusedmlp.network.DERIVATIVE_NEEDS_Z`; it serves as work space, so its contents are lost.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from fusedmlp.network import LEAKY_RELU_SLOPE

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.network import HiddenActivation
    from fusedmlp.reference.operations import Operations
    from fusedmlp.types import FloatArray


class Activation(NamedTuple):
    """The value and the derivative of an activation; see the head of this file."""

    value: Callable[[Operations, FloatArray], None]
    delta: Callable[[Operations, FloatArray, FloatArray], None]


def sigmoid(ops: Operations, z: FloatArray) -> None:
    """Compute σ(z) = 1 / (1 + e⁻ᶻ)."""
    ops.sigmoid(z, out=z)


def sigmoid_delta(ops: Operations, delta: FloatArray, a: FloatArray) -> None:
    """Multiply by f' = a·(1 − a)."""
    delta *= a
    np.subtract(1, a, out=a)
    delta *= a


def tanh(ops: Operations, z: FloatArray) -> None:
    """Compute tanh z."""
    ops.tanh(z, out=z)


def tanh_delta(ops: Operations, delta: FloatArray, a: FloatArray) -> None:
    """Multiply by f' = 1 − a²."""
    np.multiply(a, a, out=a)
    np.subtract(1, a, out=a)
    delta *= a


def relu(ops: Operations, z: FloatArray) -> None:
    """Compute max(z, 0)."""
    ops.relu(z, out=z)


def relu_delta(ops: Operations, delta: FloatArray, a: FloatArray) -> None:
    """Multiply by f' = 1 where a > 0, else 0."""
    delta *= a > 0


def identity(ops: Operations, z: FloatArray) -> None:
    """Leave z unchanged."""


def identity_delta(ops: Operations, delta: FloatArray, a: FloatArray) -> None:
    """Multiply by f' = 1."""


def leaky_relu(ops: Operations, z: FloatArray) -> None:
    """Compute z where z > 0, else 0.01·z (Maas et al., 2013)."""
    np.copyto(z, z * LEAKY_RELU_SLOPE, where=~(z > 0))


def leaky_relu_delta(ops: Operations, delta: FloatArray, a: FloatArray) -> None:
    """Multiply by f' = 1 where a > 0, else 0.01."""
    np.copyto(delta, delta * LEAKY_RELU_SLOPE, where=~(a > 0))


def elu(ops: Operations, z: FloatArray) -> None:
    """Compute z where z > 0, else eᶻ − 1 (Clevert et al., 2016)."""
    np.copyto(z, ops.expm1(np.where(z < 0, z, 0)), where=z < 0)


def elu_delta(ops: Operations, delta: FloatArray, a: FloatArray) -> None:
    """Multiply by f' = 1 where a > 0, else a + 1."""
    np.copyto(delta, delta * (a + 1), where=~(a > 0))


def gelu(ops: Operations, z: FloatArray) -> None:
    """z·Φ(z), Φ(z) = ½·(1 + erf(z/√2)): exact, not by tanh (Hendrycks and Gimpel, 2016)."""
    z *= ops.normal_cdf(z)


def gelu_delta(ops: Operations, delta: FloatArray, z: FloatArray) -> None:
    """Multiply by f' = Φ(z) + z·φ(z), φ(z) = e^(−z²/2) / √(2π)."""
    density = ops.exp(z * z * -0.5) * (1.0 / math.sqrt(2.0 * math.pi))
    delta *= ops.normal_cdf(z) + z * density


def silu(ops: Operations, z: FloatArray) -> None:
    """z·σ(z), also called swish (Elfwing et al., 2018)."""
    probability = np.empty_like(z)
    ops.sigmoid(z, out=probability)
    z *= probability


def silu_delta(ops: Operations, delta: FloatArray, z: FloatArray) -> None:
    """Multiply by f' = σ(z)·(1 + z·(1 − σ(z)))."""
    probability = np.empty_like(z)
    ops.sigmoid(z, out=probability)
    delta *= probability * (1 + z * (1 - probability))


ACTIVATIONS: Final[dict[HiddenActivation, Activation]] = {
    "sigmoid": Activation(sigmoid, sigmoid_delta),
    "tanh": Activation(tanh, tanh_delta),
    "relu": Activation(relu, relu_delta),
    "identity": Activation(identity, identity_delta),
    "leaky_relu": Activation(leaky_relu, leaky_relu_delta),
    "elu": Activation(elu, elu_delta),
    "gelu": Activation(gelu, gelu_delta),
    "silu": Activation(silu, silu_delta),
}


def bias_activation(
    ops: Operations,
    z: FloatArray,
    b: FloatArray,
    activation: HiddenActivation,
    keep: FloatArray | None = None,
) -> None:
    """Z ← f(z + b), in place.

    Parameters
    ----------
    z
        (B, H), the product a·W; becomes the activation.
    b
        (H,).
    keep
        (B, H), receives z + b for the derivative; None if the derivative needs only a.
    """
    z += b
    if keep is not None:
        keep[...] = z
    ACTIVATIONS[activation].value(ops, z)


def hidden_delta(
    ops: Operations, delta: FloatArray, saved: FloatArray, activation: HiddenActivation
) -> None:
    """Delta ← delta ⊙ f'(z), in place.

    Parameters
    ----------
    delta
        (B, H), the next layer's delta times Wᵀ.
    saved
        (B, H), a or z, see the head of this file; its contents are lost.
    """
    ACTIVATIONS[activation].delta(ops, delta, saved)
