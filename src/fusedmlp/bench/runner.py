"""Runs one task of one subject: the figures for the parity check, then timed rounds."""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedmlp.bench.adapter import Adapter
    from fusedmlp.bench.inputs import Inputs
    from fusedmlp.bench.tasks import Task
    from fusedmlp.types import FloatArray

Figures = dict[str, float | bool | None]

STRETCHES: Final = 8
"""Parts of a round, at most, where calls are short enough; a part is one call at least."""


class Runner(ABC):
    """One task of one adapter. Building it and the parity check compile and warm up."""

    def __init__(self, task: Task) -> None:
        self.task = task

    @abstractmethod
    def parity(self) -> Figures:
        """Compute the figures that :func:`fusedmlp.bench.parity.breach` judges."""

    @abstractmethod
    def call(self, number: int) -> Figures:
        """Do one timed call; ``number`` seeds its shuffle. The result joins that of the round."""

    def round(self, number: int, clock: Callable[[], float] = time.perf_counter) -> Figures:
        """Time calls until the task's seconds have passed, at least one, in up to STRETCHES.

        All calls count as long as those of the median stretch, so that a moment in which the
        processor was taken away does not decide.
        """
        calls, found = 0, Figures()
        stretches: list[float] = []
        began = before = clock()
        while before - began < self.task.seconds or not stretches:
            first, now = calls, before
            while now - before < self.task.seconds / STRETCHES or calls == first:
                found = self.call(number)
                calls += 1
                now = clock()
            stretches.append((now - before) / (calls - first))
            before = now
        seconds = calls * statistics.median(stretches)
        return found | {"seconds": seconds, "samples": calls * self.task.samples}


class TrainingRunner(Runner):
    """Epochs, or parts of one; permutation, gathering, loss and accuracy are timed too."""

    def __init__(self, adapter: Adapter, task: Task, inputs: Inputs) -> None:
        super().__init__(task)
        self._inputs = inputs
        self._training = adapter.training(task, inputs)

    def parity(self) -> Figures:
        """See :class:`Runner`."""
        inputs, training = self._inputs, self._training
        outcome = training.first_steps(inputs.order)
        gap = path_difference(training.weights(), inputs.expected, list(inputs.start))
        figures = _parity(gap, outcome.loss, inputs.expected_loss)
        return figures | {"exact": training.exact, "slack": training.slack}

    def call(self, number: int) -> Figures:
        """See :class:`Runner`."""
        outcome = self._training.epoch(self.task.order(number))
        return {"loss": outcome.loss, "accuracy": outcome.accuracy}


class PredictionRunner(Runner):
    """Calls that take NumPy rows and return NumPy probabilities."""

    def __init__(self, adapter: Adapter, task: Task, inputs: Inputs) -> None:
        super().__init__(task)
        self._x = inputs.floats(task.dtype)
        self._expected = inputs.expected[0]
        self._predict = adapter.prediction(task, inputs)

    def parity(self) -> Figures:
        """See :class:`Runner`."""
        rows = len(self._expected)
        step = min(self.task.batch_size, rows)
        parts = [self._predict(self._x[i : min(i + step, rows)]) for i in range(0, rows, step)]
        found = np.concatenate(parts).astype(np.float64)
        return _parity(float(np.abs(found - self._expected).max()))

    def call(self, number: int) -> Figures:
        """See :class:`Runner`."""
        x, predict, step = self._x, self._predict, self.task.batch_size
        starts = range(0, len(x) - step + 1, step)
        for index in range(self.task.n_steps):
            start = starts[index % len(starts)]
            predict(x[start : start + step])
        return {}


class PeakRunner(Runner):
    """The machine's peak of multiply-adds. It has no results to compare."""

    def __init__(self, task: Task, reach: Callable[[], float]) -> None:
        super().__init__(task)
        self._reach = reach

    def parity(self) -> Figures:
        """See :class:`Runner`."""
        return {}

    def call(self, number: int) -> Figures:
        """See :class:`Runner`."""
        return {"flops": self._reach()}

    def round(self, number: int, clock: Callable[[], float] = time.perf_counter) -> Figures:
        """Time one call, whatever the task's seconds."""
        began = clock()
        found = self.call(number)
        return found | {"seconds": clock() - began}


def make_runner(adapter: Adapter, task: Task, read: Callable[[], Inputs]) -> Runner:
    """Build the runner of a task.

    Parameters
    ----------
    read
        Reads the task's inputs; not called for the multiply-add peak, which needs none.

    Raises
    ------
    UnsupportedError
        The subject cannot do the task.
    """
    reach = adapter.peak(task)
    if reach is not None:
        return PeakRunner(task, reach)
    kind = TrainingRunner if task.kind == "train" else PredictionRunner
    return kind(adapter, task, read())


def path_difference(
    found: Sequence[FloatArray], expected: Sequence[FloatArray], start: Sequence[FloatArray]
) -> float:
    """‖found − expected‖ / ‖expected − start‖ over all arrays; infinite where shapes differ.

    The scale is the movement of the weights, not the weights: these hardly change in a few steps,
    and a subject that does not train at all would pass.
    """
    if [a.shape for a in found] != [a.shape for a in expected]:
        return float("inf")

    def distance(a: Sequence[FloatArray], b: Sequence[FloatArray]) -> float:
        gaps = [np.subtract(x, y, dtype=np.float64).ravel() for x, y in zip(a, b, strict=True)]
        return float(np.linalg.norm(np.concatenate(gaps)))

    gap = distance(found, expected) / distance(expected, start)
    return gap if np.isfinite(gap) else float("inf")


def _parity(difference: float, loss: float = 0.0, expected_loss: float = 0.0) -> Figures:
    return {
        "exact": True,
        "difference": difference,
        "loss": loss,
        "expected_loss": expected_loss,
    }
