"""The docs' page of results, written from the measured documents and from nothing else.

Every folder of benchmarks/results that holds ``run-1.json`` is a machine: its runs, and perhaps
``startup*.json``, ``sweep.json`` and ``estimators.json``. ``python -m peers page`` writes
docs/results.md and the pictures; a test compares the page with the documents.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fusedmlp.bench import document
from fusedmlp.bench.figures import unsteady
from peers import plot, sweeping, tables
from peers.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fusedmlp.bench.document import Document
    from peers.targets import Target

ROOT: Final = Path(__file__).resolve().parents[2]
RESULTS: Final = ROOT / "benchmarks" / "results"
PAGE: Final = ROOT / "docs" / "results.md"

VECTORS: Final = {"avx512f": "AVX-512", "avx2": "AVX2"}
"""The widest first."""

HEAD: Final = """\
# Results

Written by `python -m peers page` from the documents in `benchmarks/results`, which
`nox -s benchmarks -- peers` and its modes `startup` and `sweep` measured. Every peer runs in a
process of its own, on as many threads as the table says, in its best ordinary form
(`src/fusedmlp/bench/libraries`); parity is checked first, and within a round everybody takes a
turn. The machines are shared with strangers, who may slow cores, or have them moved apart, for
seconds or minutes: a turn counts if multiply-adds, and handovers between as many threads, ran at
85% of their best rate before it and after it. Other turns are taken again after the last round, for
as long as there are five seconds for each, by the same rule for everybody
(`src/fusedmlp/bench/gauge.py`). Where nothing is said of that, a run is from before the rule.

Ratios are medians over the rounds of one run; absolute figures are of that machine on that day.
Where a machine has several runs, figures are medians over them, and ratios are given run by run.

**Of peak** is GFLOP/s by the fused multiply-adds that the processor did in the same rounds on as
many threads (`fma-peak`). GFLOP/s count all products of dense matrices, whether an engine does them
or not. More than 100% is therefore no mistake: four fifths of MNIST's pixels are zeros, and the
Numba engine skips them. In `small-dense` and the sweeps over batch, width and depth there are no
zeros to skip.

**Ours, times as fast** is what `fusedmlp-numba` does in a second by what the peer of that line does
on as many threads.

What the workloads are: `benchmarks/peers/tasks.py`. What was tried on the way:
[the account](account.md).
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """The documents of one machine, and the times of `python benchmarks/estimators.py`."""

    name: str
    runs: list[Document]
    startups: list[Document]
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
    startups = [document.read(path) for path in sorted(folder.glob("startup*.json"))]
    return Machine(folder.name, runs, startups, optional("sweep.json"), estimators)


def page(found: Iterable[Machine]) -> str:
    """Write the whole page."""
    known = list(found)
    parts = [HEAD.splitlines(), _summary(known), *map(_section, known)]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


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
    runs = machine.runs
    dates = ", ".join(run["date"][:16].replace("T", " ") for run in runs)
    versions = ", ".join(f"{name} {version}" for name, version in runs[0]["versions"].items())
    caches = ", ".join(f"{name} {size}" for name, size in runs[0]["machine"]["caches"].items())
    lines = [
        f"## {title(machine)}",
        "",
        f"{len(runs)} run{'s' * (len(runs) > 1)}, {dates} UTC. Caches: {caches or 'not known'}.",
        f"Versions: {versions}.",
    ]
    busy, turns = unsteady(each for run in runs for each in run["tasks"])
    if turns:
        lines[-1] += f" In {busy} of {turns} turns no attempt found the machine steady."
    if len(runs) > 1:
        lines += ["", *_targets(machine)]
    names = dict.fromkeys(str(each["task"]["name"]) for run in runs for each in run["tasks"])
    for name in names:
        lines += ["", *tables.workload(runs, name)]
    if machine.estimators:
        lines += ["", *tables.estimators(machine.estimators)]
    if machine.startups:
        lines += ["", *tables.first_steps(machine.startups)]
    if machine.sweep is not None:
        lines += ["", *_sweep(machine, machine.sweep)]
    return lines


def title(machine: Machine) -> str:
    """Name a machine, with its model and vectors: processors of one name may differ in both."""
    about = machine.runs[0]["machine"]
    vectors = next((v for f, v in VECTORS.items() if f in about["vector_features"]), "")
    cpu = about["cpu"]
    match about.get("family", "").split():  # vendor, family, model, stepping
        case [_, family, model, *_]:
            cpu += f" (family {family}, model {model})"
    parts = [cpu, f"{about['cores']} core{'s' * (about['cores'] > 1)}", vectors]
    return ", ".join(filter(None, parts))


def _summary(found: list[Machine]) -> list[str]:
    """Return the table of targets, a column for each machine."""
    note = (
        "What the Numba engine should reach, and what it reaches on each machine: *must* is what a "
        "release has to hold, *aim* what we would like. Figures are medians over the machine's "
        "runs; a verdict is of its weakest run. “Not measured” stands where its documents do not "
        "have the figure."
    )
    titles = ["target", "must", "aim", *map(title, found)]
    lines = ["## Machines and targets", "", note, "", *tables.header(titles, 1)]
    for target in TARGETS:
        cells = []
        for machine in found:
            values = _known(target, machine)
            written = target.written(statistics.median(values)) if values else ""
            cells.append(", ".join(filter(None, (written, _verdict(target, values)))))
        lines.append(tables.row([*_bounds(target), *cells]))
    return lines


def _targets(machine: Machine) -> list[str]:
    """Return a line for each target: what every run found, and whether all of them hold."""
    runs = machine.runs
    columns = max(len(runs), len(machine.startups))
    numbers = [f"run {n}" for n in range(1, columns + 1)]
    titles = ["target", "must", "aim", "median", *numbers, "verdict"]
    lines = ["### Targets, run by run", "", *tables.header(titles, 1)]
    for target in TARGETS:
        found, values = _found(target, machine), _known(target, machine)
        median = target.written(statistics.median(values)) if values else ""
        cells = [target.written(value) for value in found] + [""] * (columns - len(found))
        lines.append(tables.row([*_bounds(target), median, *cells, _verdict(target, values)]))
    return lines


def _bounds(target: Target) -> list[str]:
    return [target.name, target.written(target.must), target.written(target.aim)]


def _known(target: Target, machine: Machine) -> list[float]:
    return [value for value in _found(target, machine) if value is not None]


def _found(target: Target, machine: Machine) -> list[float | None]:
    """Return what each run found; what none of them measures may be among the starts."""
    runs = [target.value(run) for run in machine.runs]
    if any(value is not None for value in runs):
        return runs
    return [target.value(start) for start in machine.startups]


def _verdict(target: Target, values: list[float]) -> str:
    """Return what all the runs hold: the aim, the must, or neither."""
    if not values:
        return "not measured"
    if target.aim is not None and all(target.holds(v, target.aim) for v in values):
        return "aim"
    if target.must is None or all(target.holds(v, target.must) for v in values):
        return "must"
    return "**missed**"


def _sweep(machine: Machine, found: Document) -> list[str]:
    """Return the picture and the tables of the sweep."""
    return [
        "### As the work grows",
        "",
        "784-256-10 on dense inputs, batch 64, and one thing changed at a time.",
        "",
        f"![Share of the peak along each axis]({_picture(machine)})",
        "",
        *sweeping.markdown(found).splitlines()[2:],
    ]
