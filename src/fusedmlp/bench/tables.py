"""The tables of ``fusedmlp bench``, for terminal and page: ready text, made from a document."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Final, cast

from fusedmlp.bench import roofline
from fusedmlp.bench.figures import disturbance, measured
from fusedmlp.bench.phases import PHASES
from fusedmlp.bench.summary import engine_name, records
from fusedmlp.report import Column, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedmlp.bench.compare import Change
    from fusedmlp.bench.document import Document, TaskEntries
    from fusedmlp.bench.summary import Record
    from fusedmlp.report.page import Mark

NOTICED_SPREAD: Final = 0.5
"""Spread of rounds that a quiet machine does not have."""

NOTICED_DISTURBANCE: Final = 0.02
"""Share of a round that idle processes may compute without a remark."""


def throughput(document: Document, section: str) -> Table:
    """Every ``training`` or ``prediction``: a row for each engine, the fastest first."""
    found = [each for each in records(document) if each.section == section]
    found.sort(key=lambda each: (tuple(map(int, each.network.split("-"))), each.batch_size))
    has_threads = len({each.threads for each in found}) > 1
    has_dtypes = len({each.dtype for each in found}) > 1
    versus = sorted({each.reference for each in found if each.reference})
    columns = [
        Column("network"),
        Column("batch", is_number=True),
        *([Column("dtype")] if has_dtypes else []),
        Column("engine"),
        *([Column("threads", is_number=True)] if has_threads else []),
        Column("samples/s", is_number=True),
        Column("spread", is_number=True),
        Column(f"× {versus[0]}" if len(versus) == 1 else "ratio", is_number=True),
        Column("GFLOP/s", is_number=True),
        Column("of peak", is_number=True),
    ]
    rows = []
    for task in dict.fromkeys(each.task for each in found):
        here = [each for each in found if each.task == task]
        here.sort(key=lambda each: -each.samples_per_s)
        for index, each in enumerate(here):
            rows.append(
                [
                    *(_task_cells(each, has_dtypes) if not index else [""] * (2 + has_dtypes)),
                    each.engine,
                    *([str(each.threads)] if has_threads else []),
                    f"{each.samples_per_s:,.0f}",
                    percent(each.spread) if wanted_rounds(document) > 1 else "",
                    "" if each.ratio is None else f"{each.ratio:.2f}",
                    f"{each.gflops:,.1f}",
                    "" if each.share_of_peak is None else percent(each.share_of_peak),
                ]
            )
    return Table(columns, rows)


def operations(document: Document) -> Table:
    """Every operation: what it took, what it did, and what the machine would allow."""
    columns = [
        Column("operation"),
        Column("engine"),
        Column("time", is_number=True),
        Column("FLOP/B", is_number=True),
        Column("GFLOP/s", is_number=True),
        Column("bound", is_number=True),
        Column("of bound", is_number=True),
    ]
    rows, before = [], ""
    for point in roofline.points(document):
        rows.append(
            [
                "" if point.operation == before else point.operation,
                engine_name(point.peer),
                duration(point.seconds),
                f"{point.work.intensity:.2f}",
                f"{point.rate / 1e9:,.1f}",
                f"{point.bound / 1e9:,.0f} {point.limit}",
                percent(point.share),
            ]
        )
        before = point.operation
    return Table(columns, rows)


def limits(document: Document) -> Table:
    """Return what the machine can do: multiply-adds, and bytes from each level."""
    rows = []
    top = roofline.peak(document)
    if top is not None:
        rows.append(["fused multiply-adds", "", "registers only", f"{top / 1e9:,.1f} GFLOP/s"])
    for level in roofline.levels(document):
        capacity = "" if level.capacity == float("inf") else size(level.capacity)
        rows.append(
            [
                f"triad, {level.name}",
                capacity,
                size(level.working_set),
                f"{level.rate / 1e9:,.1f} GB/s",
            ]
        )
    columns = [
        Column("limit"),
        Column("capacity", is_number=True),
        Column("measured on", is_number=True),
        Column("rate", is_number=True),
    ]
    return Table(columns, rows)


def phases(document: Document) -> Table:
    """Seconds of every phase, cold and warm: medians over the processes."""
    columns = [
        Column("engine"),
        Column("start"),
        *(Column(name, is_number=True) for name in (*PHASES, "sum")),
    ]
    rows = []
    for row in document.get("phases", ()):
        cells = [engine_name(str(row["peer"])), str(row["state"])]
        if "failed" in row:
            rows.append([*cells, str(row["failed"]), *[""] * len(PHASES)])
            continue
        medians = phase_medians(row)
        rows.append([*cells, *map(duration, medians.values()), duration(sum(medians.values()))])
    return Table(columns, rows)


def phase_medians(row: dict[str, object]) -> dict[str, float]:
    """Median seconds of each phase of a row that did not fail."""
    seconds = cast("dict[str, list[float]]", row["seconds"])
    return {name: statistics.median(seconds[name]) for name in PHASES}


def comparison(found: Sequence[Change], threshold: float) -> Table:
    """Then and now."""
    columns = [
        Column("task"),
        Column("engine"),
        Column("threads", is_number=True),
        Column("then", is_number=True),
        Column("now", is_number=True),
        Column("ratio", is_number=True),
        Column("verdict"),
    ]
    verdict_marks: dict[str, Mark] = {"slower": "bad", "held": "good"}
    rows: list[list[str]] = []
    marks: list[Mark] = []
    for each in found:
        verdict = each.verdict(threshold)
        marks.append(verdict_marks.get(verdict, ""))
        rows.append(
            [
                each.task,
                each.engine,
                str(each.threads),
                f"{each.before:,.0f}",
                f"{each.now:,.0f}",
                f"{each.ratio:.2f}",
                verdict,
            ]
        )
    return Table(columns, rows, marks)


def notes(document: Document) -> list[str]:
    """Say what a reader of the tables has to know of this run."""
    found = []
    if document["settings"].get("quick"):
        found.append("a quick run: it proves that everything runs, its figures mean nothing")
    judged = [each for each in records(document) if each.section != "operation"]
    if any((each.share_of_peak or 0.0) > 1.0 for each in judged):
        found.append(
            "GFLOP/s count dense products: an engine that skips the zeros of its inputs may pass "
            "the peak"
        )
    widest = max((each.spread for each in judged), default=0.0)
    if widest > NOTICED_SPREAD:
        found.append(
            f"the machine was busy with something else: rounds differ by up to {percent(widest)}; "
            "trust ratios more than rates"
        )
    wanted = wanted_rounds(document)
    short = [
        f"{each['task']['name']} ({rounds})"
        for each in _all_tasks(document)
        if 0 < (rounds := max((len(e["rounds"]) for e in measured(each)), default=0)) < wanted
    ]
    if short:
        found.append(f"fewer rounds than {wanted}, for they took long: {', '.join(short)}")
    burned = max(map(disturbance, _all_tasks(document)), default=0.0)
    if burned > NOTICED_DISTURBANCE:
        found.append(
            f"processes that should have been idle computed in up to {percent(burned)} of a round"
        )
    return found + failures(document, "parity") + failures(document, "failed")


def failures(document: Document, status: str) -> list[str]:
    """Say who ended with a status, on what, and why; with ``failed``, also whose process died."""
    found = [
        f"{engine_name(entry['peer'])} on {each['task']['name']}: {entry['reason']}"
        for each in _all_tasks(document)
        for entry in each["entries"]
        if entry["status"] == status
    ]
    if status != "failed":
        return found
    # Who is not installed was refused before: who is missing now has gone.
    found += [f"{engine_name(label)}: {why}" for label, why in document["skipped"].items()]
    return found + [
        f"{engine_name(str(row['peer']))}, {row['state']} start: {row['failed']}"
        for row in document.get("phases", ())
        if "failed" in row
    ]


def wanted_rounds(document: Document) -> int:
    """How many rounds were asked for. Of a single one there is no spread."""
    return int(str(document["settings"]["rounds"]))


def _all_tasks(document: Document) -> list[TaskEntries]:
    return [
        *document.get("tasks", ()),
        *document.get("predictions", ()),
        *document.get("operations", ()),
    ]


def duration(seconds: float) -> str:
    """Write a time with three digits and its unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1.0 or unit == "µs":
            value = seconds * scale
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    raise AssertionError(seconds)


def size(count: float) -> str:
    """Write a number of bytes with its unit."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count / 2**10:.3g} KiB"


def percent(share: float) -> str:
    """Write a share."""
    return f"{share:,.0%}"


def _task_cells(each: Record, has_dtypes: bool) -> list[str]:
    batch = f"{each.batch_size:,}"
    return [each.network, batch, *([each.dtype] if has_dtypes else [])]
