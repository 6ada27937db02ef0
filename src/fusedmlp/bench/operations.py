"""An engine's operations one by one, as the contract offers them, on a batch of the task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from fusedmlp.backend import State
from fusedmlp.bench.contract import Operation
from fusedmlp.network import Objective, zeros

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fusedmlp.backend import Backend, Engine
    from fusedmlp.bench.tasks import Task
    from fusedmlp.network import Parameters
    from fusedmlp.types import DenseInputs, FloatArray, IntArray


def compiled(backend: Backend, task: Task, start: Parameters) -> Engine:
    """Build an engine for the task and give it the starting weights."""
    engine = backend.compile(
        task.network,
        task.make_optimizer(),
        Objective(),
        batch_size=task.batch_size,
        dtype=task.dtype,
        seed=0,
    )
    engine.load(starting_state(task, start))
    return engine


def starting_state(task: Task, start: Parameters) -> State:
    """Return the state before the first step."""
    slots = tuple(zeros(task.network, task.dtype) for _ in task.make_optimizer().slots)
    return State(start, slots, 0)


class _OnEngine(Operation):
    """What all of them begin with.

    Parameters
    ----------
    x, y
        (N, D) inputs and (N,) class numbers; a batch is their first rows.
    """

    def __init__(
        self, engine: Engine, task: Task, start: Parameters, x: DenseInputs, y: IntArray
    ) -> None:
        self._engine, self._task, self._start = engine, task, start
        self._x, self._batch = x, np.arange(min(task.batch_size, len(y)))
        self._data = engine.stage(x, y)

    def _reset(self) -> None:
        self._engine.load(starting_state(self._task, self._start))


class Forward(_OnEngine):
    """A batch of rows to probabilities, from host to host."""

    def call(self) -> None:
        """See :class:`fusedmlp.bench.contract.Operation`."""
        self._engine.forward(self._x[: len(self._batch)])

    def outcome(self) -> list[FloatArray]:
        """Return the probabilities (B, K)."""
        return [self._engine.forward(self._x[: len(self._batch)])]


class Gradients(_OnEngine):
    """``loss_and_gradients``, which hands the gradients out as host arrays."""

    def call(self) -> None:
        """See :class:`fusedmlp.bench.contract.Operation`."""
        self._engine.loss_and_gradients(self._data, self._batch)

    def outcome(self) -> list[FloatArray]:
        """Return the gradients and the loss."""
        self._reset()
        sums, gradients = self._engine.loss_and_gradients(self._data, self._batch)
        return [*gradients, np.array([sums.loss])]


class Update(_OnEngine):
    """``apply_gradients`` with host arrays."""

    def __init__(
        self, engine: Engine, task: Task, start: Parameters, x: DenseInputs, y: IntArray
    ) -> None:
        super().__init__(engine, task, start, x, y)
        self._gradients = engine.loss_and_gradients(self._data, self._batch)[1]

    def call(self) -> None:
        """See :class:`fusedmlp.bench.contract.Operation`."""
        self._engine.apply_gradients(self._gradients, self._task.lr)
        self._engine.synchronize()

    def outcome(self) -> list[FloatArray]:
        """How far a step moved the parameters: they themselves hardly change."""
        self._reset()
        self.call()
        moved = zip(self._engine.parameters(), self._start, strict=True)
        return [np.subtract(after, before) for after, before in moved]


class Evaluate(_OnEngine):
    """``evaluate`` on all rows."""

    def call(self) -> None:
        """See :class:`fusedmlp.bench.contract.Operation`."""
        self._engine.evaluate(self._data)

    def outcome(self) -> list[FloatArray]:
        """Return the mean loss; the accuracy may change by a row between two classes."""
        self._reset()
        return [np.array([self._engine.evaluate(self._data).loss])]


Built: TypeAlias = "Callable[[Engine, Task, Parameters, DenseInputs, IntArray], Operation]"

KINDS: Final[Mapping[str, Built]] = {
    "forward": Forward,
    "gradients": Gradients,
    "update": Update,
    "evaluate": Evaluate,
}
"""By the kind of the task."""
