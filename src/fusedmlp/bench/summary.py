"""What a document of ``fusedmlp bench`` comes to: records, one for each engine and task.

Tables, the CSV file, the pictures and comparisons all read these, so that they cannot disagree.
"""

from __future__ import annotations

import csv
import io
import statistics
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Final

from fusedmlp.bench.contestants import OWN_PREFIX, PEAK, is_own
from fusedmlp.bench.figures import figures, measured, ratio, seconds_a_sample
from fusedmlp.bench.tasks import Task

if TYPE_CHECKING:
    from fusedmlp.bench.document import Document, Entry, TaskEntries
    from fusedmlp.bench.figures import Figure

REFERENCE: Final = f"{OWN_PREFIX}numpy"
"""Whom speeds are compared with, where it takes part."""


@dataclass(frozen=True, slots=True)
class Record:
    """One engine at one task.

    Parameters
    ----------
    engine
        A backend's name, or a peer's.
    seconds
        Of the timed call, the median.
    samples_per_s, slowest, fastest
        The median of the rounds, and their ends.
    spread
        (slowest − fastest) / median of the rounds' times.
    ratio
        How many times as fast as the ``reference``: the median of the rounds' ratios.
    share_of_peak
        Of the fused multiply-adds that as many threads did in the same rounds.
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


def engine_name(peer: str) -> str:
    """Name a contestant as people do: a backend by its own name."""
    return peer.removeprefix(OWN_PREFIX)


def reference(found: TaskEntries, threads: int) -> Entry | None:
    """Return whom a task's speeds are compared with on as many threads: NumPy, else our first."""
    here = [e for e in measured(found) if is_own(e["peer"]) and e["threads"] == threads]
    return next((e for e in here if e["peer"] == REFERENCE), here[0] if here else None)


def records(document: Document) -> list[Record]:
    """Return a record for every engine and task that was measured, in the order of measuring."""
    sections = {
        "training": document.get("tasks", []),
        "prediction": document.get("predictions", []),
        "operation": document.get("operations", []),
    }
    return [
        _record(name, each, figure)
        for name, entries in sections.items()
        for each in entries
        for figure in figures(each)
        if figure.entry["peer"] != PEAK
    ]


def as_csv(document: Document) -> str:
    """Write the records, one a line, under their names."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [each.name for each in fields(Record)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(each) for each in records(document))
    return out.getvalue()


def _record(section: str, each: TaskEntries, figure: Figure) -> Record:
    entry, task = figure.entry, Task.from_dict(each["task"])
    times = seconds_a_sample(entry)
    beside = reference(each, entry["threads"])
    assert figure.rate is not None
    return Record(
        section,
        task.name,
        "-".join(map(str, task.sizes)),
        task.batch_size,
        task.dtype,
        engine_name(entry["peer"]),
        not is_own(entry["peer"]),
        entry["threads"],
        task.samples * statistics.median(times),
        figure.rate,
        1 / max(times),
        1 / min(times),
        figure.spread,
        figure.gflops,
        figure.share,
        None if beside is None else ratio(beside, entry),
        "" if beside is None else engine_name(beside["peer"]),
    )
