"""The optimizers' update formulas on a range of the flat parameters.

Twins of the functions of the same names in ``fusedmlp.reference``; formulas in
:mod:`fusedmlp.optimizers`. A range is whole vectors. Every array passes through memory once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from fusedmlp.optimizers import UPDATE_FORMULAS
from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.simd.intrinsics import cast_like
from fusedmlp_numba.simd.vector_memory import load, store
from fusedmlp_numba.simd.vectors import fma, lane_count, select, sqrt
from fusedmlp_numba.simd.views import floats_at, unchecked_slice

if TYPE_CHECKING:
    from fusedmlp.types import Float64Vector, FloatArray
    from fusedmlp_numba.network.batches import Step
    from fusedmlp_numba.records import EngineContext

SGD, MOMENTUM, NESTEROV, ADAM, LION = range(len(UPDATE_FORMULAS))


class MomentStep(NamedTuple):
    """Settings of Adam or Lion in one step.

    ``corrections`` are Adam's 1 − β₁ᵗ, 1 − β₂ᵗ and ε.
    """

    lr: float
    beta1: float
    beta2: float
    decay: float
    corrections: Float64Vector


@kernel
def sgd(theta: FloatArray, gradient: FloatArray, lr: float) -> None:
    """θ ← θ − lr·g."""
    for i in range(0, len(theta), lane_count(theta)):
        store(theta, i, fma(load(gradient, i), -lr, load(theta, i)))


@kernel
def momentum(
    theta: FloatArray, gradient: FloatArray, velocity: FloatArray, lr: float, mu: float
) -> None:
    """V ← μ·v − lr·g; θ ← θ + v."""
    for i in range(0, len(theta), lane_count(theta)):
        v = fma(load(velocity, i), mu, load(gradient, i) * -lr)
        store(velocity, i, v)
        store(theta, i, load(theta, i) + v)


@kernel
def nesterov(
    theta: FloatArray, gradient: FloatArray, velocity: FloatArray, lr: float, mu: float
) -> None:
    """V ← μ·v − lr·g; θ ← θ + μ·v − lr·g."""
    for i in range(0, len(theta), lane_count(theta)):
        step = load(gradient, i) * -lr
        v = fma(load(velocity, i), mu, step)
        store(velocity, i, v)
        store(theta, i, fma(v, mu, load(theta, i) + step))


@kernel
def adam(
    theta: FloatArray,
    gradient: FloatArray,
    first_moment: FloatArray,
    second_moment: FloatArray,
    step: MomentStep,
) -> None:
    """One Adam step, after θ ← θ − lr·decay·θ.

    √(v / c₂) is √v·(1 / √c₂): a product costs less than a division.
    """
    corrections, beta1, beta2 = step.corrections, step.beta1, step.beta2
    root, eps = 1.0 / math.sqrt(corrections[1]), corrections[2]
    rate, kept = -step.lr / corrections[0], 1.0 - step.lr * step.decay
    for i in range(0, len(theta), lane_count(theta)):
        g = load(gradient, i)
        m = fma(load(first_moment, i), beta1, g * (1.0 - beta1))
        v = fma(load(second_moment, i), beta2, g * g * (1.0 - beta2))
        store(first_moment, i, m)
        store(second_moment, i, v)
        change = m / fma(sqrt(v), root, eps)
        store(theta, i, fma(change, rate, load(theta, i) * kept))


@kernel
def lion(theta: FloatArray, gradient: FloatArray, momentum: FloatArray, step: MomentStep) -> None:
    """θ ← θ − lr·(sign(β₁·m + (1 − β₁)·g) + λ·θ); m ← β₂·m + (1 − β₂)·g."""
    beta1, beta2, kept = step.beta1, step.beta2, 1.0 - step.lr * step.decay
    for i in range(0, len(theta), lane_count(theta)):
        m, g = load(momentum, i), load(gradient, i)
        direction = fma(m, beta1, g * (1.0 - beta1))
        zero, one = cast_like(0.0, g), cast_like(1.0, g)
        # NaN stays NaN, and 0 stays 0.
        sign = select(direction < zero, zero - one, direction)
        sign = select(direction > zero, one, sign)
        store(theta, i, fma(sign, -step.lr, load(theta, i) * kept))
        store(momentum, i, fma(m, beta2, g * (1.0 - beta2)))


@kernel
def update(context: EngineContext, start: int, stop: int, step: Step, decay: float) -> None:
    """Take one optimizer step with a range of the flat parameters."""
    addresses, settings = context.parameters, context.settings
    theta = unchecked_slice(floats_at(context, addresses.theta), start, stop)
    gradient = unchecked_slice(floats_at(context, addresses.gradient), start, stop)
    if settings.optimizer == SGD:
        sgd(theta, gradient, step.lr)
        return
    first = unchecked_slice(floats_at(context, addresses.first_slot), start, stop)
    if settings.optimizer == MOMENTUM:
        momentum(theta, gradient, first, step.lr, settings.momentum)
    elif settings.optimizer == NESTEROV:
        nesterov(theta, gradient, first, step.lr, settings.momentum)
    else:
        moments = MomentStep(step.lr, settings.beta1, settings.beta2, decay, step.corrections)
        if settings.optimizer == ADAM:
            second = unchecked_slice(floats_at(context, addresses.second_slot), start, stop)
            adam(theta, gradient, first, second, moments)
        else:
            lion(theta, gradient, first, moments)
