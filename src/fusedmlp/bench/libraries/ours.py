"""fusedmlp itself, on any of its backends, through the calls of its own trainer and model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedmlp import MLP
from fusedmlp.bench.contract import Operation, Outcome, Peer, Predict, Training, UnsupportedError
from fusedmlp.bench.operations import KINDS, compiled
from fusedmlp.registry import Selection, create

if TYPE_CHECKING:
    from fusedmlp.backend import Engine
    from fusedmlp.bench.material import Material
    from fusedmlp.bench.tasks import Task
    from fusedmlp.types import FloatArray, IntArray


class EngineTraining(Training):
    """An engine and its staged data; pixels stay pixels."""

    def __init__(self, engine: Engine, task: Task, material: Material) -> None:
        self._engine, self._task = engine, task
        self._data = engine.stage(material.x, material.y)

    def epoch(self, order: IntArray) -> Outcome:
        """See :class:`fusedmlp.bench.contract.Training`."""
        rates = np.full(-(-len(order) // self._task.batch_size), self._task.lr)
        sums = self._engine.train_epoch(self._data, order, rates)
        self._engine.synchronize()
        return Outcome(sums.loss, sums.accuracy)

    def weights(self) -> list[FloatArray]:
        """See :class:`fusedmlp.bench.contract.Training`."""
        return list(self._engine.parameters())


class OwnPeer(Peer):
    """A backend, built at once: what it takes counts as import, as it does for other libraries.

    Parameters
    ----------
    backend
        Its name, with a device's number where it has them: ``numba``, ``cupy:1``.
    """

    packages = ("fusedmlp", "numba", "llvmlite", "cupy-cuda13x", "cupy-cuda12x")

    def __init__(self, threads: int, backend: str) -> None:
        super().__init__(threads)
        self._backend = create(Selection.from_request(backend, "argument"), threads=threads)

    def device(self) -> tuple[str, bool]:
        """See :class:`fusedmlp.bench.contract.Peer`."""
        found = self._backend.device()
        return str(found), "compute_capability" in found.facts

    def training(self, task: Task, material: Material) -> Training:
        """See :class:`fusedmlp.bench.contract.Peer`."""
        return EngineTraining(compiled(self._backend, task, material.start), task, material)

    def prediction(self, task: Task, material: Material) -> Predict:
        """See :class:`fusedmlp.bench.contract.Peer`."""
        mlp = MLP(task.sizes, task.hidden, backend=self._backend, dtype=task.dtype)
        mlp.parameters = material.start
        return mlp.predict_proba

    def operation(self, task: Task, material: Material) -> Operation:
        """See :class:`fusedmlp.bench.contract.Peer`."""
        if task.kind not in KINDS:
            raise UnsupportedError(f"{task.kind} is no operation of an engine")
        engine = compiled(self._backend, task, material.start)
        return KINDS[task.kind](engine, task, material.start, material.x, material.y)


class EnginePeer(OwnPeer):
    """Predictions by the engine itself, without the model around it."""

    def prediction(self, task: Task, material: Material) -> Predict:
        """See :class:`fusedmlp.bench.contract.Peer`."""
        return compiled(self._backend, task, material.start).forward
