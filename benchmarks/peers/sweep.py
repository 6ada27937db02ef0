"""The sweep: share of the peak along batch size, width, depth and density, one thing at a time.

Every subject has a colour and a marker of its own; dashed lines are one thread.
"""

from __future__ import annotations

from typing import NamedTuple

from fusedmlp.bench.results import task_records
from fusedmlp.bench.subjects import NUMBA
from fusedmlp.report.figures import COLOURS, MARKERS, new_figure, save, tidy

PEERS = (NUMBA, "jax", "torch")
LABELS = {
    "batch": "batch size",
    "width": "hidden width",
    "depth": "hidden layers of 256",
    "density": "share of nonzero inputs",
}


class Point(NamedTuple):
    """One subject at one place of an axis."""

    axis: str
    at: float
    engine: str
    threads: int
    share: float


def points(document):
    """Read the points of a sweep, in the order of measuring."""
    found = []
    for each in document["tasks"]:
        axis, _, at = str(each["task"]["name"]).partition("=")
        found += [
            Point(axis, float(at), r.engine, r.threads, r.share_of_peak or 0.0)
            for r in task_records(each)
        ]
    return found


def draw(document, path):
    """Draw the sweep to a file."""
    found = points(document)
    axes = list(dict.fromkeys(point.axis for point in found))
    engines = list(dict.fromkeys(point.engine for point in found))
    most = max(point.threads for point in found)
    figure = new_figure(3.6 * len(axes), 3.9)
    panels = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
    for panel, axis in zip(panels, axes, strict=True):
        keys = dict.fromkeys((p.engine, p.threads) for p in found if p.axis == axis)
        for engine, threads in keys:
            line = [(p.at, p.share) for p in found if p[0] == axis and p[2:4] == (engine, threads)]
            panel.plot(
                *zip(*line, strict=True),
                color=COLOURS[engines.index(engine) % len(COLOURS)],
                marker=MARKERS[engines.index(engine) % len(MARKERS)],
                markersize=5,
                linestyle="-" if threads == most else "--",
                alpha=1.0 if threads == most else 0.6,
                label=f"{engine}, {threads} thread{'s' * (threads > 1)}",
            )
        panel.axhline(1.0, color="black", linewidth=1, linestyle=":")
        panel.set_xscale("log", base=10 if axis == "density" else 2)
        panel.set_yscale("log")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_major_formatter("{x:.0%}")
        panel.set_xlabel(LABELS.get(axis, axis))
        tidy(panel)
    panels[0].set_ylabel("share of the measured FMA peak")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(f"784-256-10, dense, batch 64, one thing changed: {document['machine']['cpu']}")
    save(figure, path)
