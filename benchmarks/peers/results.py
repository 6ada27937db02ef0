"""The docs' page of results, written from the measured documents and from nothing else.

Every folder of benchmarks/results that holds ``run-1.json`` is a machine: its runs, and perhaps
``startup.json``, ``sweep.json`` and ``estimators.json``. ``python -m peers page`` writes
docs/results.md and the pictures; a test compares the page with the documents.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fusedmlp.bench import document
from fusedmlp.bench.contestants import OURS, PEAK
from fusedmlp.bench.figures import Figure, figures
from peers import plot, starting, sweeping
from peers.entrants import OWN
from peers.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fusedmlp.bench.document import Document
    from fusedmlp.bench.tasks import Task
    from peers.targets import Target

ROOT: Final = Path(__file__).resolve().parents[2]
RESULTS: Final = ROOT / "benchmarks" / "results"
PAGE: Final = ROOT / "docs" / "results.md"

HEAD: Final = """\
# Results

Written by `python -m peers page` from the documents in `benchmarks/results`, which
`nox -s benchmarks -- peers` and its modes `startup` and `sweep` measured. Every peer runs in a
process of its own, on as many threads as the table says, in its best ordinary form
(`src/fusedmlp/bench/libraries`); parity is checked first, and within a round everybody takes a
turn. Ratios are medians over the rounds of one run; absolute figures are of that machine on that
day. GFLOP/s count the dense products, so an engine that skips zeros can pass the peak.

What the workloads are: `benchmarks/peers/tasks.py`. What was tried on the way:
[the account](account.md).
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """The documents of one machine, and the times of `python benchmarks/estimators.py`."""

    name: str
    runs: list[Document]
    startup: Document | None
    sweep: Document | None
    estimators: dict[str, dict[str, list[float]]]


def machines(folder: Path = RESULTS) -> list[Machine]:
    """Read all that was kept, ordered by name."""
    return [_machine(path.parent) for path in sorted(folder.glob("*/run-1.json"))]


def _machine(folder: Path) -> Machine:
    def optional(name: str) -> Document | None:
        path = folder / name
        return document.read(path) if path.exists() else None

    runs = [document.read(path) for path in sorted(folder.glob("run-*.json"))]
    path = folder / "estimators.json"
    estimators = json.loads(path.read_text("utf-8")) if path.exists() else {}
    startup, sweep = optional("startup.json"), optional("sweep.json")
    return Machine(folder.name, runs, startup, sweep, estimators)


def page(found: Iterable[Machine]) -> str:
    """Write the whole page."""
    return "\n".join([HEAD, *(line for machine in found for line in _section(machine))]) + "\n"


def write(folder: Path = RESULTS, target: Path = PAGE) -> list[Path]:
    """Write the page and its pictures; return the files."""
    found = machines(folder)
    target.write_text(page(found), encoding="utf-8")
    written = [target]
    for machine in found:
        picture = target.parent / _picture(machine)
        if machine.sweep is not None and plot.draw(machine.sweep, picture):
            written.append(picture)
    return written


def _picture(machine: Machine) -> str:
    return f"results-{machine.name}.svg"


def _section(machine: Machine) -> list[str]:
    about, runs = machine.runs[0]["machine"], machine.runs
    dates = ", ".join(run["date"][:16].replace("T", " ") for run in runs)
    versions = ", ".join(f"{name} {version}" for name, version in runs[0]["versions"].items())
    lines = [
        f"## {about['cpu']}, {about['cores']} cores",
        "",
        f"{len(runs)} run{'s' * (len(runs) > 1)}, {dates} UTC. {versions}.",
        "",
        *_targets(machine),
    ]
    names = dict.fromkeys(str(each["task"]["name"]) for run in runs for each in run["tasks"])
    for name in names:
        lines += ["", *_task(runs, name)]
    if machine.estimators:
        lines += ["", *_estimators(machine.estimators)]
    if machine.startup is not None:
        lines += ["", *_startup(machine.startup)]
    if machine.sweep is not None:
        lines += ["", *_sweep(machine, machine.sweep)]
    return lines


def _targets(machine: Machine) -> list[str]:
    """Return a line for each target: what every run found, and whether all of them hold."""
    runs = machine.runs
    numbers = [f"run {n}" for n in range(1, len(runs) + 1)]
    lines = ["### Targets", "", *_header(["against", "must", "aim", *numbers, "verdict"], 1)]
    for target in TARGETS:
        values = [target.value(run) for run in runs]
        if machine.startup is not None and all(value is None for value in values):
            values = [target.value(machine.startup)]  # measured apart, its own medians
        cells = [target.written(value) for value in values]
        cells += [""] * (len(runs) - len(cells))
        known = [value for value in values if value is not None]
        bounds = [target.written(target.must), target.written(target.aim)]
        lines.append(_row([target.name, *bounds, *cells, _verdict(target, known)]))
    return lines


