"""What the machine would allow each operation, beside what was achieved: the roofline model.

An operation that does F operations and must move Q bytes can run at min(peak, F/Q · bandwidth) at
most (Williams, Waterman and Patterson, 2009). The peak is that of fused multiply-adds in the same
rounds. The bandwidth is the triad's from the smallest cache that holds all that the operation
touches, for a repeated call finds it there (the cache-aware model of Ilic et al., 2014).
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from fusedmlp.bench import machine
from fusedmlp.bench.contestants import PEAK
from fusedmlp.bench.figures import figures, measured
from fusedmlp.bench.tasks import Task
from fusedmlp.bench.work import Work, work

if TYPE_CHECKING:
    from fusedmlp.bench.document import Document, TaskEntries


@dataclass(frozen=True, slots=True)
class Level:
    """A cache, or the memory.

    Parameters
    ----------
    capacity
        Bytes, of all cores that take part; infinite for the memory.
    working_set
        Bytes that the triad ran through.
    rate
        Bytes per second.
    """

    name: str
    capacity: float
    working_set: int
    rate: float


@dataclass(frozen=True, slots=True)
class Point:
    """One engine at one operation.

    Parameters
    ----------
    seconds
        Of one call, or of one step where a call trains on several; the median.
    rate, bound
        Operations per second: achieved, and possible.
    limit
        What bounds it: ``FMA`` or a level's name.
    """

    operation: str
    peer: str
    threads: int
    work: Work
    seconds: float
    rate: float
    bound: float
    limit: str

    @property
    def share(self) -> float:
        """Of the bound."""
        return self.rate / self.bound


def levels(document: Document) -> list[Level]:
    """Return what the triad measured, from the nearest cache to the memory."""
    found = []
    for each in document.get("bandwidths", ()):
        task = Task.from_dict(each["task"])
        for entry in measured(each):
            caches = cast("dict[str, str]", document["machine"]["caches"])
            known = machine.capacities(entry["threads"], caches)
            rates = [round_["bytes"] / round_["seconds"] for round_ in entry["rounds"]]
            size = int(work(task).bytes)
            capacity = float(known.get(task.name, "inf"))
            found.append(Level(task.name, capacity, size, statistics.median(rates)))
    return found


def points(document: Document) -> list[Point]:
    """Return every engine's operations; none where the peak or the bandwidth is not known."""
    known = levels(document)
    if not known:
        return []
    return [point for each in document.get("operations", ()) for point in _points(each, known)]


def peak(document: Document) -> float | None:
    """Median FLOP/s of the peak over the operations' tasks; None where it was not measured."""
    rates = [
        figure.gflops * 1e9
        for each in document.get("operations", ())
        for figure in figures(each)
        if figure.entry["peer"] == PEAK
    ]
    return statistics.median(rates) if rates else None


def _points(each: TaskEntries, known: list[Level]) -> list[Point]:
    task = Task.from_dict(each["task"])
    done = work(task)
    level = next(level for level in known if done.footprint <= level.capacity)
    allowed = done.intensity * level.rate
    found = []
    entries = figures(each)
    for figure in entries:
        entry = figure.entry
        tops = [f.gflops * 1e9 for f in entries if f.entry["peer"] == PEAK]
        if entry["peer"] == PEAK or entry.get("is_gpu") or not tops:
            continue
        calls = [r["seconds"] * task.samples / r["samples"] for r in entry["rounds"]]
        seconds = statistics.median(calls)
        steps = task.n_steps if task.kind == "train" else 1
        bound, limit = min((tops[0], "FMA"), (allowed, level.name))
        found.append(
            Point(
                str(each["task"]["name"]),
                entry["peer"],
                entry["threads"],
                done,
                seconds / steps,
                done.flops / seconds,
                bound,
                limit,
            )
        )
    return found
