"""Writes docs/results.md from the committed documents, and from nothing else.

Every folder of benchmarks/results with a ``run-1.json`` is a machine: its runs, and perhaps
``startup*.json`` and ``estimators.json``. A test compares the page with them.
"""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

from fusedmlp.bench import document
from fusedmlp.bench.subjects import NUMBA, NUMPY
from fusedmlp.bench.tasks import Task
from peers import startup
from peers.targets import TARGETS, best, rate, ratios_against, share_of_peak, task_entries

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results.md"

VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}
"""Names of vector extensions, the widest first."""

OPTIMIZERS = {"sgd": "SGD", "adam": "Adam"}

LIBRARIES = {
    "PyTorch": ("torch", "torch-compile"),
    "JAX": ("jax",),
    "TensorFlow": ("tensorflow", "tensorflow-xla"),
    "scikit-learn": ("sklearn",),
    "thinc": ("thinc",),
    "ONNX Runtime": ("onnxruntime",),
    "NumPy backend": (NUMPY,),
}
"""Columns of a machine's table, each with its subjects, of which the fastest counts."""

HEAD = """\
# Results

Written by `python -m peers page` from the documents in `benchmarks/results`, which
`nox -s benchmarks -- peers`, its mode `startup`, and `python benchmarks/estimators.py` measured.
[Measuring](benchmarks.md) says how. Every library is used in its best ordinary form
(`benchmarks/adapters`), and each subject counts with its best number of threads. TensorFlow and
thinc were measured by an earlier version.

Each figure is the median over all runs on that machine; the range over the runs follows in
parentheses where there are several. **A ratio is bold only if the Numba backend was faster in
every round of every run**; where it is not bold, nothing can be claimed. Rates belong to their
machine and day; ratios hold better. GFLOP/s, and so the share of the measured multiply-add peak,
count all products of dense matrices. MNIST's pixels are four fifths zeros, which the Numba backend
skips: more than 100% is possible. `small-dense` has no zeros to skip.

Experiments and their results: [Measurements](account.md).
"""


@dataclass(frozen=True)
class Machine:
    """The documents of one machine."""

    name: str
    runs: list
    startups: list
    estimators: dict

    @property
    def title(self):
        """CPU with family and model, cores and vectors: processors of one name differ in both."""
        about = self.runs[0]["machine"]
        vectors = next((v for f, v in VECTORS.items() if f in about["vector_features"]), "")
        cpu = about["cpu"]
        match about.get("family", "").split():  # vendor, family, model, stepping
            case [_, family, model, *_]:
                cpu += f" (family {family}, model {model})"
        parts = [cpu, f"{about['cores']} core{'s' * (about['cores'] > 1)}", vectors]
        return ", ".join(filter(None, parts))


def machines(folder=RESULTS):
    """Read all documents, ordered by the machine's name."""
    return [_machine(path.parent) for path in sorted(folder.glob("*/run-1.json"))]


def _machine(folder):
    def all_of(pattern):
        return [document.read(path) for path in sorted(folder.glob(pattern))]

    path = folder / "estimators.json"
    estimators = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return Machine(folder.name, all_of("run-*.json"), all_of("startup*.json"), estimators)


def write(folder=RESULTS, target=PAGE):
    """Write the page; return its file."""
    target.write_text(page(machines(folder)), encoding="utf-8")
    return target


def page(found):
    """Return the whole page."""
    parts = [HEAD.splitlines(), _descriptions(found), _targets(found), *map(_section, found)]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def summary(values, form, unit=""):
    """Write the median of some values, and their range where there are several."""
    text = form.format(statistics.median(values)) + unit
    ends = form.format(min(values)), form.format(max(values))
    return text if ends[0] == ends[1] else f"{text} ({ends[0]}–{ends[1]})"


def _descriptions(found):
    """Describe every workload once."""
    tasks = {
        each["task"]["name"]: Task.from_dict(each["task"])
        for machine in found
        for run in machine.runs
        for each in run["tasks"]
    }
    lines = [f"- `{name}`: {_described(task)}" for name, task in tasks.items()]
    return ["## Workloads", "", "On MNIST, except `moons` and `small-dense`:", "", *lines]


def _targets(found):
    note = (
        "What the Numba backend should reach: *must* has to hold for a release, *aim* is what we "
        "would like. The verdict is that of the machine's weakest run."
    )
    titles = ["target", "must", "aim", *(machine.title for machine in found)]
    lines = ["## Targets", "", note, "", *_header(titles, 1)]
    for target in TARGETS:
        cells = [target.name, target.written(target.must), target.written(target.aim)]
        for machine in found:
            values = _values(machine.runs, target.value) or _values(machine.startups, target.value)
            written = [target.written(statistics.median(values))] if values else []
            verdict = target.verdict(values)
            shown = f"**{verdict}**" if verdict == "missed" else verdict
            cells.append(", ".join([*written, shown]))
        lines.append(_row(cells))
    return lines


