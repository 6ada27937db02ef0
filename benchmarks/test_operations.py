"""Each operation of an engine alone, and a whole step, on a batch of 784-256-10, by backend.

The inputs are dense: there are no zeros to skip. What an operation computes is checked against
NumPy first, on labels and starting weights as the tests draw them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fusedmlp.bench.operations import KINDS, compiled
from fusedmlp.bench.tasks import Task
from fusedmlp.bench.work import work
from fusedmlp.registry import backend_class
from fusedmlp.tolerance import check_close, trajectory_bound
from problems import flat, problem, start

CALLS = 50
"""In a round, so that a timer's resolution is nothing against it."""

BATCH = Task("", "train", inputs="normal", rows=2_048, samples=64)
TASKS = {
    "forward": replace(BATCH, kind="forward"),
    "loss_and_gradients": replace(BATCH, kind="gradients"),
    "apply_gradients": replace(BATCH, kind="update"),
    "step": BATCH,
    "evaluate": replace(BATCH, kind="evaluate", samples=BATCH.rows),
}


class Step:
    """One batch of an epoch: forward, gradients and update, fused as the engine likes it."""

    def __init__(self, engine, task, parameters, x, y):
        self._engine, self._data = engine, engine.stage(x, y)
        self._rows, self._rates = np.arange(task.batch_size), np.full(1, task.lr)

    def call(self):
        self._engine.train_epoch(self._data, self._rows, self._rates)
        self._engine.synchronize()

    def outcome(self):
        self.call()
        return [flat(self._engine.parameters())]


@pytest.mark.parametrize("name", TASKS)
def test_operation(benchmark, record, backend, name, rounds, quick) -> None:
    task = TASKS[name]
    drawn = problem(task.sizes, rows=task.rows)
    x = np.random.default_rng(0).standard_normal((task.rows, task.sizes[0]), np.float32)
    parameters = start(task.network, task.make_optimizer(), "float32").parameters
    ours, reference = (
        KINDS.get(task.kind, Step)(compiled(each, task, parameters), task, parameters, x, drawn.y)
        for each in (backend, backend_class("numpy")())
    )
    for a, b in zip(ours.outcome(), reference.outcome(), strict=True):
        check_close(f"{backend.name}: {name}", a, b, trajectory_bound("float32"))
    done = work(task)
    benchmark.group = f"operation, {name}"
    calls = 1 if quick else CALLS
    benchmark.pedantic(ours.call, iterations=calls, rounds=rounds["rounds"])
    record(backend, task.samples, done.flops, flops_per_byte=done.intensity)
