"""Results computed from a document: one record for each subject and task.

Tables, charts and comparisons all read these records, so that they cannot disagree.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusedmlp.bench.noise import STEADY
from fusedmlp.bench.subjects import NUMPY, PEAK, engine_name, is_own
from fusedmlp.bench.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fusedmlp.bench.document import Document, Entry, TaskEntries


@dataclass(frozen=True, slots=True)
class Record:
    """One subject on one task.

    Parameters
    ----------
    engine
        A backend's name, or a library's.
    seconds
        Of the timed call, the median.
    samples_per_s, slowest, fastest
        The median of the rounds, and their ends.
    spread
        (slowest − fastest) / median of the rounds' times.
    gflops
        Of the dense products, whether an engine skips some or not.
    share_of_peak
        Share of the multiply-adds that as many threads did in the same rounds; None without that
        measurement, and for a GPU.
    ratio
        Speed relative to ``reference``: the median of the rounds' ratios.
    """

    section: str
    task: str
    network: str
    batch_size: int
    dtype: str
    engine: str
    is_peer: bool
    threads: int
    seconds: float
    samples_per_s: float
    slowest: float
    fastest: float
    spread: float
    gflops: float
    share_of_peak: float | None
    ratio: float | None
    reference: str

    @property
    def microseconds(self) -> float:
        """Time of one step."""
        return 1e6 * self.batch_size / self.samples_per_s


def records(document: Document) -> list[Record]:
    """Return a record for every measured subject and task, in the order of measuring."""
    sections = {
        "training": document.get("tasks", []),
        "prediction": document.get("predictions", []),
    }
    return [
        each
        for name, found in sections.items()
        for one in found
        for each in task_records(one, name)
    ]


def task_records(found: TaskEntries, section: str = "training") -> list[Record]:
    """Return the records of one task; the multiply-add peak is not among them."""
    task, peaks = Task.from_dict(found["task"]), peak_rates(found)
    result = []
    for entry in measured(found):
        if entry["peer"] == PEAK:
            continue
        times, baseline = seconds_per_sample(entry), baseline_entry(found, entry["threads"])
        rate = 1 / statistics.median(times)
        flops = found["flops_per_sample"] * rate
        peak = None if entry.get("is_gpu") else peaks.get(entry["threads"])
        durations = [each["seconds"] for each in entry["rounds"]]
        result.append(
            Record(
                section=section,
                task=task.name,
                network="-".join(map(str, task.sizes)),
                batch_size=task.batch_size,
                dtype=task.dtype,
                engine=engine_name(entry["peer"]),
                is_peer=not is_own(entry["peer"]),
                threads=entry["threads"],
                seconds=task.samples * statistics.median(times),
                samples_per_s=rate,
                slowest=1 / max(times),
                fastest=1 / min(times),
                spread=(max(durations) - min(durations)) / statistics.median(durations),
                gflops=flops / 1e9,
                share_of_peak=flops / peak if peak else None,
                ratio=None if baseline is None else speed_ratio(entry, baseline),
                reference="" if baseline is None else engine_name(baseline["peer"]),
            )
        )
    return result


def baseline_entry(found: TaskEntries, threads: int) -> Entry | None:
    """Return the entry that speeds are compared with: NumPy's, else that of the first backend."""
    own = [e for e in measured(found) if is_own(e["peer"]) and e["threads"] == threads]
    return next((e for e in own if e["peer"] == NUMPY), own[0] if own else None)


def measured(found: TaskEntries) -> list[Entry]:
    """Entries with rounds to count."""
    return [e for e in found["entries"] if e["status"] == "measured" and e["rounds"]]


def seconds_per_sample(entry: Entry) -> list[float]:
    """Of every round."""
    return [each["seconds"] / each["samples"] for each in entry["rounds"]]


def round_ratios(entry: Entry, baseline: Entry) -> list[float]:
    """Ratio of the baseline's time to the entry's in every round: above 1 the entry is faster."""
    pairs = zip(seconds_per_sample(baseline), seconds_per_sample(entry), strict=False)
    return [base / own for base, own in pairs]


def speed_ratio(entry: Entry, baseline: Entry) -> float:
    """Median of :func:`round_ratios`."""
    return statistics.median(round_ratios(entry, baseline))


def peak_rates(found: TaskEntries) -> dict[int, float]:
    """Multiply-adds per second (FLOP/s), by number of threads: the median of the rounds."""
    return {
        entry["threads"]: statistics.median(r["flops"] / r["seconds"] for r in entry["rounds"])
        for entry in measured(found)
        if entry["peer"] == PEAK
    }


def disturbance(found: TaskEntries) -> float:
    """Return the largest share of a round in which idle workers computed; 0 where unknown."""
    shares = [r.get("disturbance") or 0.0 for e in found["entries"] for r in e["rounds"]]
    return max(shares, default=0.0)


def unsteady(found: Iterable[TaskEntries]) -> tuple[int, int]:
    """Count the turns that stayed disturbed, and all turns with a known steadiness."""
    shares = [
        turn["steadiness"]
        for each in found
        for entry in each["entries"]
        for turn in entry["rounds"]
        if "steadiness" in turn
    ]
    return sum(share < STEADY for share in shares), len(shares)
