"""The tables of the results' page, in Markdown: one workload, the estimators, the first steps."""

from __future__ import annotations

import re
import statistics
from typing import TYPE_CHECKING, Final

from fusedmlp.bench.contestants import OURS, PEAK
from fusedmlp.bench.figures import Figure, figures
from fusedmlp.bench.tables import duration
from peers import starting
from peers.entrants import OWN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fusedmlp.bench.document import Document
    from fusedmlp.bench.tasks import Task

OPTIMIZERS: Final = {"sgd": "SGD", "adam": "Adam"}
"""As people write them."""


def workload(runs: list[Document], name: str) -> list[str]:
    """Return a task's table: medians over the runs, and the ratio that each run found."""
    by_entry: dict[tuple[str, int], dict[int, Figure]] = {}
    excluded: dict[str, list[str]] = {}
    for number, run in enumerate(runs):
        for each in run["tasks"]:
            if each["task"]["name"] != name:
                continue
            for figure in figures(each):
                key = figure.entry["peer"], figure.entry["threads"]
                by_entry.setdefault(key, {})[number] = figure
            for entry in each["entries"]:
                if entry["status"] in ("parity", "failed"):
                    label = f"{entry['peer']} ×{entry['threads']}"
                    excluded.setdefault(label, []).append(entry["reason"])
    task = next(figure.task for found in by_entry.values() for figure in found.values())
    unit = _unit(task)
    ours = "ours, times as fast" + (", run by run" if len(runs) > 1 else "")
    lines = [
        f"### `{name}`: {_described(task)}",
        "",
        *header(["peer", "threads", unit, "GFLOP/s", "of peak", ours], 1),
    ]
    ordered = sorted(by_entry.items(), key=lambda item: _speed(item[1].values()), reverse=True)
    for (peer, threads), found in ordered:
        known = list(found.values())
        shown = f"**{peer}**" if peer in OWN else f"*{peer}*" if peer == PEAK else peer
        shares = [f.share for f in known if f.share is not None]
        lines.append(
            row(
                [
                    shown,
                    str(threads),
                    _speed_written(known, task),
                    f"{statistics.median(f.gflops for f in known):,.1f}",
                    f"{statistics.median(shares):.0%}" if shares else "",
                    "" if peer in (OURS, PEAK) else _ratios(found, len(runs)),
                ]
            )
        )
    for label, reasons in sorted(excluded.items()):
        often = f" ({len(reasons)} of {len(runs)} runs)" if len(runs) > 1 else ""
        lines += ["", f"{label}: {reasons[0]}{often}"]
    return lines


def _ratios(found: Mapping[int, Figure], n_runs: int) -> str:
    """Write the ratio of every run, with a dash where it is not known."""
    ratios = [found[n].ratio if n in found else None for n in range(n_runs)]
    return " / ".join("–" if ratio is None else f"{ratio:.2f}" for ratio in ratios)


def _unit(task: Task) -> str:
    if not task.is_counted_in_steps:
        return "samples/s"
    return "µs/call" if task.kind == "predict" else "µs/step"


def _described(task: Task) -> str:
    what = "predict" if task.kind == "predict" else OPTIMIZERS[task.optimizer]
    sizes = "-".join(map(str, task.sizes))
    dropout = f", dropout {task.dropout:g}" if task.dropout else ""
    return f"{sizes} {task.hidden}, batch {task.batch_size:,}, {what}, {task.dtype}{dropout}"


def _speed(found: Iterable[Figure]) -> float:
    """Order: the peak first, then by rate."""
    rates = [f.rate for f in found if f.rate]
    return statistics.median(rates) if rates else float("inf")


def _speed_written(found: list[Figure], task: Task) -> str:
    if task.is_counted_in_steps:
        times = [f.microseconds for f in found if f.microseconds]
        return f"{statistics.median(times):,.1f}" if times else ""
    rates = [f.rate for f in found if f.rate]
    return f"{statistics.median(rates):,.0f}" if rates else ""


def speedup(times: dict[str, list[float]]) -> float:
    """Return how many times as fast the estimator is as scikit-learn's: the rounds' median."""
    pairs = zip(times["ours"], times["scikit-learn"], strict=True)
    return statistics.median(their / our for our, their in pairs)


def estimators(found: dict[str, dict[str, list[float]]]) -> list[str]:
    """Return the table of the scikit-learn estimators, by `python benchmarks/estimators.py`."""
    titles = [
        "MNIST, float32", "ours", "scikit-learn", "ours, times as fast", "over our engine alone",
    ]  # fmt: skip
    note = (
        "Over our engine alone: what `fit` takes longer than an engine that is built, given the "
        "data and run for as many epochs, without the estimator around it."
    )
    lines = ["### The scikit-learn estimators", "", note, "", *header(titles, 1)]
    for name, times in found.items():
        ours, theirs = (statistics.median(times[who]) for who in ("ours", "scikit-learn"))
        over = ours / statistics.median(times["engine"]) - 1 if "engine" in times else None
        cells = [duration(ours), duration(theirs), f"{speedup(times):.1f}"]
        title = re.sub(r"\b1 rows", "1 row", name)
        lines.append(row([title, *cells, "" if over is None else f"{round(100 * over):+d}%"]))
    return lines


def first_steps(found: list[Document]) -> list[str]:
    """Return the table of first steps and memory, of all processes of all documents."""
    titles = ["peer", "threads", *starting.TITLES]
    note = (
        "Medians over processes. Cold: the compilers' caches on disk are empty; warm: the same "
        "process ran before. Memory is what the warm process takes above its imports."
    )
    lines = ["### First step and memory, `small`", "", note, "", *header(titles, 1)]
    joined = starting.joined(each for start in found for each in start["startup"])
    return lines + [row(list(starting.cells(each))) for each in joined]


def header(titles: list[str], left: int) -> list[str]:
    return [row(titles), "|" + "---|" * left + "--:|" * (len(titles) - left)]


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
