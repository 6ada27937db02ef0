"""fusedmlp itself, through the calls that its own trainer and model make."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fusedmlp import MLP
from fusedmlp.backend import Backend, Engine, State
from fusedmlp.network import Objective, zeros
from fusedmlp.registry import backend_class
from peers.contract import Outcome, Peer, Predict, Training

if TYPE_CHECKING:
    from fusedmlp.types import FloatArray, IntArray
    from peers.material import Material
    from peers.tasks import Task


def compiled(backend: Backend, task: Task, material: Material) -> Engine:
    """Build the engine and give it the starting weights."""
    optimizer = task.make_optimizer()
    engine = backend.compile(
        task.network,
        optimizer,
        Objective(),
        batch_size=task.batch_size,
        dtype=task.dtype,
        seed=0,
    )
    slots = tuple(zeros(task.network, task.dtype) for _ in optimizer.slots)
    engine.load(State(material.start, slots, 0))
    return engine


class EngineTraining(Training):
    """An engine and its staged data; pixels stay pixels."""

    def __init__(self, engine: Engine, task: Task, material: Material) -> None:
        self._engine, self._task = engine, task
        self._data = engine.stage(material.x, material.y)

    def epoch(self, order: IntArray) -> Outcome:
        rates = np.full(-(-len(order) // self._task.batch_size), self._task.lr)
        sums = self._engine.train_epoch(self._data, order, rates)
        self._engine.synchronize()
        return Outcome(sums.loss, sums.accuracy)

    def weights(self) -> list[FloatArray]:
        return list(self._engine.parameters())


class _Own(Peer):
    backend: ClassVar[str]

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        # Imported now, as other libraries are: what it takes counts as import, not as training.
        self._backend = backend_class(self.backend)(threads=threads)

    def training(self, task: Task, material: Material) -> Training:
        engine = compiled(self._backend, task, material)
        return EngineTraining(engine, task, material)

    def prediction(self, task: Task, material: Material) -> Predict:
        mlp = MLP(task.sizes, task.hidden, backend=self._backend, dtype=task.dtype)
        mlp.parameters = material.start
        return mlp.predict_proba


class NumbaPeer(_Own):
    """The compiled engine."""

    backend, packages = "numba", ("fusedmlp", "numba", "llvmlite")


class NumpyPeer(_Own):
    """The specification."""

    backend, packages = "numpy", ("fusedmlp",)


class EnginePeer(NumbaPeer):
    """Predictions by the compiled engine itself, without the model around it."""

    def prediction(self, task: Task, material: Material) -> Predict:
        return compiled(self._backend, task, material).forward
