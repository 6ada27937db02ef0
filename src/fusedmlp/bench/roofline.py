"""The roofline model: what the machine allows each operation, beside what was achieved.

An operation of F floating-point operations that must move Q bytes runs at most at
min(peak, F/Q · bandwidth) (Williams, Waterman and Patterson, 2009). The peak is that of fused
multiply-adds in the same rounds. The bandwidth is the triad's from the smallest cache that holds
all that the operation touches, since a repeated call finds its data there (Ilic et al., 2014).
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from fusedmlp.bench import machine
from fusedmlp.bench.results import measured, peak_rates, task_records
from fusedmlp.bench.tasks import Task, Work

if TYPE_CHECKING:
    from fusedmlp.bench.document import Document, TaskEntries


@dataclass(frozen=True, slots=True)
class Level:
    """A cache, or the memory.

    Parameters
    ----------
    capacity
        Bytes, over all cores in use; infinite for the memory.
    working_set
        Bytes of the triad's arrays.
    rate
        Bytes per second.
    """

    name: str
    capacity: float
    working_set: int
    rate: float


@dataclass(frozen=True, slots=True)
class Point:
    """One engine on one operation.

    Parameters
    ----------
    seconds
        Of one call, or of one step where a call trains on several; the median.
    rate, bound
        Operations per second: achieved, and possible.
    limit
        The limit that sets the bound: ``FMA`` or a level's name.
    """

    operation: str
    engine: str
    work: Work
    seconds: float
    rate: float
    bound: float
    limit: str

    @property
    def share(self) -> float:
        """Share of the bound."""
        return self.rate / self.bound


def levels(document: Document) -> list[Level]:
    """Return the levels that the triad measured, from the nearest cache to the memory."""
    found = []
    for each in document.get("bandwidths", ()):
        task = Task.from_dict(each["task"])
        for entry in measured(each):
            caches = cast("dict[str, str]", document["machine"]["caches"])
            known = machine.capacities(entry["threads"], caches)
            rates = [round_["bytes"] / round_["seconds"] for round_ in entry["rounds"]]
            size = int(task.work.bytes)
            capacity = float(known.get(task.name, "inf"))
            found.append(Level(task.name, capacity, size, statistics.median(rates)))
    return found


def points(document: Document) -> list[Point]:
    """Return a point for each engine and operation; none if peak or bandwidth is unknown."""
    known = levels(document)
    return [p for each in document.get("operations", ()) for p in _points(each, known) if known]


def peak(document: Document) -> float | None:
    """Median FLOP/s of the peak over the operations' tasks; None where it was not measured."""
    rates = [r for each in document.get("operations", ()) for r in peak_rates(each).values()]
    return statistics.median(rates) if rates else None


def _points(each: TaskEntries, known: list[Level]) -> list[Point]:
    task, peaks = Task.from_dict(each["task"]), peak_rates(each)
    work = task.work
    level = next((level for level in known if work.footprint <= level.capacity), None)
    found = []
    for record in task_records(each, "operation"):
        if record.share_of_peak is None or level is None:
            continue  # a GPU, or no peak
        top = peaks[record.threads]
        bound, limit = min((top, "FMA"), (work.intensity * level.rate, level.name))
        steps = task.n_steps if task.kind == "train" else 1
        rate = work.flops / record.seconds
        seconds = record.seconds / steps
        found.append(Point(task.name, record.engine, work, seconds, rate, bound, limit))
    return found
