"""Results computed from a document: one record for each subject and task.

Tables, charts and comparisons all read these records, so that they cannot disagree.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fusedmlp.bench.scheduler import LEAST_ROUNDS
from fusedmlp.bench.subjects import NUMPY, PEAK, engine_name, is_own
from fusedmlp.bench.tasks import Task

if TYPE_CHECKING:
    from fusedmlp.bench.document import Document, Entry, TaskEntries

CERTAIN_RATIO: Final = 1.5
"""Largest quotient of a ratio's highest and lowest round, for the ratio to be stated as one figure.
On an idle machine it is below 1.3; other processes slow one engine more than another."""

NOTICED_WAITING: Final = 0.1
"""Share of the time in which an engine's threads wait for a CPU, above which its figures are
disturbed: under a constant load all rounds may agree on a wrong ratio."""


@dataclass(frozen=True, slots=True)
class Record:
    """One subject on one task.

    Parameters
    ----------
    engine
        A backend's name, or a library's.
    rounds
        Number of rounds that were measured.
    seconds
        Of the timed call, the median.
    samples_per_s, slowest, fastest
        The median of the rounds, and their ends.
    spread
        (slowest − fastest) / median of the rounds' times of a sample.
    gflops
        Of the dense products, whether an engine skips some or not.
    share_of_peak
        Share of the multiply-adds that as many threads did in the same rounds; None without that
        measurement, and for a GPU.
    waited
        Share of the time in which it, or its reference, waited for a CPU: the median of the rounds.
    ratio, lowest_ratio, highest_ratio
        Speed relative to ``reference``: the median of the rounds' ratios, and their ends.
    """

    section: str
    task: str
    network: str
    batch_size: int
    dtype: str
    engine: str
    threads: int
    rounds: int
    seconds: float
    samples_per_s: float
    slowest: float
    fastest: float
    spread: float
    gflops: float
    share_of_peak: float | None
    waited: float
    ratio: float | None
    lowest_ratio: float | None
    highest_ratio: float | None
    reference: str

    @property
    def microseconds(self) -> float:
        """Time of one step."""
        return 1e6 * self.batch_size / self.samples_per_s

    @property
    def is_reference(self) -> bool:
        """Whether the others are compared with this one."""
        return self.engine == self.reference

    @property
    def is_disturbed(self) -> bool:
        """Whether other processes had the CPUs for a noticeable time."""
        return self.waited > NOTICED_WAITING

    @property
    def has_certain_ratio(self) -> bool:
        """Whether the rounds agree on one ratio, and were not disturbed."""
        if self.lowest_ratio is None or self.highest_ratio is None or self.is_disturbed:
            return False
        is_narrow = self.highest_ratio <= CERTAIN_RATIO * self.lowest_ratio
        return is_narrow and self.rounds >= LEAST_ROUNDS


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
        time, flops = statistics.median(times), found["flops_per_sample"]
        peak = None if entry.get("is_gpu") else peaks.get(entry["threads"])
        ratios = [] if baseline is None else round_ratios(entry, baseline)
        result.append(
            Record(
                section=section,
                task=task.name,
                network="-".join(map(str, task.sizes)),
                batch_size=task.batch_size,
                dtype=task.dtype,
                engine=engine_name(entry["peer"]),
                threads=entry["threads"],
                rounds=len(times),
                seconds=task.samples * time,
                samples_per_s=1 / time,
                slowest=1 / max(times),
                fastest=1 / min(times),
                spread=(max(times) - min(times)) / time,
                gflops=flops / time / 1e9,
                share_of_peak=flops / time / peak if peak else None,
                waited=max(map(waiting, [entry] if baseline is None else [entry, baseline])),
                ratio=statistics.median(ratios) if ratios else None,
                lowest_ratio=min(ratios, default=None),
                highest_ratio=max(ratios, default=None),
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


def waiting(entry: Entry) -> float:
    """Share of the time in which an entry's threads waited for a CPU; 0 where unknown."""
    return statistics.median(each.get("waited", 0.0) for each in entry["rounds"])


def round_ratios(entry: Entry, baseline: Entry) -> list[float]:
    """Ratio of the baseline's time to the entry's in every round: above 1 the entry is faster."""
    pairs = zip(seconds_per_sample(baseline), seconds_per_sample(entry), strict=False)
    return [base / own for base, own in pairs]


def peak_rates(found: TaskEntries) -> dict[int, float]:
    """Multiply-adds per second (FLOP/s), by number of threads: the median of the rounds."""
    return {
        entry["threads"]: statistics.median(r["flops"] / r["seconds"] for r in entry["rounds"])
        for entry in measured(found)
        if entry["peer"] == PEAK
    }


def all_tasks(document: Document) -> list[TaskEntries]:
    """Trainings, then predictions."""
    return [*document.get("tasks", ()), *document.get("predictions", ())]


def failures(document: Document, status: str) -> list[str]:
    """Name each entry with this status, and why; with ``failed`` also the workers that ended."""
    found = [
        f"{engine_name(entry['peer'])} on {each['task']['name']}: {entry['reason']}"
        for each in all_tasks(document)
        for entry in each["entries"]
        if entry["status"] == status
    ]
    if status == "failed":
        found += [f"{engine_name(label)}: {why}" for label, why in document["skipped"].items()]
    return found
