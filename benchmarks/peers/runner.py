"""A task in the hands of one peer: the parity figures, and one timed round after another."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from peers.material import PARITY_PREDICTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedmlp.types import FloatArray
    from peers.contract import Peer
    from peers.material import Material
    from peers.tasks import Task

Figures = dict[str, float | bool | None]


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
        """Time calls until the task's seconds have passed; at least one."""
        calls, found = 0, Figures()
        began = time.perf_counter()
        while True:
            found = self.call(number)
            calls += 1
            seconds = time.perf_counter() - began
            if seconds >= self.task.seconds:
                return found | {"seconds": seconds, "samples": calls * self.task.samples}


class TrainingRunner(Runner):
    """Epochs, or parts of one: the permutation, the gathering and the sums are timed."""

    def __init__(self, peer: Peer, task: Task, material: Material) -> None:
        super().__init__(task)
        self._material = material
        self._training = peer.training(task, material)

    def parity(self) -> Figures:
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
        rows, step = PARITY_PREDICTIONS, min(self.task.batch_size, PARITY_PREDICTIONS)
        parts = [self._predict(self._x[i : i + step]) for i in range(0, rows, step)]
        found = np.concatenate(parts).astype(np.float64)
        difference = float(np.abs(found - self._expected).max())
        return {"exact": True, "difference": difference, "loss": 0.0, "expected_loss": 0.0}

    def call(self, number: int) -> Figures:
        x, predict, step = self._x, self._predict, self.task.batch_size
        starts = range(0, len(x) - step + 1, step)
        for index in range(self.task.n_steps):
            start = starts[index % len(starts)]
            predict(x[start : start + step])
        return {}


class PeakRunner(Runner):
    """How fast the machine multiplies and adds: no task at all."""

    def __init__(self, task: Task, compute: Callable[[], float]) -> None:
        super().__init__(task)
        self._compute = compute

    def parity(self) -> Figures:
        return {}

    def call(self, number: int) -> Figures:
        return {"flops": self._compute()}

    def round(self, number: int) -> Figures:
        began = time.perf_counter()
        found = self.call(number)
        return found | {"seconds": time.perf_counter() - began}


def runner(peer: Peer, task: Task, material: Material) -> Runner:
    """Put a task in a peer's hands.

    Raises
    ------
    UnsupportedError
        The peer cannot do it.
    """
    compute = peer.speed(task)
    if compute is not None:
        return PeakRunner(task, compute)
    kind = TrainingRunner if task.kind == "train" else PredictionRunner
    return kind(peer, task, material)


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
