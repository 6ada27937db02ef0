"""What the Numba engine should reach, and how each figure follows from a run's document.

``must`` is what a release has to hold, ``aim`` what we would like. Nothing is measured here.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from fusedmlp.bench.contestants import OURS, own
from fusedmlp.bench.figures import Figure, figures, ratio
from peers.entrants import NO_DROPOUT, OWN, SGD

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fusedmlp.bench.contestants import Contestant
    from fusedmlp.bench.document import Document

Value: TypeAlias = "Callable[[Document], float | None]"

FORMATS: Final[Mapping[str, str]] = {
    "times": "{:.2f}\u00a0×",
    "share": "{:.0%}",
    "µs": "{:.1f}\u00a0µs",
    "s": "{:.2f}\u00a0s",
    "MB": "{:.0f}\u00a0MB",
}
"""How a figure of each unit is written: in one piece, whatever the width of a table."""


@dataclass(frozen=True, slots=True)
class Target:
    """One line of the table of targets.

    Parameters
    ----------
    unit
        A key of :data:`FORMATS`.
    value
        The figure in a document; None where that document does not have it.
    at_most
        Whether less is better.
    """

    name: str
    unit: str
    must: float | None
    aim: float | None
    value: Value
    at_most: bool = False

    def holds(self, value: float, bound: float) -> bool:
        """Whether a figure is on the right side of a bound."""
        return value <= bound if self.at_most else value >= bound

    def written(self, value: float | None) -> str:
        """Return the figure with its unit."""
        return "" if value is None else FORMATS[self.unit].format(value)


def of_task(document: Document, name: str) -> list[Figure]:
    """Return the figures of a task; none where it was not measured."""
    return [f for each in document["tasks"] if each["task"]["name"] == name for f in figures(each)]


def best(found: list[Figure], peers: tuple[str, ...] | None = None) -> Figure | None:
    """Return the fastest of some peers, or of all that are not ours."""
    chosen = [
        f
        for f in found
        if f.rate and (f.entry["peer"] in peers if peers else f.entry["peer"] not in OWN)
    ]
    return max(chosen, key=lambda f: f.rate or 0.0, default=None)


def against(task: str, *peers: str) -> Value:
    """Our speed by the best of these peers, or of all: each on its best number of threads."""

    def value(document: Document) -> float | None:
        found = of_task(document, task)
        ours, theirs = best(found, (OURS,)), best(found, peers or None)
        return ratio(theirs.entry, ours.entry) if ours and theirs else None

    return value


def share_of_peak(task: str) -> Value:
    """Share of the multiply-add peak of as many threads: all there are."""

    def value(document: Document) -> float | None:
        ours = [f for f in of_task(document, task) if f.entry["peer"] == OURS]
        return max(ours, key=lambda f: f.entry["threads"]).share if ours else None

    return value


def second_thread(task: str) -> Value:
    """Our speed on two threads by that on one, in the same rounds."""

    def value(document: Document) -> float | None:
        ours = {
            f.entry["threads"]: f.entry for f in of_task(document, task) if f.entry["peer"] == OURS
        }
        return ratio(ours[1], ours[2]) if {1, 2} <= ours.keys() else None

    return value


def rate_beside(task: str, *others: tuple[str, Contestant]) -> Value:
    """Our rate on a task by somebody's on another: the first of ``others`` that the run has."""

    def value(document: Document) -> float | None:
        ours = best(of_task(document, task), (OURS,))
        known = (best(of_task(document, other), (peer.name,)) for other, peer in others)
        beside = next((figure for figure in known if figure), None)
        return ours.rate / beside.rate if ours and beside and ours.rate and beside.rate else None

    return value


def microseconds(task: str) -> Value:
    """Our time for a step."""

    def value(document: Document) -> float | None:
        ours = best(of_task(document, task), (OURS,))
        return ours.microseconds if ours else None

    return value


def starting(key: str, scale: float = 1.0) -> Value:
    """Return a figure of the startup measurement, ours."""

    def value(document: Document) -> float | None:
        for row in document.get("startup", ()):
            values = row.get(key)
            if row["peer"] == OURS and isinstance(values, list):
                return scale * float(statistics.median(values))
        return None

    return value


_AT_MOST: Final = partial(Target, at_most=True)

TARGETS: Final = (
    Target("`small`, best peer", "times", 2.0, 3.0, against("small")),
    Target("`small`, PyTorch", "times", 6.0, 9.0, against("small", "torch")),
    Target("`small`, scikit-learn", "times", 6.0, 9.0, against("small", "sklearn")),
    Target("`small`, the workshop's code in float64", "times", 12.0, None,
           against("small", "workshop")),  # which is float64 whatever the task says
    Target("`small-dense`, of the peak", "share", 0.70, 0.85, share_of_peak("small-dense")),
    Target("`big`, of the peak", "share", 0.80, 0.92, share_of_peak("big")),
    Target("`big`, best peer", "times", 1.15, 1.3, against("big")),
    Target("`moons`, JAX", "times", 2.0, 4.0, against("moons", "jax")),
    Target("second thread, `small`", "times", 1.7, 1.9, second_thread("small")),
    Target("second thread, `big`", "times", 1.7, 1.9, second_thread("big")),
    Target("Adam by SGD, `small`", "share", 0.5, 0.75,
           # The second is of older runs, some minutes apart on machines whose speed moves.
           rate_beside("small-adam", ("small-adam", SGD), ("small", own("numba")))),
    Target("`small-adam`, best peer", "times", 2.0, None, against("small-adam")),
    Target(
        "dropout by none, `small`",
        "share",
        0.8,
        0.95,
        rate_beside("small-dropout", ("small-dropout", NO_DROPOUT)),
    ),
    Target("`small-float64`, the workshop's code", "times", 5.0, 8.0,
           against("small-float64", "workshop")),
    Target("predict 10,000 rows, onnxruntime", "times", 1.2, 2.0,
           against("predict-10000", "onnxruntime")),
    _AT_MOST("predict one row", "µs", 20.0, 8.0, microseconds("predict-1")),
    _AT_MOST("first call ever", "s", 20.0, 8.0, starting("cold_first_call_seconds")),
    _AT_MOST("process start to first step, warm", "s", 1.5, 0.6,
             starting("warm_since_start_seconds")),
    _AT_MOST("memory above the imports", "MB", 200.0, 90.0,
             starting("warm_memory_bytes", 1e-6)),
)  # fmt: skip
