"""A backend that forwards every call to another one and hashes what its engine receives.

The hashes in a certificate are thus of the starting weights and row numbers that the engine really
received, not of those that the trainer would have drawn.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fusedmlp.backend import Backend, Engine, EngineSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from fusedmlp.backend import (
        Availability,
        BatchMetrics,
        Data,
        Device,
        Preference,
        State,
        Workload,
    )
    from fusedmlp.network import Parameters
    from fusedmlp.types import Float64Vector, FloatArray, Inputs, IntArray


def digest(arrays: Iterable[npt.NDArray[np.generic]]) -> str:
    """SHA-256 of arrays: of each its type, its shape and its numbers, little-endian, C order."""
    found = hashlib.sha256()
    for array in arrays:
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        found.update(f"{array.dtype.name}{array.shape}".encode())
        found.update(plain.tobytes())
    return found.hexdigest()


class RecordingBackend(Backend):
    """Forwards to ``inner``; one instance records one training.

    Attributes
    ----------
    start
        SHA-256 of the parameters that an engine held after the first load; empty before it.
    order
        SHA-256 of all row numbers in the order in which they came.
    """

    name: ClassVar[str] = "recording"

    def __init__(self, inner: Backend) -> None:
        self._inner, self.strict = inner, inner.strict
        self.start = ""
        self.order = hashlib.sha256()

    @classmethod
    def probe(cls) -> Availability:
        """Not implemented: this backend is not registered."""
        raise NotImplementedError

    @classmethod
    def preference(cls, workload: Workload) -> Preference:
        """Not implemented: this backend is not registered."""
        raise NotImplementedError

    def device(self) -> Device:
        """See :meth:`fusedmlp.backend.Backend.device`."""
        return self._inner.device()

    def compile(self, spec: EngineSpec) -> Engine:
        """See :meth:`fusedmlp.backend.Backend.compile`."""
        engine = self._inner.compile(spec)
        return _RecordingEngine(engine, self)


class _RecordingEngine(Engine):
    def __init__(self, inner: Engine, record: RecordingBackend) -> None:
        self._inner, self._record = inner, record
        super().__init__(inner.spec)

    @property
    def compile_seconds(self) -> float:
        return self._inner.compile_seconds

    def load(self, state: State) -> None:
        self._inner.load(state)
        # Read back: the hash is of what the engine holds.
        self._record.start = self._record.start or digest(self._inner.parameters())

    def parameters(self) -> Parameters:
        return self._inner.parameters()

    def state(self) -> State:
        return self._inner.state()

    def stage(
        self,
        x: Inputs,
        y: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
    ) -> Data:
        return self._inner.stage(x, y, sample_weight)

    def forward(self, x: Inputs) -> FloatArray:
        return self._inner.forward(x)

    def evaluate(self, data: Data, rows: IntArray | None = None) -> BatchMetrics:
        return self._inner.evaluate(data, rows)

    def loss_and_gradients(self, data: Data, rows: IntArray) -> tuple[BatchMetrics, Parameters]:
        return self._inner.loss_and_gradients(data, rows)

    def apply_gradients(self, gradients: Parameters, lr: float) -> None:
        self._inner.apply_gradients(gradients, lr)

    def train_epoch(self, data: Data, order: IntArray, lr: Float64Vector) -> BatchMetrics:
        # The same hash however an epoch is cut into calls.
        self._record.order.update(np.ascontiguousarray(order, "<i8").tobytes())
        return self._inner.train_epoch(data, order, lr)

    def synchronize(self) -> None:
        self._inner.synchronize()
