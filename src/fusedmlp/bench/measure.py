"""A whole run of ``fusedmlp bench``: parity first, then all timings, into one document."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from fusedmlp.bench import document
from fusedmlp.bench.scheduler import Options, RoundRobin
from fusedmlp.bench.tasks import as_floats
from fusedmlp.errors import BreachedError
from fusedmlp.report import environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.bench.document import Document, TaskEntries
    from fusedmlp.bench.subjects import Subject
    from fusedmlp.bench.tasks import Task
    from fusedmlp.datasets import Dataset
    from fusedmlp.types import DenseInputs, IntArray

KIND: Final = "fusedmlp-bench"

TASK_SECONDS: Final = 12.0
"""A task whose rounds take longer than this gets fewer of them, as on a busy machine."""

FLOP_PER_SECOND: Final = 60e9
"""Of a slow core, to weigh the tasks for the time left."""

PREPARING: Final = 2
"""Rounds that take as long as preparing a task: its parity check, and a call to warm up."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Parameters
    ----------
    trainings, predictions
        In the order of measuring; the first training is drawn as bars and has the headline.
    settings
        The options, for the document.
    """

    subjects: tuple[Subject, ...]
    trainings: tuple[Task, ...]
    predictions: tuple[Task, ...]
    rounds: int
    settings: dict[str, object]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Trainings, then predictions."""
        return self.trainings + self.predictions


@dataclass(frozen=True, slots=True)
class Messages:
    """Outputs of a run.

    Parameters
    ----------
    say
        Receives lines that stay.
    doing
        Receives the current activity, its changing detail, and the seconds left where known.
    """

    say: Callable[[str], None]
    doing: Callable[[str, str, float | None], None]


class TimeLeft:
    """Estimates the time left from the share of the work that is done.

    Parameters
    ----------
    total
        All work, in any unit.
    """

    def __init__(self, total: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock, self._began = total, clock, clock()

    def seconds(self, done: float) -> float | None:
        """Return the seconds left after so much work; None while nothing is done."""
        if done <= 0:
            return None
        return (self._clock() - self._began) / done * (self._total - done)


def run(plan: Plan, data: Dataset, command: list[str], messages: Messages) -> Document:
    """Measure the plan.

    Raises
    ------
    BreachedError
        A backend does not compute what the NumPy backend does. Nothing was timed.
    """
    found = document.new(plan.settings, command)
    found["kind"] = KIND
    found["environment"] = environment(command)
    found["dataset"] = data.summary()
    options = Options(
        source=lambda task: rows_for(task, data), say=messages.say, most_seconds=TASK_SECONDS
    )
    with RoundRobin(plan.subjects, found, options) as benchmark:
        _check(benchmark, plan, messages)
        measured = timed(benchmark, plan, messages)
    n_trainings = len(plan.trainings)
    found["tasks"], found["predictions"] = measured[:n_trainings], measured[n_trainings:]
    return found


def rows_for(task: Task, data: Dataset) -> tuple[DenseInputs, IntArray]:
    """Return the rows of the data set for a task; a prediction gets floats."""
    predicts = task.kind == "predict"
    x, y = data.x_train, data.y_train
    if predicts and data.x_test is not None and data.y_test is not None:
        x, y = data.x_test, data.y_test
    rows, classes = cast("DenseInputs", x)[: task.rows], y[: task.rows].astype(np.int64)
    if rows.dtype == np.uint8 and not predicts:
        return rows, classes
    return as_floats(rows, task.dtype), classes


def _check(benchmark: RoundRobin, plan: Plan, messages: Messages) -> None:
    """Abort if one of the backends fails parity."""
    for index, task in enumerate(plan.tasks, 1):
        messages.doing("parity", f" {index} of {len(plan.tasks)}: {task.name}", None)
        breaches = benchmark.check(task)
        if breaches:
            raise BreachedError(f"nothing was timed: {'; '.join(breaches)}")


def timed(
    benchmark: RoundRobin,
    plan: Plan,
    messages: Messages,
    clock: Callable[[], float] = time.monotonic,
) -> list[TaskEntries]:
    """Measure task after task with the same rounds; tell what is done and the time left."""
    costs = [
        max(each.seconds, each.samples * each.flops_per_sample / FLOP_PER_SECOND)
        for each in plan.tasks
    ]
    found, done, rounds = [], 0.0, PREPARING + plan.rounds
    left = TimeLeft(sum(costs) * rounds, clock)
    for index, (task, cost) in enumerate(zip(plan.tasks, costs, strict=True), 1):
        name = f"{task.name} ({index} of {len(costs)})"
        messages.doing(name, ", compiling and warming up", left.seconds(done))

        def begin(number: int, name: str = name, begun: float = done, cost: float = cost) -> None:
            seconds = left.seconds(begun + cost * (PREPARING + number - 1))
            messages.doing(name, f", round {number} of {plan.rounds}", seconds)

        found.append(benchmark.run(task, plan.rounds, begin))
        done += cost * rounds
    return found
