"""Epochs of training and whole predictions on MNIST, by backend; parity is checked first.

``nox -s benchmarks`` runs it. Samples/s, GFLOP/s and versions are in ``extra_info``.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from workloads import BIG, BY_NAME, SMALL

TASKS = (
    SMALL,
    replace(BIG, rows=16_384, samples=16_384),
    BY_NAME["predict-10000"],
    BY_NAME["predict-1"],
)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_throughput(benchmark, measure, task):
    benchmark.group = f"{task.name}: {task.network}, batch {task.batch_size}"
    measure(task)
