"""Each operation of an engine on a batch of 784-256-10, by backend; parity is checked first.

The inputs are dense, so that no zeros can be skipped. ``fusedmlp parity`` compares the operations
one by one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fusedmlp.bench.adapter import path_difference
from fusedmlp.bench.backend_adapter import build_engine
from fusedmlp.bench.parity import SGD_BOUND
from fusedmlp.bench.prepare import prepare
from fusedmlp.registry import backend_class
from workloads import NORMAL, rows_of

CALLS = 50
"""In a round, since single calls are too short for a timer."""

TASK = replace(NORMAL, rows=2_048, samples=2_048)
OPERATIONS = ("forward", "gradients", "update", "step", "evaluate")


def operations(engine, inputs):
    """Return the operations by name, on the first batch of the inputs; ``evaluate`` on all rows."""
    data, batch = engine.stage(inputs.x, inputs.y), np.arange(TASK.batch_size)
    gradients, rates = engine.loss_and_gradients(data, batch)[1], np.full(1, TASK.lr)
    rows = inputs.x[batch]

    def synchronized(call, *arguments):
        call(*arguments)
        engine.synchronize()

    return {
        "forward": lambda: engine.forward(rows),
        "gradients": lambda: engine.loss_and_gradients(data, batch),
        "update": lambda: synchronized(engine.apply_gradients, gradients, TASK.lr),
        "step": lambda: synchronized(engine.train_epoch, data, batch, rates),
        "evaluate": lambda: engine.evaluate(data),
    }


def trained(engine, found):
    """Run an update and a step; return the parameters."""
    found["update"]()
    found["step"]()
    return list(engine.parameters())


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(benchmark, adapter, note, is_quick, name):
    reference = backend_class("numpy")()
    inputs = prepare(TASK, rows_of, reference)
    engines = [build_engine(each, TASK, inputs.start) for each in (adapter.backend, reference)]
    own, expected = (operations(engine, inputs) for engine in engines)
    np.testing.assert_allclose(own["forward"](), expected["forward"](), atol=1e-4)
    assert own["evaluate"]().loss == pytest.approx(expected["evaluate"]().loss, rel=1e-4)
    moved = [trained(engine, found) for engine, found in zip(engines, (own, expected), strict=True)]
    assert path_difference(*moved, list(inputs.start)) < SGD_BOUND

    rounds = {"rounds": 1} if is_quick else {"rounds": 5, "warmup_rounds": 1, "iterations": CALLS}
    benchmark.group = f"operation, {name}"
    benchmark.pedantic(own[name], **rounds)
    note()
