"""Values and derivatives of all activations, compared with an independent implementation.

Parity tests compare engines with each other, so they cannot find an error that all engines share.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusedmlp.backend import EngineSpec, State
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


def elementwise_engine(backend, name):
    """Return an engine that computes f(x) of each input: its weights are identity matrices."""
    n = len(Z)
    built = backend.compile(
        EngineSpec(
            Network((n, n, n), name, "identity"),
            SGD(),
            Objective("sum"),
            batch_size=1,
            dtype="float64",
            seed=0,
        )
    )
    eye, zero = np.eye(n), np.zeros(n)
    built.load(State(Parameters((eye, eye), (zero, zero)), (), 0))
    return built


def test_all_activations_are_tested():
    assert set(FORMULAS) == set(HIDDEN_ACTIVATIONS)


@pytest.mark.parametrize("name", HIDDEN_ACTIVATIONS)
def test_values_and_derivatives(backend, name):
    built, f = elementwise_engine(backend, name), FORMULAS[name]
    np.testing.assert_allclose(built.forward(Z[None]), f(Z)[None], rtol=1e-13, atol=1e-15)
    # With targets f(z) − 1 the output delta is 1, and the gradient of the hidden bias is f'(z).
    data = built.stage(Z[None], f(Z)[None] - 1)
    _, gradients = built.loss_and_gradients(data, np.arange(1))
    derivative = (f(Z + 1e-6) - f(Z - 1e-6)) / 2e-6
    np.testing.assert_allclose(gradients.biases[0], derivative, atol=1e-8)
