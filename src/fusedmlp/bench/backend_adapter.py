"""fusedmlp's backends as benchmark subjects, through the calls of its own trainer and model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedmlp import MLP
from fusedmlp.backend import EngineSpec, State
from fusedmlp.bench.adapter import Adapter, Outcome, Predict, Training
from fusedmlp.network import Objective, zeros
from fusedmlp.registry import Selection, create

if TYPE_CHECKING:
    from fusedmlp.backend import Backend, Engine
    from fusedmlp.bench.tasks import Inputs, Task
    from fusedmlp.network import Parameters
    from fusedmlp.types import FloatArray, IntArray


def build_engine(backend: Backend, task: Task, start: Parameters) -> Engine:
    """Build an engine for the task and load the starting weights."""
    optimizer = task.make_optimizer()
    engine = backend.compile(
        EngineSpec(
            task.network,
            optimizer,
            Objective(),
            batch_size=task.batch_size,
            dtype=task.dtype,
            seed=0,
        )
    )
    slots = tuple(zeros(task.network, task.dtype) for _ in optimizer.slots)
    engine.load(State(start, slots, 0))
    return engine


class EngineTraining(Training):
    """An engine and its staged data; pixels stay pixels."""

    def __init__(self, engine: Engine, task: Task, inputs: Inputs) -> None:
        self.engine, self._task = engine, task
        self._data = engine.stage(inputs.x, inputs.y)

    def epoch(self, order: IntArray) -> Outcome:
        """See :class:`fusedmlp.bench.adapter.Training`."""
        rates = np.full(-(-len(order) // self._task.batch_size), self._task.lr)
        sums = self.engine.train_epoch(self._data, order, rates)
        self.engine.synchronize()
        return Outcome(sums.loss, sums.accuracy)

    def weights(self) -> list[FloatArray]:
        """See :class:`fusedmlp.bench.adapter.Training`."""
        return list(self.engine.parameters())


class BackendAdapter(Adapter):
    """One backend.

    Parameters
    ----------
    name
        The backend's name, with device and options: ``numba``, ``cupy:1``, ``cupy+tf32``.
    """

    packages = ("fusedmlp", "numba", "llvmlite", "cupy-cuda13x", "cupy-cuda12x")

    def __init__(self, threads: int, name: str) -> None:
        super().__init__(threads)
        self.backend = self.create(name)

    def create(self, name: str) -> Backend:
        """Build the backend."""
        return create(Selection.from_request(name, "argument"), threads=self.threads)

    def device(self) -> tuple[str, bool]:
        """See :class:`fusedmlp.bench.adapter.Adapter`."""
        found = self.backend.device()
        return str(found), "compute_capability" in found.facts

    def training(self, task: Task, inputs: Inputs) -> Training:
        """See :class:`fusedmlp.bench.adapter.Adapter`."""
        return EngineTraining(build_engine(self.backend, task, inputs.start), task, inputs)

    def prediction(self, task: Task, inputs: Inputs) -> Predict:
        """See :class:`fusedmlp.bench.adapter.Adapter`."""
        mlp = MLP(task.sizes, task.hidden, backend=self.backend, dtype=task.dtype)
        mlp.parameters = inputs.start
        return mlp.predict_proba
