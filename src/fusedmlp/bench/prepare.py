"""Prepares the inputs of a task: rows, starting weights, and the NumPy backend's results."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import numpy as np

from fusedmlp import MLP
from fusedmlp.bench import inputs
from fusedmlp.bench.backend_adapter import build_engine
from fusedmlp.network import Parameters, initialise

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.backend import Backend
    from fusedmlp.bench.tasks import Task
    from fusedmlp.types import DenseInputs, FloatArray, IntArray

    Rows: TypeAlias = tuple[DenseInputs, IntArray]
    Source: TypeAlias = Callable[[Task], Rows]

PARITY_STEPS: Final = 5
"""Whole batches before weights are compared; half a batch follows them."""

LOSS_STEPS: Final = 60
"""The same with dropout, where most libraries draw other masks and only mean losses compare."""

PARITY_PREDICTIONS: Final = 100


def prepare(task: Task, source: Source, reference: Backend) -> inputs.Inputs:
    """Make the inputs of a task.

    Parameters
    ----------
    source
        Returns the rows of a task.
    reference
        The NumPy backend, which computes the expected results.
    """
    (x, y), start, order = source(task), _start(task), _order(task)
    if task.kind == "predict":
        mlp = MLP(task.sizes, task.hidden, backend=reference, dtype=task.dtype)
        mlp.parameters = start
        expected: list[FloatArray] = [mlp.forward(x[:PARITY_PREDICTIONS])]
        return inputs.Inputs(x, y, start, order, expected, 0.0)
    engine = build_engine(reference, task, start)
    rates = np.full(-(-len(order) // task.batch_size), task.lr)
    sums = engine.train_epoch(engine.stage(x, y), order, rates)
    return inputs.Inputs(x, y, start, order, list(engine.parameters()), sums.loss)


@functools.cache
def _mnist(part: str) -> Rows:
    from fusedmlp.datasets import load_dataset

    data = load_dataset("mnist")
    found = (data.x_test, data.y_test) if part == "test" else (data.x_train, data.y_train)
    return cast("Rows", found)  # MNIST has both parts, of these types


def named_rows(task: Task) -> Rows:
    """Return the rows of a task whose inputs are ``mnist``, ``moons`` or ``normal``."""
    if task.inputs == "moons":
        from fusedmlp.datasets import load_moons

        moons = load_moons(seed=0)
        return moons.x_train.astype(task.dtype), moons.y_train.astype(np.int64)
    if task.inputs == "mnist":
        x, y = _mnist("test" if task.kind == "predict" else "train")
        x, y = x[: task.rows], y[: task.rows].astype(np.int64)
        # Predictions take floats, which every library accepts; only training may keep pixels.
        return (inputs.as_floats(x, "float32"), y) if task.kind == "predict" else (x, y)
    return drawn_rows(task)


def drawn_rows(task: Task) -> Rows:
    """Draw normal inputs of the task's density, and class numbers."""
    rng = np.random.default_rng(0)
    shape = (task.rows, task.sizes[0])
    drawn = rng.standard_normal(shape, np.float32)
    if task.density < 1.0:
        drawn *= rng.random(shape, np.float32) < task.density
    return drawn.astype(task.dtype), rng.integers(0, task.sizes[-1], task.rows)


def _order(task: Task) -> IntArray:
    steps = LOSS_STEPS if task.dropout else PARITY_STEPS
    if task.is_full_batch:
        return np.tile(np.arange(task.rows), steps)
    half = task.batch_size // 2  # 0 for batches of one row
    drawn = np.concatenate([np.random.default_rng(9 + i).permutation(task.rows) for i in range(2)])
    steps = min(steps, max(1, len(drawn) // task.batch_size - 1))
    return drawn[: steps * task.batch_size + half]


def _start(task: Task) -> Parameters:
    """Draw weights and biases. Biases of zero would hide an adapter that drops them."""
    weights = initialise(task.network, 0, task.dtype).weights
    rng = np.random.default_rng(1)
    biases = tuple(rng.normal(0.0, 0.1, (W.shape[1],)).astype(task.dtype) for W in weights)
    return Parameters(weights, biases)
