"""Writes docs/results.md and its charts from the committed documents, and from nothing else.

A test compares the page, and the descriptions that the charts carry, with the documents.
"""

from __future__ import annotations

import re
import statistics

from fusedmlp.bench.subjects import NUMBA
from fusedmlp.bench.tasks import Task
from peers import charts, startup
from peers.documents import RESULTS, ROOT, machines, values
from peers.questions import LIBRARIES, headline, questions, speedup
from peers.targets import TARGETS, best, rate, ratios_against, share_of_peak, task_entries

PAGE = ROOT / "docs" / "results.md"

OPTIMIZERS = {"sgd": "SGD", "adam": "Adam"}

HEAD = """\
# Results

{headline}

Each chart has a point for each machine, at the median of its runs, and a line from the lowest to
the highest run. Right of the grey line at 1×, the Numba backend is faster. The machines:

{machines}

[Measuring](benchmarks.md) says how, and what a ratio means. Every library is used in its best
ordinary form (`benchmarks/adapters`), in the same rounds as ours. `nox -s benchmarks -- peers`
measures, and `python -m peers page` writes this page from `benchmarks/results`.
"""

NOTE = """\
Each figure is the median over all runs on that machine; the range over the runs follows in
parentheses where there are several. **A ratio is bold only if the Numba backend was faster in every
round of every run**; where it is not bold, nothing can be claimed. GFLOP/s, and so the share of the
measured multiply-add peak, count all products of dense matrices, also where zeros are skipped."""


def write(folder=RESULTS, target=PAGE):
    """Write the page and its charts; return the page's file."""
    found = machines(folder)
    charts.write(questions(found))
    target.write_text(page(found), encoding="utf-8")
    return target


def page(found):
    """Return the whole page."""
    listed = "\n".join(f"- {each.title}: {_runs(each)}" for each in found)
    parts = [HEAD.format(headline=headline(found), machines=listed).splitlines()]
    parts += [_answer(each) for each in questions(found)]
    parts.append(["## All figures"])
    parts.append(_folded("Workloads and targets", [*_descriptions(found), "", *_targets(found)]))
    parts += [_folded(each.title, _section(each)) for each in found]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _answer(question):
    """Return a question with its chart."""
    picture = f"![{question.alternative}](_static/results/{question.name}.svg)"
    return [f"## {question.text}", "", picture, "", question.note]


def _folded(title, lines):
    """Return lines that are hidden until their title is clicked."""
    return ["<details>", f"<summary>{title}</summary>", "", *lines, "", "</details>"]


def _runs(machine):
    return f"{len(machine.runs)} run{'s' * (len(machine.runs) > 1)}, {machine.days}"


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
    return [NOTE, "", "Workloads, on MNIST except `moons` and `small-dense`:", "", *lines]


def _targets(found):
    note = (
        "What the Numba backend should reach: *must* has to hold for a release, *aim* is what we "
        "would like. The verdict is that of the machine's weakest run."
    )
    titles = ["target", "must", "aim", *(machine.title for machine in found)]
    lines = [note, "", *_header(titles, 1)]
    for target in TARGETS:
        cells = [target.name, target.written(target.must), target.written(target.aim)]
        for machine in found:
            own = values(machine.runs, target.value) or values(machine.startups, target.value)
            written = [target.written(statistics.median(own))] if own else []
            verdict = target.verdict(own)
            shown = f"**{verdict}**" if verdict == "missed" else verdict
            cells.append(", ".join([*written, shown]))
        lines.append(_row(cells))
    return lines


def _section(machine):
    runs = machine.runs
    versions = ", ".join(f"{k} {v}" for k, v in runs[-1]["versions"].items())
    lines = [f"{_runs(machine)}. Versions: {versions}."]
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
