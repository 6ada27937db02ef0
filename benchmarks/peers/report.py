"""The tables that people read, made from a document: peers by task, verdicts, absences."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rich.table import Table

from fusedmlp.bench.contestants import PEAK
from fusedmlp.bench.figures import Figure, disturbance, figures, unsteady, verdict
from peers.entrants import OWN

if TYPE_CHECKING:
    from rich.console import Console

    from fusedmlp.bench.document import Document, TaskEntries


def task_table(found: TaskEntries) -> Table:
    """One task: a row for each contestant, fastest first, the peak on top."""
    rows = sorted(figures(found), key=lambda f: (f.rate is not None, -(f.rate or f.gflops)))
    task = found["task"]
    unit = "µs/step" if rows and rows[0].task.is_counted_in_steps else "samples/s"
    sizes = "-".join(map(str, cast("list[int]", task["sizes"])))
    table = Table(
        title=f"{task['name']}: {sizes}, batch {task['batch_size']}, {task['dtype']}",
        title_justify="left",
    )
    table.add_column("peer")
    for name in ("threads", unit, "spread", "ours is", "GFLOP/s", "of peak"):
        table.add_column(name, justify="right")
    for figure in rows:
        style = "bold" if figure.entry["peer"] in OWN else "dim" if not figure.rate else ""
        table.add_row(*_cells(figure, unit), style=style)
    return table


def _cells(figure: Figure, unit: str) -> tuple[str, ...]:
    value = figure.microseconds if unit == "µs/step" else figure.rate
    digits = ",.1f" if unit == "µs/step" else ",.0f"
    return (
        figure.entry["peer"],
        str(figure.entry["threads"]),
        "" if value is None else format(value, digits),
        f"{figure.spread:.0%}",
        "" if figure.ratio is None else f"{figure.ratio:.2f}×",
        f"{figure.gflops:,.1f}",
        "" if figure.share is None else f"{figure.share:.0%}",
    )


def verdict_table(document: Document) -> Table:
    """Ours against the best peer of each task, each on its best number of threads."""
    table = Table(title="ours against the best peer", title_justify="left")
    for name in ("task", "best peer", "its threads", "our threads"):
        table.add_column(name)
    table.add_column("ours is", justify="right")
    table.add_column("of peak", justify="right")
    for found in document["tasks"]:
        each = verdict(found)
        if each is None:
            continue
        table.add_row(
            each.task,
            each.best.entry["peer"],
            str(each.best.entry["threads"]),
            str(each.ours.entry["threads"]),
            f"{each.ratio:.2f}×",
            "" if each.ours.share is None else f"{each.ours.share:.0%}",
            style="" if each.ratio >= 1 else "red",
        )
    return table


def show(document: Document, console: Console) -> None:
    """Print everything."""
    about = document["machine"]
    console.print(f"{about['cpu']}, {about['cores']} cores, {document['date']}")
    for found in document["tasks"]:
        console.print(task_table(found))
        if any((figure.share or 0.0) > 1.0 for figure in figures(found)):
            console.print("  GFLOP/s count dense products: who skips zeros may pass the peak")
        for entry in found["entries"]:
            if entry["status"] in ("parity", "failed"):
                console.print(f"  {entry['peer']} ×{entry['threads']}: {entry['reason']}")
        burned = disturbance(found)
        if burned > 0.02:
            console.print(f"  idle workers computed during up to {burned:.0%} of a round")
    if any(entry["peer"] != PEAK for found in document["tasks"] for entry in found["entries"]):
        console.print(verdict_table(document))
    busy, turns = unsteady(document["tasks"])
    if busy:
        console.print(f"in {busy} of {turns} turns the machine was not at its best rate")
    for name, reason in document["skipped"].items():
        console.print(f"skipped: {name}: {reason}")
