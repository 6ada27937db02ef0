"""Gradients of every engine against central finite differences of its own loss, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from fusedmlp.backend import State
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Objective, Parameters
from problems import engine, problem

STEP = 1e-6
BOUND = 1e-6
"""Central differences err by about STEP² and eps/STEP: 1e-12 and 1e-10; slack for cancellation."""


def objective_value(built, data, rows, parameters):
    """Reduced loss plus penalty, from the engine's sums at the same step (the same masks)."""
    built.load(State(parameters, (), 0))
    sums, _ = built.loss_and_gradients(data, rows)
    reduced = sums.losses[0]
    if built.objective.reduction == "mean":
        reduced = reduced / sums.weights[0]
    penalty = sum(float((W**2).sum()) for W in parameters.weights)
    return reduced + 0.5 * built.objective.l2 * penalty


@pytest.mark.parametrize(
    "objective", [Objective("mean", 0.2), Objective("sum")], ids=["mean+l2", "sum"]
)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("hidden", HIDDEN_ACTIVATIONS)
def test_finite_differences(backend, hidden, output, objective):
    task = problem((4, 6, 5, 3), hidden, output, dropout=0.3, weighted=True, rows=9)
    built, data = engine(backend, task, "sgd", objective, batch_size=9)
    rows = np.array([0, 3, 3, 8, 5])
    parameters = built.parameters()
    _, gradients = built.loss_and_gradients(data, rows)
    rng = np.random.default_rng(0)
    for index, gradient in enumerate(gradients):
        for _ in range(6):
            at = tuple(int(rng.integers(n)) for n in gradient.shape)
            values = []
            for sign in (1.0, -1.0):
                arrays = [array.copy() for array in parameters]
                arrays[index][at] += sign * STEP
                moved = Parameters(tuple(arrays[0::2]), tuple(arrays[1::2]))
                values.append(objective_value(built, data, rows, moved))
            numeric = (values[0] - values[1]) / (2 * STEP)
            assert abs(numeric - gradient[at]) <= BOUND * max(1.0, abs(numeric)), (index, at)


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
