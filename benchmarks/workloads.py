"""The workloads of the project's own benchmarks, by name, and their rows. Nothing is run here."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.bench.tasks import Task, as_floats
from fusedmlp.datasets import load_dataset, load_moons

if TYPE_CHECKING:
    from fusedmlp.bench.prepare import Rows
    from fusedmlp.datasets import Dataset

SMALL: Final = Task("small", seconds=1.0)
NORMAL: Final = replace(SMALL, inputs="normal")

BIG: Final = replace(
    SMALL,
    name="big",
    sizes=(784, 1024, 1024, 10),
    hidden="relu",
    batch_size=1024,
    samples=8_192,
)

TASKS: Final = (
    SMALL,
    replace(NORMAL, name="small-dense"),
    BIG,
    # The workshop sums its gradients over the 200 points at lr 0.01, which is their mean at lr 2.
    Task(
        "moons",
        sizes=(2, 5, 2),
        lr=2.0,
        batch_size=200,
        inputs="moons",
        rows=200,
        samples=200 * 1_000,
        seconds=0.2,
    ),
    replace(SMALL, name="small-adam", optimizer="adam", lr=0.001),
    replace(SMALL, name="small-dropout", dropout=0.5),
    replace(SMALL, name="small-float64", dtype="float64"),
    Task("predict-10000", "predict", batch_size=10_000, rows=10_000, samples=10_000, seconds=0.2),
    Task("predict-1", "predict", batch_size=1, rows=10_000, samples=1_000, seconds=0.2),
)
BY_NAME: Final = {task.name: task for task in TASKS}


def quick(task: Task) -> Task:
    """Return the same network on so few rows that a call takes milliseconds."""
    if task.kind == "predict":
        batch_size = min(task.batch_size, 1_000)
        return replace(task, rows=1_000, batch_size=batch_size, samples=1_000, seconds=0.0)
    if task.is_full_batch:
        return replace(task, samples=20 * task.rows, seconds=0.0)
    batch_size = min(task.batch_size, 128)
    return replace(task, rows=2_016, samples=2_016, batch_size=batch_size, seconds=0.0)


def rows_of(task: Task) -> Rows:
    """Return the rows of a task whose inputs are ``mnist``, ``moons`` or ``normal``."""
    if task.inputs == "moons":
        moons = load_moons(seed=0)
        return moons.x_train.astype(task.dtype), moons.y_train.astype(np.int64)
    if task.inputs == "normal":
        rng = np.random.default_rng(0)
        drawn = rng.standard_normal((task.rows, task.sizes[0]), np.float32)
        return drawn.astype(task.dtype), rng.integers(0, task.sizes[-1], task.rows)
    data = mnist()
    if task.kind == "train":
        return data.x_train[: task.rows], data.y_train[: task.rows].astype(np.int64)
    # Predictions take floats, which every library accepts; only training may keep pixels.
    return as_floats(data.x_test[: task.rows], "float32"), data.y_test[: task.rows].astype(np.int64)


@functools.cache
def mnist() -> Dataset:
    """Load MNIST, once."""
    return load_dataset("mnist")
