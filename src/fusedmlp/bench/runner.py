"""A task in the hands of one contestant: the parity figures, and round after timed round."""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedmlp.bench.contract import Operation, Peer
    from fusedmlp.bench.material import Material
    from fusedmlp.bench.tasks import Task
    from fusedmlp.types import FloatArray

Figures = dict[str, float | bool | None]

STRETCHES: Final = 8
"""Parts of a round at most, where its calls are short enough; one of them is one call at least."""


class Runner(ABC):
    """One task of one peer. The first two methods compile and warm up."""

    def __init__(self, task: Task) -> None:
        self.task = task

    @abstractmethod
    def parity(self) -> Figures:
        """Compute what has to agree, before anything is timed."""

    @abstractmethod
    def call(self, number: int) -> Figures:
        """One timed call; the number seeds its shuffle. What it returns joins the round's."""

    def round(self, number: int) -> Figures:
        """Time calls until the task's seconds have passed, at least one, in up to STRETCHES.

        All calls count as taking as long as in the median stretch: where the processor was taken
        away for a moment, that moment does not decide.
        """
        calls, found = 0, Figures()
        stretches: list[float] = []
        began = before = time.perf_counter()
        while before - began < self.task.seconds or not stretches:
            first, now = calls, before
            while now - before < self.task.seconds / STRETCHES or calls == first:
                found = self.call(number)
                calls += 1
                now = time.perf_counter()
            stretches.append((now - before) / (calls - first))
            before = now
        seconds = calls * statistics.median(stretches)
        return found | {"seconds": seconds, "samples": calls * self.task.samples}


class TrainingRunner(Runner):
    """Epochs, or parts of one: the permutation, the gathering and the sums are timed."""

    def __init__(self, peer: Peer, task: Task, material: Material) -> None:
        super().__init__(task)
        self._material = material
        self._training = peer.training(task, material)

    def parity(self) -> Figures:
        """See :class:`Runner`."""
        outcome = self._training.first_steps(self._material.order)
        return {
            "exact": self._training.exact,
            "difference": path_difference(
                self._training.weights(), self._material.expected, list(self._material.start)
            ),
            "loss": outcome.loss,
            "expected_loss": self._material.expected_loss,
        }

    def call(self, number: int) -> Figures:
        """See :class:`Runner`."""
        outcome = self._training.epoch(self.task.order(number))
        return {"loss": outcome.loss, "accuracy": outcome.accuracy}


class PredictionRunner(Runner):
    """Calls with NumPy rows that give NumPy probabilities."""

    def __init__(self, peer: Peer, task: Task, material: Material) -> None:
        super().__init__(task)
        self._x = material.floats(task.dtype)
        self._expected = material.expected[0]
        self._predict = peer.prediction(task, material)

    def parity(self) -> Figures:
        """See :class:`Runner`."""
        rows = len(self._expected)
        step = min(self.task.batch_size, rows)
        parts = [self._predict(self._x[i : min(i + step, rows)]) for i in range(0, rows, step)]
        found = np.concatenate(parts).astype(np.float64)
        difference = float(np.abs(found - self._expected).max())
        return {"exact": True, "difference": difference, "loss": 0.0, "expected_loss": 0.0}

    def call(self, number: int) -> Figures:
        """See :class:`Runner`."""
        x, predict, step = self._x, self._predict, self.task.batch_size
        starts = range(0, len(x) - step + 1, step)
        for index in range(self.task.n_steps):
            start = starts[index % len(starts)]
            predict(x[start : start + step])
        return {}


class OperationRunner(Runner):
    """One of an engine's operations, again and again."""

    def __init__(self, operation: Operation, task: Task, material: Material) -> None:
        super().__init__(task)
        self._operation, self._expected = operation, material.expected

    def parity(self) -> Figures:
        """See :class:`Runner`."""
        found = self._operation.outcome()
        nothing = [np.zeros_like(array) for array in self._expected]
        difference = path_difference(found, self._expected, nothing)
        return {"exact": True, "difference": difference, "loss": 0.0, "expected_loss": 0.0}

    def call(self, number: int) -> Figures:
        """See :class:`Runner`."""
        self._operation.call()
        return {}


class LimitRunner(Runner):
    """What the machine can do at most, in operations or bytes: no task at all."""

    def __init__(self, task: Task, reach: Callable[[], float], counts: str) -> None:
        super().__init__(task)
        self._reach, self._counts = reach, counts

    def parity(self) -> Figures:
        """Return nothing: there is nothing to agree with."""
        return {}

    def call(self, number: int) -> Figures:
        """See :class:`Runner`."""
        return {self._counts: self._reach()}

    def round(self, number: int) -> Figures:
        """Time one call, however short the task's are."""
        began = time.perf_counter()
        found = self.call(number)
        return found | {"seconds": time.perf_counter() - began}


def limit_runner(peer: Peer, task: Task) -> Runner | None:
    """Put a task in the hands of a limit of the machine, which needs no data; None for others."""
    reach = peer.limit(task)
    return None if reach is None else LimitRunner(task, reach, peer.counts)


def runner(peer: Peer, task: Task, material: Material) -> Runner:
    """Put a task in a peer's hands.

    Raises
    ------
    UnsupportedError
        The peer cannot do it.
    """
    match task.kind:
        case "train":
            return TrainingRunner(peer, task, material)
        case "predict":
            return PredictionRunner(peer, task, material)
        case _:
            return OperationRunner(peer.operation(task, material), task, material)


def path_difference(
    found: Sequence[FloatArray], expected: Sequence[FloatArray], start: Sequence[FloatArray]
) -> float:
    """‖found − expected‖ / ‖expected − start‖ over all arrays; infinite where shapes differ.

    Measured against the way that training has gone, not against the weights: those hardly move
    in a few steps, and a peer that does not train at all would pass.
    """
    if [a.shape for a in found] != [a.shape for a in expected]:
        return float("inf")

    def distance(a: Sequence[FloatArray], b: Sequence[FloatArray]) -> float:
        gaps = [np.subtract(x, y, dtype=np.float64).ravel() for x, y in zip(a, b, strict=True)]
        return float(np.linalg.norm(np.concatenate(gaps)))

    gap = distance(found, expected) / distance(expected, start)
    return gap if np.isfinite(gap) else float("inf")
