"""The formulas of the reference engine as functions of arrays, with NumPy's operations.

Kernels of other backends are compared with the function of the same name here.
"""

from __future__ import annotations

from functools import partial

from fusedmlp.reference import activations, outputs, updates
from fusedmlp.reference.dropout import Mask, fill_mask
from fusedmlp.reference.engine import gather_rows
from fusedmlp.reference.operations import Operations

ORDINARY = Operations()

product = ORDINARY.product
bias_gradient = ORDINARY.sum_rows
bias_activation = partial(activations.bias_activation, ORDINARY)
hidden_delta = partial(activations.hidden_delta, ORDINARY)
softmax_cross_entropy = partial(outputs.softmax_cross_entropy, ORDINARY)
sigmoid_cross_entropy = partial(outputs.sigmoid_cross_entropy, ORDINARY)
squared_error = partial(outputs.squared_error, ORDINARY)
poisson_deviance = partial(outputs.poisson_deviance, ORDINARY)
output_activation = partial(outputs.output_activation, ORDINARY)

__all__ = ["Mask", "gather_rows"]


def dropout_mask(kept, seed, step, layer, dropout):
    """Fill a mask (B, H)."""
    fill_mask(Mask(kept, seed, step, layer, dropout))


def sgd(theta, gradient, lr):
    """Take a step of plain SGD; all arrays are (n,), here and below."""
    updates.sgd(updates.Arrays(theta, gradient, (), gradient), lr)


def momentum(theta, gradient, velocity, lr, mu):
    """Take a step with momentum."""
    updates.momentum(updates.Arrays(theta, gradient, (velocity,), gradient), lr, mu)


def nesterov(theta, gradient, velocity, lr, mu):
    """Take a step with Nesterov's momentum."""
    updates.nesterov(updates.Arrays(theta, gradient, (velocity,), gradient), lr, mu)


def adam(theta, gradient, m, v, lr, beta1, beta2, eps, corrections, decay, scratch):
    """Take a step of Adam, with decoupled weight decay."""
    step = updates.AdamStep(beta1, beta2, eps, corrections, decay)
    updates.adam(updates.Arrays(theta, gradient, (m, v), scratch), lr, step)


def lion(theta, gradient, m, lr, beta1, beta2, decay, scratch):
    """Take a step of Lion."""
    step = updates.LionStep(beta1, beta2, decay)
    updates.lion(updates.Arrays(theta, gradient, (m,), scratch), lr, step)
