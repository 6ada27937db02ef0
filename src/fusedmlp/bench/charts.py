"""The charts of ``fusedmlp bench``, drawn from a document. Each engine keeps its colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp.bench.results import records
from fusedmlp.bench.tables import first_training, ratio_text
from fusedmlp.plot.style import COLOURS, MARKERS, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fusedmlp.bench.document import Document

LINE_STYLES: Final = ("-", "--", ":", "-.")
BAR_HEIGHT: Final = 0.62

LABELS: Final = {"batch": "batch size", "width": "units in the hidden layer"}

Line = tuple[str, int, str]
"""Engine, threads, and the other settings."""


def overview(document: Document) -> Figure:
    """Draw throughput over backends, batch sizes and widths, in one picture."""
    varied = [axis for axis in LABELS if lines(document, axis)]
    n_rows = 1 + len(varied) // 2
    figure = new_figure(13.0 if varied else 8.0, 4.6 * n_rows if n_rows > 1 else 3.2)
    panels = figure.subplots(n_rows, 2 if varied else 1, squeeze=False)
    for panel in panels.flat[1 + len(varied) :]:
        panel.set_axis_off()
    bars(panels.flat[0], document)
    for panel, axis in zip(panels.flat[1:], varied, strict=False):
        draw_lines(panel, document, axis)
    return figure


def bars(axes: Axes, document: Document) -> None:
    """Draw samples/s of the first training; whiskers reach to the slowest and fastest round."""
    found, colours = first_training(document), _colours(document)
    most = max(each.fastest for each in found)
    for at, each in enumerate(found):
        rate = each.samples_per_s
        axes.barh(at, rate, BAR_HEIGHT, color=colours[each.engine])
        whiskers = [[rate - each.slowest], [each.fastest - rate]]
        axes.errorbar(rate, at, xerr=whiskers, color="black", capsize=3, linewidth=1)
        ratio = "" if each.is_reference else ratio_text(each)
        text = f"{rate:,.0f}" + (f"  ({ratio} × {each.reference})" if ratio else "")
        axes.text(each.fastest + 0.015 * most, at, text, va="center")
    axes.set_yticks(range(len(found)), [f"{each.engine} ×{each.threads}" for each in found])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.6 * most)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("samples per second in training")
    axes.set_title(found[0].task, loc="left", fontsize=10)
    tidy(axes)
    axes.grid(visible=False, axis="y")


def lines(document: Document, axis: str) -> dict[Line, list[tuple[int, float]]]:
    """Return (at, samples/s) along an axis, by engine, threads and the other settings.

    Parameters
    ----------
    axis
        ``batch``: the batch sizes of one network; ``width``: networks that differ in the width of
        their single hidden layer. Lines with fewer than two points are left out.
    """
    found: dict[Line, list[tuple[int, float]]] = {}
    for each in records(document):
        sizes = each.network.split("-")
        if each.section != "training" or (axis == "width" and len(sizes) != 3):
            continue
        at = each.batch_size if axis == "batch" else int(sizes[1])
        other = each.network if axis == "batch" else f"batch {each.batch_size}"
        key = (each.engine, each.threads, f"{other}, {each.dtype}")
        found.setdefault(key, []).append((at, each.samples_per_s))
    return {key: sorted(line) for key, line in found.items() if len({at for at, _ in line}) > 1}


def draw_lines(axes: Axes, document: Document, axis: str) -> None:
    """Draw samples/s along an axis."""
    from matplotlib.ticker import NullLocator

    found, colours = lines(document, axis), _colours(document)
    others = list(dict.fromkeys(other for _, _, other in found))
    counts = sorted({threads for _, threads, _ in found}, reverse=True)
    for (engine, threads, other), line in found.items():
        index = list(colours).index(engine) + others.index(other)
        axes.plot(
            *zip(*line, strict=True),
            color=colours[engine],
            marker=MARKERS[index % len(MARKERS)],
            linestyle=LINE_STYLES[counts.index(threads) % len(LINE_STYLES)],
            label=f"{engine} ×{threads}, {other}",
        )
    ats = sorted({at for line in found.values() for at, _ in line})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ats, [f"{at:,}" for at in ats])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(LABELS[axis])
    axes.set_ylabel("samples per second in training")
    tidy(axes)
    axes.legend(fontsize=9, framealpha=0.9)


def _colours(document: Document) -> dict[str, str]:
    """Colours by engine; they follow the order of measuring."""
    engines = dict.fromkeys(each.engine for each in records(document))
    return {engine: COLOURS[index % len(COLOURS)] for index, engine in enumerate(engines)}
