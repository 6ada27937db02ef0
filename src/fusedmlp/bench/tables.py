"""The tables of ``fusedmlp bench``, for terminal and page: ready text, made from a document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp.bench.results import disturbance, measured, records
from fusedmlp.bench.startup import PHASES, phase_medians
from fusedmlp.bench.subjects import engine_name
from fusedmlp.report import Column, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedmlp.bench.compare import Comparison
    from fusedmlp.bench.document import Document, TaskEntries
    from fusedmlp.report.page import Mark

NOTICED_SPREAD: Final = 0.5
"""Spread of rounds above which a note follows; an idle machine stays below."""

NOTICED_DISTURBANCE: Final = 0.02
"""Share of a round that idle processes may compute without a note."""


def _columns(left: Sequence[str], right: Sequence[str]) -> list[Column]:
    """Columns of text, then of numbers."""
    return [*map(Column, left), *(Column(title, is_number=True) for title in right)]


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
        *_columns(["dtype"] * has_dtypes + ["engine"], ["threads"] * has_threads),
        Column("samples/s", is_number=True),
        Column("spread", is_number=True),
        Column(f"× {versus[0]}" if len(versus) == 1 else "ratio", is_number=True),
        Column("GFLOP/s", is_number=True),
        Column("of peak", is_number=True),
    ]
    rows = []
    for task in dict.fromkeys(each.task for each in found):
        here = sorted(
            (each for each in found if each.task == task), key=lambda each: -each.samples_per_s
        )
        for index, each in enumerate(here):
            about = [each.network, f"{each.batch_size:,}", *([each.dtype] * has_dtypes)]
            rows.append(
                [
                    *(about if not index else [""] * len(about)),
                    each.engine,
                    *([str(each.threads)] * has_threads),
                    f"{each.samples_per_s:,.0f}",
                    percent(each.spread) if wanted_rounds(document) > 1 else "",
                    "" if each.ratio is None else f"{each.ratio:.2f}",
                    f"{each.gflops:,.1f}",
                    "" if each.share_of_peak is None else percent(each.share_of_peak),
                ]
            )
    return Table(columns, rows)


def phases(document: Document) -> Table:
    """Seconds of every phase, cold and warm: medians over the processes."""
    rows = []
    for row in document.get("phases", ()):
        cells = [engine_name(str(row["peer"])), str(row["state"])]
        if "failed" in row:
            rows.append([*cells, str(row["failed"]), *[""] * len(PHASES)])
            continue
        medians = phase_medians(row)
        rows.append([*cells, *map(duration, medians.values()), duration(sum(medians.values()))])
    return Table(_columns(("engine", "start"), (*PHASES, "sum")), rows)


def comparison(found: Comparison) -> Table:
    """Before and now."""
    columns = _columns(("task", "engine"), ("threads", "before", "now", "ratio"))
    verdict_marks: dict[str, Mark] = {"slower": "bad", "held": "good"}
    verdicts = [each.verdict(found.threshold) for each in found.changes]
    rows = [
        [
            each.task,
            each.engine,
            str(each.threads),
            f"{each.before:,.0f}",
            f"{each.now:,.0f}",
            f"{each.ratio:.2f}",
            verdict,
        ]
        for each, verdict in zip(found.changes, verdicts, strict=True)
    ]
    marks = [verdict_marks.get(verdict, "") for verdict in verdicts]
    return Table([*columns, Column("verdict")], rows, marks)


def notes(document: Document) -> list[str]:
    """Return what a reader of the tables has to know about this run."""
    found = []
    if document["settings"].get("quick"):
        found.append("a quick run: it proves that everything runs, its figures mean nothing")
    judged = records(document)
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
        found.append(f"fewer rounds than {wanted}, since they took long: {', '.join(short)}")
    burned = max(map(disturbance, _all_tasks(document)), default=0.0)
    if burned > NOTICED_DISTURBANCE:
        found.append(
            f"processes that should have been idle computed in up to {percent(burned)} of a round"
        )
    return found + failures(document, "parity") + failures(document, "failed")


def failures(document: Document, status: str) -> list[str]:
    """Name each entry with this status, and why; with ``failed`` also the workers that ended."""
    found = [
        f"{engine_name(entry['peer'])} on {each['task']['name']}: {entry['reason']}"
        for each in _all_tasks(document)
        for entry in each["entries"]
        if entry["status"] == status
    ]
    if status != "failed":
        return found
    found += [f"{engine_name(label)}: {why}" for label, why in document["skipped"].items()]
    return found + [
        f"{engine_name(str(row['peer']))}, {row['state']} start: {row['failed']}"
        for row in document.get("phases", ())
        if "failed" in row
    ]


def wanted_rounds(document: Document) -> int:
    """Return the rounds that the run was started with. A single one has no spread."""
    return int(str(document["settings"]["rounds"]))


def _all_tasks(document: Document) -> list[TaskEntries]:
    return [*document.get("tasks", ()), *document.get("predictions", ())]


def duration(seconds: float) -> str:
    """Write a time with three digits and its unit."""
    unit, scale = next(
        (u, s) for u, s in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)) if seconds * s >= 1 or u == "µs"
    )
    value = seconds * scale
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"


def percent(share: float) -> str:
    """Write a share."""
    return f"{share:,.0%}"
