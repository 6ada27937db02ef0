"""One optimizer step on one array; the formulas are listed in :mod:`fusedmlp.optimizers`.

Arrays are updated in place. The gradient serves as work space, so its contents are lost. Scalars of
a step are computed in float64 and rounded to the dtype of the arrays when combined with one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fusedmlp.optimizers import SGD, Adam

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedmlp.optimizers import Optimizer
    from fusedmlp.types import FloatArray


class Arrays(NamedTuple):
    """A weight or bias array with its gradient, state and work space, all of one shape.

    Parameters
    ----------
    theta, gradient
        θ and g.
    slots
        One array for each of the optimizer's ``slots``.
    scratch
        Work space.
    """

    theta: FloatArray
    gradient: FloatArray
    slots: Sequence[FloatArray]
    scratch: FloatArray


class AdamStep(NamedTuple):
    """The scalars of one step of Adam.

    Parameters
    ----------
    beta1, beta2, eps
        β₁, β₂ and this step's ε.
    corrections
        1 − β₁ᵗ and 1 − β₂ᵗ.
    decay
        λ of AdamW; 0 for biases.
    """

    beta1: float
    beta2: float
    eps: float
    corrections: tuple[float, float]
    decay: float


class LionStep(NamedTuple):
    """The scalars of one step of Lion: β₁, β₂, and λ, which is 0 for biases."""

    beta1: float
    beta2: float
    decay: float


def take_step(optimizer: Optimizer, arrays: Arrays, lr: float, step: int) -> None:
    """Update an array's values and its optimizer state.

    Parameters
    ----------
    lr
        The learning rate of this step.
    step
        Number of steps taken before.
    """
    if isinstance(optimizer, SGD):
        if not optimizer.momentum:
            sgd(arrays, lr)
        elif optimizer.nesterov:
            nesterov(arrays, lr, optimizer.momentum)
        else:
            momentum(arrays, lr, optimizer.momentum)
        return
    decay = optimizer.weight_decay if arrays.theta.ndim == 2 else 0.0  # biases (H,) do not decay
    if isinstance(optimizer, Adam):
        c1, c2 = optimizer.bias_corrections(step, 1)[0].tolist()
        (eps,) = optimizer.epsilons(step, 1).tolist()
        adam(arrays, lr, AdamStep(optimizer.beta1, optimizer.beta2, eps, (c1, c2), decay))
    else:
        lion(arrays, lr, LionStep(optimizer.beta1, optimizer.beta2, decay))


def sgd(arrays: Arrays, lr: float) -> None:
    """θ ← θ − lr·g."""
    theta, gradient = arrays.theta, arrays.gradient
    if lr != 1.0:
        gradient *= lr
    theta -= gradient


def momentum(arrays: Arrays, lr: float, mu: float) -> None:
    """V ← μ·v − lr·g; θ ← θ + v."""
    theta, gradient, (velocity,) = arrays.theta, arrays.gradient, arrays.slots
    gradient *= lr
    velocity *= mu
    velocity -= gradient
    theta += velocity


def nesterov(arrays: Arrays, lr: float, mu: float) -> None:
    """V ← μ·v − lr·g; θ ← θ − lr·g + μ·v."""
    theta, gradient, (velocity,) = arrays.theta, arrays.gradient, arrays.slots
    gradient *= lr
    velocity *= mu
    velocity -= gradient
    theta -= gradient
    np.multiply(velocity, mu, out=gradient)
    theta += gradient


def adam(arrays: Arrays, lr: float, step: AdamStep) -> None:
    """θ ← θ − lr·λ·θ; m ← β₁·m + (1 − β₁)·g; v ← β₂·v + (1 − β₂)·g²; then Adam's θ."""
    theta, gradient, (m, v), scratch = arrays
    _decay(theta, lr * step.decay)
    np.multiply(gradient, 1.0 - step.beta1, out=scratch)
    m *= step.beta1
    m += scratch
    np.multiply(gradient, gradient, out=gradient)
    gradient *= 1.0 - step.beta2
    v *= step.beta2
    v += gradient
    np.divide(v, step.corrections[1], out=scratch)
    np.sqrt(scratch, out=scratch)
    scratch += step.eps
    np.divide(m, scratch, out=scratch)
    scratch *= lr / step.corrections[0]
    theta -= scratch


def lion(arrays: Arrays, lr: float, step: LionStep) -> None:
    """θ ← θ − lr·λ·θ; θ ← θ − lr·sign(β₁·m + (1 − β₁)·g); m ← β₂·m + (1 − β₂)·g."""
    theta, gradient, (m,), scratch = arrays
    _decay(theta, lr * step.decay)
    np.multiply(m, step.beta1, out=scratch)
    scratch += gradient * (1.0 - step.beta1)
    np.sign(scratch, out=scratch)
    scratch *= lr
    theta -= scratch
    m *= step.beta2
    gradient *= 1.0 - step.beta2
    m += gradient


def _decay(theta: FloatArray, share: float) -> None:
    """Multiply an array by 1 − share."""
    if share:
        theta *= 1.0 - share
