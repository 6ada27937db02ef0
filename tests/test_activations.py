"""Every activation's values and slopes against formulas written here a second time.

Parity tests compare engines with one another, so an activation that all of them lack would pass
them as the identity. It fails here.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusedmlp.backend import State
from fusedmlp.network import HIDDEN_ACTIVATIONS, Network, Objective, Parameters
from fusedmlp.optimizers import SGD

FORMULAS = {
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": lambda z: (np.exp(z) - np.exp(-z)) / (np.exp(z) + np.exp(-z)),
    "relu": lambda z: np.where(z > 0, z, 0),
    "identity": lambda z: z,
    "leaky_relu": lambda z: np.where(z > 0, z, z / 100),
    "elu": lambda z: np.where(z > 0, z, np.exp(z) - 1),
    "gelu": lambda z: z * (1 + np.vectorize(math.erf)(z / math.sqrt(2))) / 2,
    "silu": lambda z: z / (1 + np.exp(-z)),
}

Z = np.array([-8.0, -1.5, -0.3, 0.2, 1.0, 7.0])


def unit_by_unit(backend, name):
    """An engine that computes f(x) on each input alone: weights are the identity matrix."""
    n = len(Z)
    built = backend.compile(
        Network((n, n, n), name, "identity"),
        SGD(),
        Objective("sum"),
        batch_size=1,
        dtype="float64",
        seed=0,
    )
    eye, nothing = np.eye(n), np.zeros(n)
    built.load(State(Parameters((eye, eye), (nothing, nothing)), (), 0))
    return built


def test_every_activation_has_a_formula_here():
    assert set(FORMULAS) == set(HIDDEN_ACTIVATIONS)


@pytest.mark.parametrize("name", HIDDEN_ACTIVATIONS)
def test_values_and_slopes(backend, name):
    built, f = unit_by_unit(backend, name), FORMULAS[name]
    np.testing.assert_allclose(built.forward(Z[None]), f(Z)[None], rtol=1e-13, atol=1e-15)
    # With targets f(z) − 1 the output delta is 1, so the hidden bias's gradient is f'(z).
    data = built.stage(Z[None], f(Z)[None] - 1)
    _, gradients = built.loss_and_gradients(data, np.arange(1))
    slope = (f(Z + 1e-6) - f(Z - 1e-6)) / 2e-6
    np.testing.assert_allclose(gradients.biases[0], slope, atol=1e-8)
