"""The sweep as a picture: share of the measured peak along each axis, on logarithmic scales.

Colours are those of Okabe and Ito (2008), told apart with any colour vision, and every peer has a
marker of its own; dashed lines are one thread.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from peers.sweeping import points

if TYPE_CHECKING:
    from pathlib import Path

    from fusedmlp.bench.document import Document

STYLES: Final = (("#D55E00", "o"), ("#0072B2", "s"), ("#009E73", "^"), ("#CC79A7", "D"))
LABELS: Final = {
    "batch": "batch size",
    "width": "hidden width",
    "depth": "hidden layers of 256",
    "density": "share of inputs that are not zero",
}


def draw(document: Document, path: Path) -> bool:
    """Draw to an SVG file; return False where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return False
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "peers"  # the same numbers give the same file
    from matplotlib import pyplot

    found = points(document)
    axes = list(dict.fromkeys(point.axis for point in found))
    names = list(dict.fromkeys(point.peer for point in found))
    most = max((point.threads for point in found), default=1)
    figure, panels = pyplot.subplots(
        1, max(len(axes), 1), figsize=(4.2 * max(len(axes), 1), 4), sharey=True, squeeze=False
    )
    for panel, axis in zip(panels[0], axes, strict=False):
        for name, (colour, marker) in zip(names, STYLES, strict=False):
            for threads in sorted({point.threads for point in found}):
                line = [
                    (point.at, point.share)
                    for point in found
                    if (point.axis, point.peer, point.threads) == (axis, name, threads)
                ]
                panel.plot(
                    [at for at, _ in line],
                    [share for _, share in line],
                    color=colour,
                    marker=marker,
                    markersize=5,
                    linestyle="-" if threads == most else "--",
                    alpha=1.0 if threads == most else 0.6,
                    label=f"{name}, {threads} thread{'s' * (threads > 1)}",
                )
        panel.axhline(1.0, color="black", linewidth=1, linestyle=":")
        panel.set_xscale("log", base=10 if axis == "density" else 2)
        panel.set_yscale("log")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_major_formatter("{x:g}")
        panel.set_xlabel(LABELS.get(axis, axis))
        panel.grid(visible=True, which="major", alpha=0.3)
    panels[0][0].set_ylabel("share of the measured FMA peak")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=max(len(labels), 1), frameon=False)
    figure.suptitle(f"784-256-10, dense, batch 64, one thing changed: {document['machine']['cpu']}")
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return True
