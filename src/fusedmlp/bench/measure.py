"""A whole run of ``fusedmlp bench``: parity first, then all timings, into one document."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from fusedmlp.bench import document, startup
from fusedmlp.bench.inputs import as_floats
from fusedmlp.bench.prepare import prepare
from fusedmlp.bench.scheduler import Options, RoundRobin
from fusedmlp.bench.subjects import PEAK_SUBJECT, Subject, backend_subject, is_own
from fusedmlp.errors import BreachedError
from fusedmlp.registry import backend_class
from fusedmlp.report import environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.bench.document import Document, TaskEntries
    from fusedmlp.bench.plan import Plan, Request
    from fusedmlp.bench.tasks import Task
    from fusedmlp.datasets import Dataset
    from fusedmlp.types import DenseInputs, IntArray

KIND: Final = "fusedmlp-bench"

TASK_SECONDS: Final = 12.0
"""A task whose rounds take longer than this gets fewer of them, as on a busy machine."""

WARM_STARTS: Final = 3
"""Warm processes of the start-up measurement; medians are taken over them."""


@dataclass(frozen=True, slots=True)
class Messages:
    """Outputs of a run: lines that stay, and the current activity with a changing detail."""

    say: Callable[[str], None]
    doing: Callable[[str, str], None]


def run(
    request: Request, plan: Plan, data: Dataset, command: list[str], messages: Messages
) -> Document:
    """Measure the plan.

    Raises
    ------
    BreachedError
        A backend does not compute what the NumPy backend does. Nothing was timed.
    """
    found = document.new(request.to_dict(), command)
    found["kind"] = KIND
    found["environment"] = environment(command)
    found["dataset"] = data.summary()
    chosen = _subjects(request)
    options = Options(source=lambda task: rows_for(task, data))
    with RoundRobin(chosen, found, messages.say, options) as benchmark:
        _check(benchmark, plan, messages)
        found["tasks"] = _timed(benchmark, plan.trainings, request.rounds, messages)
        found["predictions"] = _timed(benchmark, plan.predictions, request.rounds, messages)
    if request.with_phases:
        messages.doing("phases of a process", ", cold and warm")
        first = plan.trainings[0]
        most = request.threads[-1]
        own = [each for each in chosen if is_own(each.name) and each.threads == most]
        test_x, test_y = _part(data, tested=True)
        if test_x.dtype != np.uint8:
            test_x = test_x.astype(first.dtype)
        test = test_x[: first.rows], test_y[: first.rows]
        inputs = prepare(first, options.source, backend_class("numpy")())
        warm = 1 if request.quick else WARM_STARTS
        found["phases"] = startup.measure(own, first, inputs, test, warm, messages.say)
    return found


def rows_for(task: Task, data: Dataset) -> tuple[DenseInputs, IntArray]:
    """Return the rows of the data set for a task; a prediction gets floats."""
    predicts = task.kind == "predict"
    x, y = _part(data, tested=predicts)
    x, y = x[: task.rows], y[: task.rows]
    if x.dtype == np.uint8 and not predicts:
        return x, y
    return as_floats(x, task.dtype), y


def _part(data: Dataset, *, tested: bool) -> tuple[DenseInputs, IntArray]:
    x, y = data.x_train, data.y_train
    if tested and data.x_test is not None and data.y_test is not None:
        x, y = data.x_test, data.y_test
    return cast("DenseInputs", x), y.astype(np.int64)


def _subjects(request: Request) -> list[Subject]:
    chosen = [PEAK_SUBJECT, *map(backend_subject, request.backends)]
    return [replace(each, threads=count) for each in chosen for count in request.threads]


def _check(benchmark: RoundRobin, plan: Plan, messages: Messages) -> None:
    """Abort if one of the backends fails parity."""
    for task in plan.trainings + plan.predictions:
        messages.doing("parity", f" of {task.name}")
        breaches = benchmark.check(task)
        if breaches:
            lines = "; ".join(f"{name} on {task.name}: {why}" for name, why in breaches)
            raise BreachedError(f"nothing was timed: {lines}")


def _timed(
    benchmark: RoundRobin, tasks: tuple[Task, ...], rounds: int, messages: Messages
) -> list[TaskEntries]:
    """Measure task after task with the same rounds."""
    found = []
    for task in tasks:
        messages.doing(task.name, ", compiling and warming up")

        def begin(number: int, name: str = task.name) -> None:
            messages.doing(name, f", round {number} of {rounds}")

        found.append(benchmark.run(task, rounds, begin, TASK_SECONDS))
        benchmark.forget(task)
    return found
