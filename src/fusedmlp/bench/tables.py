"""The words of ``fusedmlp bench``, for terminal and page: tables, notes and the headline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp.bench.results import all_tasks, failures, measured, records
from fusedmlp.bench.scheduler import LEAST_ROUNDS
from fusedmlp.report import Column, Table
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from fusedmlp.bench.compare import Comparison
    from fusedmlp.bench.document import Document
    from fusedmlp.bench.results import Record
    from fusedmlp.report.page import Mark

NOTICED_SPREAD: Final = 0.5
"""Spread of rounds above which a note follows; an idle machine stays below."""

VERDICT_MARKS: Final[dict[str, Mark]] = {"slower": "bad", "held": "good"}


def throughput(document: Document, section: str) -> Table:
    """Every ``training`` or ``prediction``: a row for each engine, the fastest first."""
    found = [each for each in records(document) if each.section == section]
    found.sort(
        key=lambda each: (
            tuple(map(int, each.network.split("-"))),
            each.batch_size,
            each.dtype,
            -each.samples_per_s,
        )
    )
    versus = sorted({each.reference for each in found if each.reference})
    columns = {
        "network": Column("network"),
        "batch": Column("batch", is_number=True),
        "dtype": Column("dtype"),
        "engine": Column("engine"),
        "threads": Column("threads", is_number=True),
        "rate": Column("samples/s", is_number=True),
        "spread": Column("spread", is_number=True),
        "ratio": Column(f"× {versus[0]}" if len(versus) == 1 else "ratio", is_number=True),
        "gflops": Column("GFLOP/s", is_number=True),
        "peak": Column("of peak", is_number=True),
    }
    for name in ("dtype", "threads"):
        if len({getattr(each, name) for each in found}) < 2:
            del columns[name]
    if all(each.share_of_peak is None for each in found):
        del columns["peak"]
    rows, last = [], ""
    for each in found:
        cells = {
            "network": each.network,
            "batch": f"{each.batch_size:,}",
            "dtype": each.dtype,
            "engine": each.engine,
            "threads": str(each.threads),
            "rate": f"{each.samples_per_s:,.0f}",
            "spread": percent(each.spread) if each.rounds > 1 else "",
            "ratio": ratio_text(each),
            "gflops": f"{each.gflops:,.1f}",
            "peak": "" if each.share_of_peak is None else percent(each.share_of_peak),
        }
        if each.task == last:
            cells |= dict.fromkeys(("network", "batch", "dtype"), "")
        last = each.task
        rows.append([cells[name] for name in columns])
    return Table(list(columns.values()), rows)


def ratio_text(record: Record) -> str:
    """Write a ratio, or the range of its rounds where they do not agree on one."""
    low, high = record.lowest_ratio, record.highest_ratio
    if record.ratio is None or low is None or high is None:
        return ""
    if record.has_certain_ratio or low == high:
        return f"{record.ratio:.2f}"
    return f"{low:.2f}–{high:.2f}"


def comparison(found: Comparison) -> Table:
    """Before and now."""
    columns = [Column("task"), Column("engine")]
    columns += [Column(title, is_number=True) for title in ("threads", "before", "now", "ratio")]
    verdicts = [each.verdict(found.threshold) for each in found.changes]
    rows = [
        [
            each.task,
            each.engine,
            str(each.threads),
            f"{each.before:,.0f}",
            f"{each.now:,.0f}",
            "" if each.ratio is None else f"{each.ratio:.2f}",
            verdict,
        ]
        for each, verdict in zip(found.changes, verdicts, strict=True)
    ]
    marks = [VERDICT_MARKS.get(verdict, "") for verdict in verdicts]
    return Table([*columns, Column("verdict")], rows, marks)


def first_training(document: Document) -> list[Record]:
    """Return the records of the first training, the fastest first."""
    found = [each for each in records(document) if each.section == "training"]
    here = [each for each in found if each.task == found[0].task]
    return sorted(here, key=lambda each: -each.samples_per_s)


def headline(document: Document) -> str:
    """Summarise the first training.

    The fastest engine is named only if its rounds are apart from all others', and its ratio is
    stated only if the rounds agree on it and no other process disturbed them.
    """
    best, *others = first_training(document)
    task = f"Training {best.network} on {document['dataset']['name']}"
    text = f"{task} in batches of {best.batch_size}, {best.dtype}: {best.engine} "
    rate, low, high = f"{best.samples_per_s:,.0f} samples/s", best.lowest_ratio, best.highest_ratio
    rivals = [each.engine for each in others if each.fastest >= best.slowest]
    if not others:
        return f"{text}reaches {rate}"
    if best.rounds < LEAST_ROUNDS:
        rounds = rounds_text(best.rounds, best.rounds)
        return f"{text}reaches {rate} in {rounds}, too few for a comparison"
    if rivals:
        return f"{text}reaches {rate}, but its rounds overlap with those of {', '.join(rivals)}"
    text += f"is the fastest with {rate}"
    if best.is_reference or best.ratio is None or low is None or high is None:
        return text
    if best.has_certain_ratio:
        return f"{text}, {best.ratio:.1f} times as many as {best.reference}"
    why = "too far apart for one figure"
    if best.is_disturbed:
        why = f"but threads waited for a CPU for {percent(best.waited)} of the time"
    return (
        f"{text}; its rounds are {low:.1f} to {high:.1f} times as fast as "
        f"those of {best.reference}, {why}"
    )


def rounds_done(document: Document) -> str:
    """Write how many rounds the tasks really had."""
    done = [len(e["rounds"]) for each in all_tasks(document) for e in measured(each)]
    return rounds_text(min(done, default=0), max(done, default=0))


def rounds_text(least: int, most: int) -> str:
    """Write a number of rounds, or from how many to how many."""
    return f"{least} to {most} rounds" if least < most else counted(most, "round")


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
            f"rounds differ by up to {percent(widest)}; a ratio on which they do not agree is "
            "given as a range"
        )
    waited = max((each.waited for each in judged if each.is_disturbed), default=0.0)
    if waited:
        found.append(
            f"other processes used the CPUs: threads waited for one for up to {percent(waited)} of "
            "the time; trust neither rates nor ratios"
        )
    wanted = int(str(document["settings"]["rounds"]))
    short = [
        f"{each['task']['name']} ({rounds})"
        for each in all_tasks(document)
        if 0 < (rounds := max((len(e["rounds"]) for e in measured(each)), default=0)) < wanted
    ]
    if short:
        found.append(f"fewer rounds than {wanted}, since they took long: {', '.join(short)}")
    return found + failures(document, "parity") + failures(document, "failed")


def percent(share: float) -> str:
    """Write a share."""
    return f"{share:,.0%}"
