"""What follows from the measured rounds: medians, spreads, ratios, shares of the peak, verdicts."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusedmlp.bench.contestants import OURS, PEAK, is_own
from fusedmlp.bench.gauge import STEADY
from fusedmlp.bench.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fusedmlp.bench.document import Entry, TaskEntries


@dataclass(frozen=True, slots=True)
class Figure:
    """One contestant on one task.

    Parameters
    ----------
    rate
        Median samples per second; None for the peak.
    spread
        (slowest − fastest) / median of the rounds' times.
    gflops
        Of the dense products, whatever was skipped.
    share
        Of the peak of as many threads, measured in the same rounds; None without it, and for a
        GPU, whose peak is another.
    ratio
        How many times as fast ours is on as many threads: the median of the rounds' ratios.
    """

    entry: Entry
    task: Task
    rate: float | None
    spread: float
    gflops: float
    share: float | None
    ratio: float | None

    @property
    def microseconds(self) -> float | None:
        """Per step."""
        return 1e6 * self.task.batch_size / self.rate if self.rate else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Ours on its best number of threads against the best peer on its own."""

    task: str
    ours: Figure
    best: Figure
    ratio: float


def seconds_a_sample(entry: Entry) -> list[float]:
    """Of every round."""
    return [each["seconds"] / each["samples"] for each in entry["rounds"]]


def ratio(theirs: Entry, ours: Entry) -> float:
    """Median over the rounds of their time by ours: above 1, ours is faster."""
    pairs = zip(seconds_a_sample(theirs), seconds_a_sample(ours), strict=False)
    return statistics.median(a / b for a, b in pairs)


def measured(found: TaskEntries) -> list[Entry]:
    """Entries that have rounds to count."""
    return [e for e in found["entries"] if e["status"] == "measured" and e["rounds"]]


def figures(found: TaskEntries) -> list[Figure]:
    """Every measured entry's figures, the peak included, in the order of the entries."""
    task = Task.from_dict(found["task"])
    entries = measured(found)
    peaks = {e["threads"]: _peak(e) for e in entries if e["peer"] == PEAK}
    ours = {e["threads"]: e for e in entries if e["peer"] == OURS}
    result = []
    for entry in entries:
        times = [each["seconds"] for each in entry["rounds"]]
        spread = (max(times) - min(times)) / statistics.median(times)
        peak = None if entry.get("is_gpu") else peaks.get(entry["threads"])
        if entry["peer"] == PEAK:
            result.append(Figure(entry, task, None, spread, _peak(entry), 1.0, None))
            continue
        rate = 1 / statistics.median(seconds_a_sample(entry))
        gflops = found["flops_per_sample"] * rate / 1e9
        own = ours.get(entry["threads"])
        result.append(
            Figure(
                entry,
                task,
                rate,
                spread,
                gflops,
                gflops / peak if peak else None,
                ratio(entry, own) if own else None,
            )
        )
    return result


def verdict(found: TaskEntries) -> Verdict | None:
    """Compare ours with the best peer; None where either was not measured."""
    known = [figure for figure in figures(found) if figure.rate is not None]
    ours = _fastest([f for f in known if f.entry["peer"] == OURS])
    best = _fastest([f for f in known if not is_own(f.entry["peer"])])
    if ours is None or best is None:
        return None
    return Verdict(ours.task.name, ours, best, ratio(best.entry, ours.entry))


def disturbance(found: TaskEntries) -> float:
    """Return the largest share of a round that idle workers computed in; 0 where not known."""
    shares = [r.get("disturbance") or 0.0 for e in found["entries"] for r in e["rounds"]]
    return max(shares, default=0.0)


def unsteady(found: Iterable[TaskEntries]) -> tuple[int, int]:
    """Count the turns that stayed disturbed, and all that were looked at."""
    shares = [
        round_["steadiness"]
        for each in found
        for entry in each["entries"]
        for round_ in entry["rounds"]
        if "steadiness" in round_
    ]
    return sum(share < STEADY for share in shares), len(shares)


def _peak(entry: Entry) -> float:
    return statistics.median(each["flops"] / each["seconds"] for each in entry["rounds"]) / 1e9


def _fastest(found: Sequence[Figure]) -> Figure | None:
    return max(found, key=lambda figure: figure.rate or 0.0, default=None)
