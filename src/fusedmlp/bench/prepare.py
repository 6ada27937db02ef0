"""Makes the inputs of a task: rows, starting weights, and the NumPy backend's results on them.

They are made once for each task, so that all subjects use the same numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from fusedmlp import MLP
from fusedmlp.bench.backend_adapter import build_engine
from fusedmlp.bench.tasks import Inputs
from fusedmlp.network import Parameters, initialise

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.backend import Backend
    from fusedmlp.bench.tasks import Task
    from fusedmlp.types import DenseInputs, FloatArray, IntArray

    Rows: TypeAlias = tuple[DenseInputs, IntArray]
    Source: TypeAlias = Callable[[Task], Rows]
    """Returns (N, D) inputs, uint8 pixels or of the task's dtype, and (N,) class numbers."""

PARITY_STEPS: Final = 5
"""Whole batches before weights are compared; half a batch follows them."""

LOSS_STEPS: Final = 60
"""The same with dropout, where most libraries draw other masks and only mean losses compare."""

PARITY_PREDICTIONS: Final = 100


def prepare(task: Task, source: Source, reference: Backend) -> Inputs:
    """Make the inputs of a task; ``reference`` is the NumPy backend."""
    (x, y), start, order = source(task), _start(task), _order(task)
    if task.kind == "predict":
        mlp = MLP(task.sizes, task.hidden, backend=reference, dtype=task.dtype)
        mlp.parameters = start
        expected: list[FloatArray] = [mlp.forward(x[:PARITY_PREDICTIONS])]
        return Inputs(x, y, start, order, expected, 0.0)
    engine = build_engine(reference, task, start)
    rates = np.full(-(-len(order) // task.batch_size), task.lr)
    sums = engine.train_epoch(engine.stage(x, y), order, rates)
    return Inputs(x, y, start, order, list(engine.parameters()), sums.loss)


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