def _verdict(target: Target, values: list[float]) -> str:
    """Return what all the runs hold: the aim, the must, or neither."""
    if not values:
        return "not measured"
    if target.aim is not None and all(target.holds(v, target.aim) for v in values):
        return "aim"
    if target.must is None or all(target.holds(v, target.must) for v in values):
        return "must"
    return "**missed**"


def _task(runs: list[Document], name: str) -> list[str]:
    """Return a task's table: medians over the runs, and the ratio that each run found."""
    by_entry: dict[tuple[str, int], list[Figure]] = {}
    for run in runs:
        for each in run["tasks"]:
            if each["task"]["name"] == name:
                for figure in figures(each):
                    key = figure.entry["peer"], figure.entry["threads"]
                    by_entry.setdefault(key, []).append(figure)
    task = next(iter(by_entry.values()))[0].task
    unit = "µs/step" if task.is_counted_in_steps else "samples/s"
    lines = [
        f"### `{name}`: {_described(task)}",
        "",
        *_header(["peer", "threads", unit, "GFLOP/s", "of peak", "ours is, run by run"], 1),
    ]
    ordered = sorted(by_entry.items(), key=lambda item: _speed(item[1]), reverse=True)
    for (peer, threads), found in ordered:
        shown = f"**{peer}**" if peer in OWN else f"*{peer}*" if peer == PEAK else peer
        ratios = [f"{f.ratio:.2f}" for f in found if f.ratio is not None and peer != OURS]
        shares = [f.share for f in found if f.share is not None]
        lines.append(
            _row(
                [
                    shown,
                    str(threads),
                    _speed_written(found, unit),
                    f"{statistics.median(f.gflops for f in found):,.1f}",
                    f"{statistics.median(shares):.0%}" if shares else "",
                    " / ".join(ratios),
                ]
            )
        )
    excluded = {
        f"{entry['peer']} ×{entry['threads']}: {entry['reason']}"
        for run in runs
        for each in run["tasks"]
        if each["task"]["name"] == name
        for entry in each["entries"]
        if entry["status"] in ("parity", "failed")
    }
    return lines + [f"\n{line}" for line in sorted(excluded)]


def _described(task: Task) -> str:
    what = "predict" if task.kind == "predict" else task.optimizer.upper()
    sizes = "-".join(map(str, task.sizes))
    dropout = f", dropout {task.dropout:g}" if task.dropout else ""
    return f"{sizes} {task.hidden}, batch {task.batch_size}, {what}, {task.dtype}{dropout}"


def _speed(found: list[Figure]) -> float:
    """Order: the peak first, then by rate."""
    rates = [f.rate for f in found if f.rate]
    return statistics.median(rates) if rates else float("inf")


def _speed_written(found: list[Figure], unit: str) -> str:
    if unit == "µs/step":
        times = [f.microseconds for f in found if f.microseconds]
        return f"{statistics.median(times):,.1f}" if times else ""
    rates = [f.rate for f in found if f.rate]
    return f"{statistics.median(rates):,.0f}" if rates else ""


def speedup(times: dict[str, list[float]]) -> float:
    """Return how many times as fast the estimator is as scikit-learn's: the rounds' median."""
    pairs = zip(times["ours"], times["scikit-learn"], strict=True)
    return statistics.median(their / our for our, their in pairs)


def _estimators(found: dict[str, dict[str, list[float]]]) -> list[str]:
    """Return the table of the scikit-learn estimators, by `python benchmarks/estimators.py`."""
    titles = ["MNIST, float32", "ours", "scikit-learn", "ours is", "over our engine alone"]
    note = "Our engine alone is built, given the data, and run for as many epochs."
    lines = ["### The scikit-learn estimators", "", note, "", *_header(titles, 1)]
    for name, times in found.items():
        ours, theirs = (statistics.median(times[who]) for who in ("ours", "scikit-learn"))
        over = ours / statistics.median(times["engine"]) - 1 if "engine" in times else None
        cells = [f"{1e3 * ours:,.3f} ms", f"{1e3 * theirs:,.3f} ms", f"{speedup(times):.1f}"]
        lines.append(_row([name, *cells, "" if over is None else f"{over:+.0%}"]))
    return lines


def _startup(found: Document) -> list[str]:
    """Return the table of first steps and memory."""
    titles = ["peer", "threads", *starting.TITLES]
    lines = ["### First step and memory, `small`", "", *_header(titles, 1)]
    return lines + [_row(list(starting.cells(row))) for row in found["startup"]]


def _sweep(machine: Machine, found: Document) -> list[str]:
    """Return the picture and the tables of the sweep."""
    tables = sweeping.markdown(found).splitlines()
    return [
        "### As the work grows",
        "",
        f"![Share of the peak along each axis]({_picture(machine)})",
        "",
        *tables[2:],
    ]


def _header(titles: list[str], left: int) -> list[str]:
    return [_row(titles), "|" + "---|" * left + "--:|" * (len(titles) - left)]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