def _values(documents, value):
    """Return the value of each document that has it."""
    return [found for each in documents if (found := value(each)) is not None]


def _section(machine):
    runs = machine.runs
    days = sorted({run["date"][:10] for run in runs})
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    versions = ", ".join(f"{k} {v}" for k, v in runs[-1]["versions"].items())
    about = f"{len(runs)} run{'s' * (len(runs) > 1)}, {when}. Versions: {versions}."
    lines = [f"## {machine.title}", "", about]
    note = (
        "Speed of the Numba backend (samples per second, or time of a step), and its ratio to the "
        "speed of each library:"
    )
    lines += ["", note, ""]
    lines += _workloads(runs)
    lines += _excluded(runs)
    if machine.startups:
        rows = [row for start in machine.startups for row in start["startup"]]
        lines += ["", "First step and memory, `small`:", ""]
        lines += _header(["library", "threads", *startup.TITLES], 1)
        lines += [_row(startup.cells(each)) for each in startup.joined(rows)]
    if machine.estimators:
        lines += ["", *estimators_table(machine.estimators)]
    return lines


def _workloads(runs):
    """Return the table of a machine: a row for each workload."""
    lines = _header(["workload", "Numba backend", "of peak", *LIBRARIES], 1)
    for name in dict.fromkeys(str(each["task"]["name"]) for run in runs for each in run["tasks"]):
        task = Task.from_dict(next(filter(None, (task_entries(r, name) for r in runs)))["task"])
        own = [rate(e) for run in runs if (e := best(run, name, (NUMBA,)))]
        shares = [s for run in runs if (s := share_of_peak(run, name)) is not None]
        cells = [
            f"`{name}`",
            _speed(own, task) if own else "",
            summary(shares, "{:.0%}") if shares else "",
        ]
        for names in LIBRARIES.values():
            rounds = [found for run in runs if (found := ratios_against(run, name, *names))]
            written = summary(list(map(statistics.median, rounds)), "{:.2f}") if rounds else ""
            is_faster = rounds and min(map(min, rounds)) > 1
            cells.append(f"**{written}**" if is_faster else written)
        lines.append(_row(cells))
    return lines


def _excluded(runs):
    """Name the subjects that failed parity or ended."""
    found = {
        f"{entry['peer']} on `{each['task']['name']}`: {entry['reason']}"
        for run in runs
        for each in run["tasks"]
        for entry in each["entries"]
        if entry["status"] in ("parity", "failed")
    }
    return ["", f"Excluded: {'; '.join(sorted(found))}."] if found else []


def _described(task):
    what = "predict" if task.kind == "predict" else OPTIMIZERS[task.optimizer]
    sizes = "-".join(map(str, task.sizes))
    dropout = f", dropout {task.dropout:g}" if task.dropout else ""
    return f"{sizes} {task.hidden}, batch {task.batch_size:,}, {what}, {task.dtype}{dropout}"


def _speed(samples_per_s, task):
    if task.is_counted_in_steps:
        return summary([1e6 * task.batch_size / rate for rate in samples_per_s], "{:,.1f}", " µs")
    return summary(samples_per_s, "{:,.0f}", "/s")


def speedup(times):
    """Return how many times as fast the estimator is as scikit-learn's: the rounds' median."""
    pairs = zip(times["ours"], times["scikit-learn"], strict=True)
    return statistics.median(theirs / ours for ours, theirs in pairs)


def estimators_table(found):
    """Return the table of the scikit-learn estimators."""
    titles = ["MNIST, float32", "ours", "scikit-learn", "ours, times as fast", "over the engine"]
    note = (
        "The scikit-learn estimators; *over the engine* is what `fit` takes longer than building "
        "an engine, staging the data and running the same epochs without the estimator:"
    )
    lines = [note, "", *_header(titles, 1)]
    for name, times in found.items():
        ours, theirs = (statistics.median(times[key]) for key in ("ours", "scikit-learn"))
        over = f"{ours / statistics.median(times['engine']) - 1:+.0%}" if "engine" in times else ""
        title = re.sub(r"\b1 rows", "1 row", name)
        lines.append(_row([title, duration(ours), duration(theirs), f"{speedup(times):.1f}", over]))
    return lines


def duration(seconds):
    """Write a time with three digits and its unit."""
    unit, scale = next(
        (u, s) for u, s in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)) if seconds * s >= 1 or u == "µs"
    )
    value = seconds * scale
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"


def _header(titles, left):
    return [_row(titles), "|" + "---|" * left + "--:|" * (len(titles) - left)]


def _row(cells):
    return "| " + " | ".join(cells) + " |"
