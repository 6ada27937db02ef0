"""Along one axis at a time: batch, width, depth, density. What to measure, and the table of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from fusedmlp.bench.contestants import OURS, PEAK
from fusedmlp.bench.figures import figures
from peers.tasks import sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fusedmlp.bench.document import Document, TaskEntries
    from fusedmlp.bench.driver import Contest

PEERS: Final = (OURS, "jax", "torch")


class Point(NamedTuple):
    """One contestant at one place of an axis."""

    axis: str
    at: float
    peer: str
    threads: int
    rate: float
    share: float


def run(
    contest: Contest,
    axes: Iterable[str],
    rounds: int,
    *,
    coarse: bool,
    say: Callable[[str], None],
) -> list[TaskEntries]:
    """Measure every point."""
    found = []
    for axis in axes:
        for _, task in sweep(axis, coarse=coarse):
            say(f"{task.name} …")
            found.append(contest.run(task, rounds))
    return found


def points(document: Document) -> list[Point]:
    """Read the points of a sweep back, in the order of measuring."""
    found = []
    for each in document["tasks"]:
        axis, _, at = str(each["task"]["name"]).partition("=")
        found += [
            Point(axis, float(at), f.entry["peer"], f.entry["threads"], f.rate, f.share or 0.0)
            for f in figures(each)
            if f.rate is not None
        ]
    return found


def markdown(document: Document) -> str:
    """Write a table for each axis: samples/s, and the share of the peak of as many threads."""
    found = points(document)
    settings = document["machine"]
    when = document["date"][:16].replace("T", " ")
    lines = [
        f"# 784-256-10 on dense inputs, batch 64, one thing changed at a time: {settings['cpu']}",
        "",
        f"Samples/s, and of the measured {PEAK} of as many threads. float32, {when} UTC.",
    ]
    for axis in dict.fromkeys(point.axis for point in found):
        here = [point for point in found if point.axis == axis]
        columns = list(dict.fromkeys((point.peer, point.threads) for point in here))
        lines += [
            "",
            f"| {axis} | " + " | ".join(f"{peer} ×{threads}" for peer, threads in columns) + " |",
            "|--:" * (len(columns) + 1) + "|",
        ]
        for at in dict.fromkeys(point.at for point in here):
            cells = {
                (p.peer, p.threads): f"{p.rate:,.0f} ({p.share:.0%})" for p in here if p.at == at
            }
            row = " | ".join(cells.get(column, "") for column in columns)
            lines.append(f"| {at:g} | {row} |")
    return "\n".join(lines) + "\n"
