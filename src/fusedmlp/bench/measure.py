"""A whole run of ``fusedmlp bench``: parity, then everything that is timed, into one document."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from fusedmlp.bench import document, material, phases
from fusedmlp.bench.contestants import (
    THE_PEAK,
    THE_TRIAD,
    Contestant,
    is_own,
    named_peers,
    own,
)
from fusedmlp.bench.driver import Contest
from fusedmlp.errors import BreachedError
from fusedmlp.report import environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.bench.document import Document, TaskEntries
    from fusedmlp.bench.plan import Plan, Request
    from fusedmlp.bench.tasks import Task
    from fusedmlp.datasets import Dataset
    from fusedmlp.types import DenseInputs, FloatDtype, IntArray

KIND: Final = "fusedmlp-bench"

TASK_SECONDS: Final = 12.0
"""A task whose rounds last longer, as they do on a machine that is busy, gets fewer of them."""

WARM_STARTS: Final = 3
"""Processes from whose phases the medians are taken."""


@dataclass(frozen=True, slots=True)
class Voices:
    """How a run talks: lines that stay; and what is being done now, with a detail that changes."""

    say: Callable[[str], None]
    doing: Callable[[str, str], None]


def run(
    request: Request, plan: Plan, data: Dataset, command: list[str], voices: Voices
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
    chosen = _contestants(request)
    with Contest(chosen, found, voices.say, lambda task: rows_for(task, data)) as contest:
        _check(contest, plan, voices)
        found["tasks"] = _timed(contest, plan.trainings, request.rounds, voices)
        found["predictions"] = _timed(contest, plan.predictions, request.rounds, voices)
        most = request.threads[-1]
        found["operations"] = _timed(contest, plan.operations, request.rounds, voices, most)
        found["bandwidths"] = _timed(contest, plan.bandwidths, request.rounds, voices, most)
    if request.with_phases:
        voices.doing("phases of a process", ", cold and warm")
        first = plan.trainings[0]
        mine = [each for each in chosen if is_own(each.name) and each.threads == most]
        warm = 1 if request.quick else WARM_STARTS
        rows = first_rows(first, data)
        found["phases"] = phases.measure(mine, first, rows, warm, voices.say)
    return found


def rows_for(task: Task, data: Dataset) -> tuple[DenseInputs, IntArray]:
    """Return the rows of a task: drawn ones, or the data set's; a prediction gets floats."""
    if task.inputs == "normal":
        return material.drawn_rows(task)
    predicts = task.kind == "predict"
    x, y = _part(data, tested=predicts)
    x, y = x[: task.rows], y[: task.rows]
    if x.dtype == np.uint8 and not predicts:
        return x, y
    return as_floats(x, task.dtype), y


def first_rows(task: Task, data: Dataset) -> dict[str, DenseInputs | IntArray]:
    """Return the rows of the phases: those that a training is given, and those to test on."""
    found: dict[str, DenseInputs | IntArray] = {}
    for suffix, tested in (("", False), ("_test", True)):
        x, y = _part(data, tested=tested)
        x = x[: task.rows]
        found[f"x{suffix}"] = x if x.dtype == np.uint8 else x.astype(task.dtype)
        found[f"y{suffix}"] = y[: task.rows]
    return found


def as_floats(x: DenseInputs, dtype: FloatDtype) -> DenseInputs:
    """Return inputs as floats, pixels divided by 255."""
    if x.dtype == np.uint8:
        return cast("DenseInputs", x / np.asarray(255, dtype))
    return x.astype(dtype)


def _part(data: Dataset, *, tested: bool) -> tuple[DenseInputs, IntArray]:
    x, y = data.x_train, data.y_train
    if tested and data.x_test is not None and data.y_test is not None:
        x, y = data.x_test, data.y_test
    return cast("DenseInputs", x), y.astype(np.int64)


def _contestants(request: Request) -> list[Contestant]:
    everybody = [
        THE_PEAK,
        *([THE_TRIAD] if request.with_roofline else []),
        *map(own, request.backends),
        *named_peers(request.peers),
    ]
    return [replace(each, threads=count) for each in everybody for count in request.threads]


def _check(contest: Contest, plan: Plan, voices: Voices) -> None:
    """Let nobody of ours be timed who computes something else; other libraries are left out."""
    for task in plan.compared():
        voices.doing("parity", f" of {task.name}")
        mine = [(name, why) for name, why in contest.check(task) if is_own(name)]
        if mine:
            lines = "; ".join(f"{name} on {task.name}: {why}" for name, why in mine)
            raise BreachedError(f"nothing was timed: {lines}")


def _timed(
    contest: Contest,
    tasks: tuple[Task, ...],
    rounds: int,
    voices: Voices,
    threads: int | None = None,
) -> list[TaskEntries]:
    found = []
    for task in tasks:
        voices.doing(task.name, ", compiling and warming up")

        def begin(number: int, name: str = task.name) -> None:
            voices.doing(name, f", round {number} of {rounds}")

        found.append(contest.run(task, rounds, begin, threads, TASK_SECONDS))
        contest.forget(task)
    return found
