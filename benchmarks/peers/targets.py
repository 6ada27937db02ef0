"""Targets of the Numba backend, and how each value follows from a document. Nothing is run here.

``must`` has to hold for a release, ``aim`` is what we would like.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fusedmlp.bench.results import measured, peak_rates, round_ratios, seconds_per_sample
from fusedmlp.bench.subjects import NUMBA
from peers.subjects import is_library

if TYPE_CHECKING:
    from collections.abc import Callable

FORMATS = {
    "times": "{:.2f}\u00a0×",
    "share": "{:.0%}",
    "µs": "{:.1f}\u00a0µs",
    "s": "{:.2f}\u00a0s",
    "MB": "{:.0f}\u00a0MB",
}
"""How a value of each unit is written, without a line break."""


@dataclass(frozen=True)
class Target:
    """One row of the table of targets.

    Parameters
    ----------
    unit
        A key of :data:`FORMATS`.
    value
        Computes the value from a document; None where that document does not have it.
    at_most
        Whether less is better.
    """

    name: str
    unit: str
    must: float | None
    aim: float | None
    value: Callable
    at_most: bool = False

    def holds(self, values, bound):
        """Whether all values are on the right side of a bound."""
        return all(value <= bound if self.at_most else value >= bound for value in values)

    def verdict(self, values):
        """Return what all values hold: the aim, the must, or neither."""
        if not values:
            return "not measured"
        if self.aim is not None and self.holds(values, self.aim):
            return "aim"
        if self.must is None or self.holds(values, self.must):
            return "must"
        return "missed"

    def written(self, value):
        """Return a value with its unit."""
        return "" if value is None else FORMATS[self.unit].format(value)


def task_entries(document, name):
    """Return a task and its entries; None where it was not measured."""
    return next((each for each in document["tasks"] if each["task"]["name"] == name), None)


def rate(entry):
    """Median samples per second."""
    return 1 / statistics.median(seconds_per_sample(entry))


def best(document, task, names=()):
    """Return the fastest entry of some subjects, or of all other libraries; None without any."""
    found = task_entries(document, task)
    chosen = [
        e
        for e in (measured(found) if found else ())
        if (e["peer"] in names if names else is_library(e["peer"]))
    ]
    return max(chosen, key=rate, default=None)


def ratios_against(document, task, *names):
    """Our speed relative to the best of these libraries, or of all, in every round.

    Each counts with its best number of threads; empty where either was not measured.
    """
    ours, theirs = best(document, task, (NUMBA,)), best(document, task, names)
    return round_ratios(ours, theirs) if ours and theirs else []


def against(document, task, *names):
    """Median of :func:`ratios_against`; None where either was not measured."""
    ratios = ratios_against(document, task, *names)
    return statistics.median(ratios) if ratios else None


def own_entries(document, task):
    """Entries of the Numba backend by number of threads."""
    found = task_entries(document, task)
    known = measured(found) if found else ()
    return {entry["threads"]: entry for entry in known if entry["peer"] == NUMBA}


def share_of_peak(document, task):
    """Share of the multiply-add peak of as many threads, on the most threads."""
    entries = own_entries(document, task)
    if not entries:
        return None
    found, threads = task_entries(document, task), max(entries)
    peak = peak_rates(found).get(threads)
    return found["flops_per_sample"] * rate(entries[threads]) / peak if peak else None


def second_thread(document, task):
    """Our speed on two threads relative to one, in the same rounds."""
    entries = own_entries(document, task)
    if not {1, 2} <= entries.keys():
        return None
    return statistics.median(round_ratios(entries[2], entries[1]))


def relative_rate(document, task, other, *older):
    """Our rate on a task relative to another subject's rate on it.

    Parameters
    ----------
    older
        Task and subject to compare with in documents that do not have ``other``.
    """
    ours = best(document, task, (NUMBA,))
    beside = best(document, task, (other,))
    if beside is None and older:
        beside = best(document, older[0], older[1:])
    return rate(ours) / rate(beside) if ours and beside else None


def microseconds(document, task):
    """Our time of a step."""
    ours, found = best(document, task, (NUMBA,)), task_entries(document, task)
    return 1e6 * found["task"]["batch_size"] / rate(ours) if ours else None


def startup(document, key, scale=1.0):
    """Our figure of the start-up measurement."""
    for row in document.get("startup", ()):
        if row["peer"] == NUMBA and key in row:
            return scale * statistics.median(row[key])
    return None


def _target(name, unit, must, aim, value, *arguments, at_most=False):
    def of(document):
        return value(document, *arguments)

    return Target(name, unit, must, aim, of, at_most)


_at_most = partial(_target, at_most=True)

TARGETS = (
    _target("`small`, best library", "times", 2.0, 3.0, against, "small"),
    _target("`small`, PyTorch", "times", 6.0, 9.0, against, "small", "torch"),
    _target("`small`, scikit-learn", "times", 6.0, 9.0, against, "small", "sklearn"),
    # The workshop's code is float64 whatever the task says.
    _target("`small`, the workshop's code", "times", 12.0, None, against, "small", "workshop"),
    _target("`small-dense`, of the peak", "share", 0.70, 0.85, share_of_peak, "small-dense"),
    _target("`big`, of the peak", "share", 0.80, 0.92, share_of_peak, "big"),
    _target("`big`, best library", "times", 1.15, 1.3, against, "big"),
    _target("`moons`, JAX", "times", 2.0, 4.0, against, "moons", "jax"),
    _target("second thread, `small`", "times", 1.7, 1.9, second_thread, "small"),
    _target("second thread, `big`", "times", 1.7, 1.9, second_thread, "big"),
    _target("Adam relative to SGD, `small`", "share", 0.5, 0.75,
            relative_rate, "small-adam", f"{NUMBA}-sgd", "small", NUMBA),
    _target("`small-adam`, best library", "times", 2.0, None, against, "small-adam"),
    _target("dropout relative to none, `small`", "share", 0.8, 0.95,
            relative_rate, "small-dropout", f"{NUMBA}-no-dropout"),
    _target("`small-float64`, the workshop's code", "times", 5.0, 8.0,
            against, "small-float64", "workshop"),
    _target("predict 10,000 rows, ONNX Runtime", "times", 1.2, 2.0,
            against, "predict-10000", "onnxruntime"),
    _at_most("predict one row", "µs", 20.0, 8.0, microseconds, "predict-1"),
    _at_most("first call ever", "s", 20.0, 8.0, startup, "cold_first_call_seconds"),
    _at_most("process start to first step, warm", "s", 1.5, 0.6,
             startup, "warm_since_start_seconds"),
    _at_most("memory above the imports", "MB", 200.0, 90.0, startup, "warm_memory_bytes", 1e-6),
)  # fmt: skip
