"""The questions that the page of results answers, each with the numbers of its chart.

Nothing is drawn here: ``charts.py`` draws a :class:`Question`, and ``page.py`` writes it.
"""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass, replace
from functools import partial

from fusedmlp.bench.results import records
from fusedmlp.bench.subjects import NUMPY
from peers import startup
from peers.documents import measured_most, values
from peers.targets import ratios_against, second_thread, share_of_peak

LIBRARIES = {
    "PyTorch": ("torch", "torch-compile"),
    "JAX": ("jax",),
    "scikit-learn": ("sklearn",),
    "ONNX Runtime": ("onnxruntime",),
    "NumPy backend": (NUMPY,),
}
"""Names of what we are compared with, each with its subjects, of which the fastest counts."""

WORKLOADS = {
    "small": "small network",
    "small-adam": "… with Adam",
    "small-dropout": "… with dropout",
    "small-float64": "… in float64",
    "small-dense": "… inputs without zeros",
    "big": "large network",
    "moons": "tiny network",
}
"""Labels of the workloads that train."""

STARTS = {
    "fusedmlp-numba": "Numba backend",
    "fusedmlp-numpy": "NumPy backend",
    "torch": "PyTorch",
    "jax": "JAX",
}

ESTIMATORS = {
    "fit, 10 epochs, adam": "fit, Adam",
    "fit, 10 epochs, sgd": "fit, SGD",
    "grid search, 12 fits of 10,000 rows": "grid search",
    "predict_proba, 1 rows": "predict 1 row",
    "predict_proba, 100 rows": "predict 100 rows",
    "predict_proba, 10,000 rows": "predict 10,000 rows",
}


@dataclass(frozen=True)
class Question:
    """One question, and the numbers that answer it.

    Parameters
    ----------
    name
        Of the chart's file.
    text
        The question, as a heading.
    unit
        What the numbers are: the label of the axis.
    note
        Words under the chart: what was measured.
    numbers
        By row, series and run. A series is a machine, or a state of one machine.
    kind
        ``ratio``: times as fast, 1 is equally fast; ``amount``: from 0; ``line``: the rows are
        numbers, and a curve goes through them.
    """

    name: str
    text: str
    unit: str
    note: str
    numbers: dict
    kind: str = "ratio"

    @property
    def description(self):
        """All medians in words, which the chart's file carries."""
        rows = []
        for row, found in self.numbers.items():
            cells = [f"{k} {statistics.median(v):.3g}" for k, v in found.items() if v]
            rows.append(f"{row}: {'; '.join(cells)}")
        return f"{self.unit}. {'. '.join(rows)}."

    @property
    def alternative(self):
        """The chart in words, for readers who do not see it: each row from lowest to highest."""
        rows = []
        for row, found in self.numbers.items():
            middles = [statistics.median(v) for v in found.values() if v]
            ends = dict.fromkeys(f"{end(middles):.3g}" for end in (min, max))
            rows.append(f"{row} {' to '.join(ends)}")
        return f"Chart, {self.unit}: {', '.join(rows)}"


def questions(found):
    """Return every question for which some machine has numbers."""
    one = measured_most(found)
    every = [
        Question(
            "training",
            "Is training faster than with PyTorch, JAX or scikit-learn?",
            "times as fast as with the other library",
            "784-256-10 with sigmoid units, batches of 64 rows of MNIST, plain SGD, float32. Each "
            "library counts with its fastest form and number of threads.",
            by_library(found, "small"),
        ),
        Question(
            "workloads",
            "For which networks?",
            "times as fast as with the fastest other library",
            "Small: 784-256-10. Large: 784-1024-1024-10, relu, batches of 1,024. Tiny: 2-5-2 on "
            "200 points. Skipping zeros of the inputs helps MNIST; *without zeros* has none.",
            by_workload(found),
        ),
        *growth(one),
        Question(
            "one-row",
            "Is one prediction faster?",
            "times as fast as with the other library",
            "One row through 784-256-10, from a Python call to its result.",
            by_library(found, "predict-1"),
        ),
        Question(
            "many-rows",
            "Are many predictions faster?",
            "times as fast as with the other library",
            "10,000 rows through 784-256-10 in one call.",
            by_library(found, "predict-10000"),
        ),
        Question(
            "estimators",
            "Are the estimators faster than scikit-learn’s?",
            "times as fast as scikit-learn",
            "`MLPClassifier` with 256 units on MNIST in float32: 10 epochs, or 12 fits of a grid "
            "search. Both give equal results.",
            by_estimator(found),
        ),
        Question(
            "first-step",
            "How fast is a first call?",
            "seconds from the start of a process to its first training step",
            f"Cold: the compilers’ caches are empty, as after an installation. {one.title}.",
            by_start(one, {"cold": "cold_since_start_seconds", "warm": "warm_since_start_seconds"}),
            "amount",
        ),
        Question(
            "memory",
            "How much memory does it need?",
            "MB above the imported libraries, after the first step",
            f"The small network and MNIST’s first batch. {one.title}.",
            by_start(one, {"memory": "warm_memory_bytes"}, 1e-6),
            "amount",
        ),
        Question(
            "second-thread",
            "What does a second core bring?",
            "times as fast as on one thread",
            "2 is the most. The small network has few operations between two barriers.",
            by_task(found, {"small": "small network", "big": "large network"}, second_thread),
        ),
        Question(
            "peak",
            "How near is it to the processor’s limit?",
            "percent of the multiply-adds that the processor can do",
            "More than 100 is possible where zeros of the inputs are skipped, because the skipped "
            "operations are counted too.",
            by_task(found, WORKLOADS, share_of_peak, 100),
            "amount",
        ),
    ]
    answered = (replace(each, numbers=without_empty_rows(each.numbers)) for each in every)
    return [each for each in answered if each.numbers]


