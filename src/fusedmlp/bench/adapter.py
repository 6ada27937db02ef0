"""What the benchmark worker measures: the interface to a library, and the timed rounds of a task.

No library is named here. ``backend_adapter.py`` implements the interface for fusedmlp's backends;
adapters to other libraries are in the checkout's ``benchmarks/adapters``.
"""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedmlp.bench.tasks import Inputs, Task
    from fusedmlp.types import FloatArray, IntArray

Figures: TypeAlias = dict[str, float | bool | None]

Predict: TypeAlias = "Callable[[FloatArray], FloatArray]"
"""(N, D) rows to (N, K) probabilities, both NumPy arrays."""

STRETCHES: Final = 8
"""Parts of a round, at most, where calls are short enough; a part is one call at least."""


class UnsupportedError(Exception):
    """The subject cannot do the task, or cannot run on this machine; the message says why."""


class Outcome(NamedTuple):
    """Mean loss, and share of rows classified correctly; None where it is not computed."""

    loss: float
    accuracy: float | None


class Training(ABC):
    """One network in training, with its data in place."""

    exact: bool = True
    """Whether the weights can be compared. False where the library draws its own dropout masks."""

    slack: float = 1.0
    """Factor of the parity bounds, above 1 for products of reduced precision."""

    @abstractmethod
    def epoch(self, order: IntArray) -> Outcome:
        """Train on every batch of ``order``, the smaller last one too; finish before returning."""

    @abstractmethod
    def weights(self) -> list[FloatArray]:
        """Return W1, b1, W2, b2, … as host arrays, each W (fan-in, fan-out)."""

    def first_steps(self, order: IntArray) -> Outcome:
        """Train exactly in this order, for the parity check; :meth:`epoch` may shuffle anew."""
        return self.epoch(order)


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

    def __init__(self, training: Training, task: Task, inputs: Inputs) -> None:
        super().__init__(task)
        self._training, self._inputs = training, inputs

    def parity(self) -> Figures:
        """See :class:`Runner`."""
        inputs, training = self._inputs, self._training
        outcome = training.first_steps(inputs.order)
        return {
            "difference": path_difference(training.weights(), inputs.expected, list(inputs.start)),
            "loss": outcome.loss,
            "expected_loss": inputs.expected_loss,
            "exact": training.exact,
            "slack": training.slack,
        }

    def call(self, number: int) -> Figures:
        """See :class:`Runner`."""
        outcome = self._training.epoch(self.task.order(number))
        return {"loss": outcome.loss, "accuracy": outcome.accuracy}


class PredictionRunner(Runner):
    """Calls that take NumPy rows and return NumPy probabilities."""

    def __init__(self, predict: Predict, task: Task, inputs: Inputs) -> None:
        super().__init__(task)
        self._predict, self._x = predict, inputs.floats(task.dtype)
        self._expected = inputs.expected[0]

    def parity(self) -> Figures:
        """See :class:`Runner`."""
        rows = len(self._expected)
        step = min(self.task.batch_size, rows)
        parts = [self._predict(self._x[i : min(i + step, rows)]) for i in range(0, rows, step)]
        gaps = np.abs(np.concatenate(parts).astype(np.float64) - self._expected)
        return {"difference": float(gaps.max()), "loss": 0.0, "expected_loss": 0.0, "exact": True}

    def call(self, number: int) -> Figures:
        """See :class:`Runner`."""
        x, predict, step = self._x, self._predict, self.task.batch_size
        starts = range(0, len(x) - step + 1, step)
        for index in range(self.task.n_steps):
            start = starts[index % len(starts)]
            predict(x[start : start + step])
        return {}


class Adapter:
    """One library, loaded in this process.

    Parameters
    ----------
    threads
        CPU threads to use, at most.

    Raises
    ------
    UnsupportedError
        It cannot run on this machine.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions belong in the result."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def device(self) -> tuple[str, bool]:
        """Return the device's description, empty where unknown, and whether it is a GPU."""
        return "", False

    def training(self, task: Task, inputs: Inputs) -> Training:
        """Build the network from ``inputs.start`` and put the data in place."""
        raise UnsupportedError("it does not train")

    def prediction(self, task: Task, inputs: Inputs) -> Predict:
        """Build the network from ``inputs.start``, to predict only."""
        raise UnsupportedError("not measured for prediction")

    def runner(self, task: Task, inputs: Inputs) -> Runner:
        """Build the runner of a task."""
        if task.kind == "train":
            return TrainingRunner(self.training(task, inputs), task, inputs)
        return PredictionRunner(self.prediction(task, inputs), task, inputs)


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
