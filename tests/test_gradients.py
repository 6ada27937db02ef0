"""Gradients of every engine against central finite differences of its own loss, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Objective
from fusedmlp.parity.finite_differences import OBJECTIVES, gradient_check
from problems import engine, problem


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.reduction)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("hidden", HIDDEN_ACTIVATIONS)
def test_finite_differences(backend, hidden, output, objective):
    found = gradient_check(backend.name, backend, hidden, output, objective)
    assert found.is_met, found
    assert found.found > 0.0, "slopes that equal gradients to the last bit were not measured"


def test_a_weight_of_two_is_a_repeated_row(backend):
    """The meaning of sample weights under the mean reduction."""
    task = problem(rows=6)
    built, data = engine(backend, task)
    _, repeated = built.loss_and_gradients(data, np.array([0, 1, 1, 2]))
    weighted = built.stage(task.x, task.y, np.array([1.0, 2.0, 1.0, 0, 0, 0]))
    _, gradients = built.loss_and_gradients(weighted, np.array([0, 1, 2]))
    for a, b in zip(repeated, gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_a_batch_without_weight_has_the_gradient_of_the_penalty(backend):
    task = problem(rows=6)
    built, _ = engine(backend, task, "sgd", Objective(l2=0.5))
    data = built.stage(task.x, task.y, np.zeros(6))
    sums, gradients = built.loss_and_gradients(data, np.arange(4))
    assert sums.loss == 0.0
    for W, dW in zip(built.parameters().weights, gradients.weights, strict=True):
        np.testing.assert_allclose(dW, 0.5 * W, rtol=1e-12)
    for db in gradients.biases:
        assert not db.any()
