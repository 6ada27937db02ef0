"""The operations of an engine one by one, through the backend contract, on one batch of a task."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.backend import EngineSpec, State
from fusedmlp.bench.adapter import Operation, UnsupportedError
from fusedmlp.network import Objective, zeros

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.backend import Backend, Engine
    from fusedmlp.bench.tasks import Task
    from fusedmlp.network import Parameters
    from fusedmlp.types import DenseInputs, FloatArray, IntArray


def compiled(backend: Backend, task: Task, start: Parameters) -> Engine:
    """Build an engine for the task and load the starting weights."""
    engine = backend.compile(
        EngineSpec(
            task.network,
            task.make_optimizer(),
            Objective(),
            batch_size=task.batch_size,
            dtype=task.dtype,
            seed=0,
        )
    )
    engine.load(_state(task, start))
    return engine


def _state(task: Task, start: Parameters) -> State:
    """State before the first step."""
    slots = tuple(zeros(task.network, task.dtype) for _ in task.make_optimizer().slots)
    return State(start, slots, 0)


class _BatchOperations:
    """An engine, its staged data and a batch: every operation, and the result that parity compares.

    Parameters
    ----------
    x, y
        (N, D) inputs and (N,) class numbers; the batch is their first rows.
    """

    def __init__(
        self, engine: Engine, task: Task, start: Parameters, x: DenseInputs, y: IntArray
    ) -> None:
        self._engine, self._task, self._start = engine, task, start
        self._batch = np.arange(min(task.batch_size, len(y)))
        self._x, self._data = x[: len(self._batch)], engine.stage(x, y)

    def _reset(self) -> None:
        self._engine.load(_state(self._task, self._start))

    def forward(self) -> Operation:
        """Rows of a batch to probabilities (B, K), from host to host."""
        return Operation(lambda: self._engine.forward(self._x), self._outputs)

    def _outputs(self) -> list[FloatArray]:
        return [self._engine.forward(self._x)]

    def gradients(self) -> Operation:
        """``loss_and_gradients``, which returns the gradients as host arrays."""
        call = partial(self._engine.loss_and_gradients, self._data, self._batch)

        def result() -> list[FloatArray]:
            self._reset()
            sums, found = call()
            return [*found, np.array([sums.loss])]

        return Operation(call, result)

    def update(self) -> Operation:
        """``apply_gradients`` with host arrays."""
        gradients = self._engine.loss_and_gradients(self._data, self._batch)[1]

        def call() -> None:
            self._engine.apply_gradients(gradients, self._task.lr)
            self._engine.synchronize()

        return Operation(call, lambda: self._movement(call))

    def step(self) -> Operation:
        """One batch of an epoch: forward, gradients and update, fused as the engine prefers."""

        def call() -> None:
            self._engine.train_epoch(self._data, self._batch, np.full(1, self._task.lr))
            self._engine.synchronize()

        return Operation(call, lambda: self._movement(call))

    def _movement(self, call: Callable[[], None]) -> list[FloatArray]:
        """Movement of the parameters, which themselves hardly change in one step."""
        self._reset()
        call()
        moved = zip(self._engine.parameters(), self._start, strict=True)
        return [np.subtract(after, before) for after, before in moved]

    def evaluate(self) -> Operation:
        """``evaluate`` on all rows; compared by loss, since accuracy may change by one row."""

        def result() -> list[FloatArray]:
            self._reset()
            return [np.array([self._engine.evaluate(self._data).loss])]

        return Operation(lambda: self._engine.evaluate(self._data), result)


_BY_KIND: Final[dict[str, Callable[[_BatchOperations], Operation]]] = {
    "forward": _BatchOperations.forward,
    "gradients": _BatchOperations.gradients,
    "update": _BatchOperations.update,
    "train": _BatchOperations.step,
    "evaluate": _BatchOperations.evaluate,
}


def operation(
    engine: Engine, task: Task, start: Parameters, x: DenseInputs, y: IntArray
) -> Operation:
    """Return the operation that ``task.kind`` names, on (N, D) inputs and (N,) class numbers."""
    if task.kind not in _BY_KIND:
        raise UnsupportedError(f"{task.kind} is not an operation of an engine")
    return _BY_KIND[task.kind](_BatchOperations(engine, task, start, x, y))