def without_empty_rows(numbers):
    """Leave out the rows that no machine has measured."""
    return {row: found for row, found in numbers.items() if any(found.values())}


def medians(runs, name, libraries):
    """Return the median of the rounds' ratios for each run that has them."""
    found = (ratios_against(run, name, *libraries) for run in runs)
    return [statistics.median(each) for each in found if each]


def by_library(found, task):
    """Return our speed relative to each library on one task, by library and machine."""
    numbers = {
        library: {machine.title: medians(machine.runs, task, names) for machine in found}
        for library, names in LIBRARIES.items()
    }
    return without_empty_rows(numbers)


def by_workload(found):
    """Return our speed relative to the fastest library, by workload and machine."""
    return {
        label: {machine.title: medians(machine.runs, name, ()) for machine in found}
        for name, label in WORKLOADS.items()
    }


def by_task(found, labels, value, scale=1.0):
    """Return a value of some tasks, by task and machine."""

    def scaled(machine, name):
        return [scale * each for each in values(machine.runs, partial(value, task=name))]

    return {
        label: {machine.title: scaled(machine, name) for machine in found}
        for name, label in labels.items()
    }


def by_estimator(found):
    """Return the estimators' speed relative to scikit-learn's, by task and machine."""
    return {
        label: {
            machine.title: [speedup(machine.estimators[name])] if machine.estimators else []
            for machine in found
        }
        for name, label in ESTIMATORS.items()
    }


def by_start(machine, keys, scale=1.0):
    """Return figures of starting processes, by library and state."""
    rows = startup.joined(row for each in machine.startups for row in each["startup"])
    by_name = {row["peer"]: row for row in rows if "failed" not in row}
    return {
        label: {state: [scale * each for each in by_name[name][key]] for state, key in keys.items()}
        for name, label in STARTS.items()
        if name in by_name
    }


def growth(machine):
    """Return how speed grows with the batch and the width, where that was measured."""
    for axis, text in (
        ("batch", "How does speed grow with the batch?"),
        ("width", "How does speed grow with the width?"),
    ):
        numbers = by_size(machine.bench, axis) if machine.bench else {}
        if len(numbers) > 1:
            what = "rows in a batch" if axis == "batch" else "units in the hidden layer"
            note = f"The horizontal axis has the {what}. {machine.title}."
            yield Question(axis, text, "rows per second in training", note, numbers, "line")


def by_size(document, axis):
    """Return rows per second by batch size or width, and backend: of the most frequent others."""
    found = [
        each
        for each in records(document)
        if each.section == "training" and re.fullmatch(r"\d+-\d+-\d+", each.network)
    ]
    keys = [(each.batch_size, int(each.network.split("-")[1])) for each in found]
    at = 0 if axis == "batch" else 1
    fixed = statistics.mode(sorted(key[1 - at] for key in set(keys)))
    numbers = {}
    for each, key in sorted(zip(found, keys, strict=True), key=lambda pair: pair[1][at]):
        if key[1 - at] == fixed:
            label = f"{each.engine}, {each.threads} thread{'s' * (each.threads > 1)}"
            numbers.setdefault(str(key[at]), {}).setdefault(label, []).append(each.samples_per_s)
    return numbers


def speedup(times):
    """Return how many times as fast the estimator is as scikit-learn's: the rounds' median."""
    pairs = zip(times["ours"], times["scikit-learn"], strict=True)
    return statistics.median(theirs / ours for ours, theirs in pairs)


def headline(found):
    """Return one sentence about speed, which the landing page quotes; empty without numbers."""
    numbers, parts = by_library(found, "small"), []
    for library in ("JAX", "PyTorch", "scikit-learn"):
        each = [statistics.median(v) for v in numbers.get(library, {}).values() if v]
        if each:
            parts.append(f"{min(each):.1f} to {max(each):.1f} times as fast as {library}")
    if not parts:
        return ""
    return (
        f"On two cores it trains a small network on MNIST {', '.join(parts[:-1])} and {parts[-1]}, "
        f"on {len(found)} kinds of processor."
    )
