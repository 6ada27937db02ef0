"""The charts of ``fusedmlp bench``, drawn from a document. Each engine keeps its colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.bench.results import records
from fusedmlp.bench.startup import PHASES, phase_medians
from fusedmlp.bench.subjects import engine_name
from fusedmlp.bench.tables import duration
from fusedmlp.report.figures import COLOURS, MARKERS, new_figure, tidy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fusedmlp.bench.document import Document
    from fusedmlp.bench.results import Record

    Draw = Callable[[Axes, Document], None]

LINE_STYLES: Final = ("-", "--", ":", "-.")
BAR_HEIGHT: Final = 0.62


def phases(document: Document) -> Figure | None:
    """Draw the phases of a process, cold and warm; None where they were not measured."""
    rows = [row for row in document.get("phases", ()) if "seconds" in row]
    if not rows:
        return None
    figure = new_figure(8.0, 2.2 + 0.36 * len(rows))
    for axes, state in zip(figure.subplots(2, 1), ("cold", "warm"), strict=True):
        _phase_bars(axes, [row for row in rows if row["state"] == state])
        axes.set_title(f"{state} start", loc="left", fontsize=10)
        axes.set_xlabel("seconds since the process began")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(PHASES), frameon=False)
    return figure


def overview(document: Document) -> Figure:
    """Draw throughput over backends, batch sizes and widths, in one picture."""
    drawn: list[Draw] = [bars]
    drawn += [batch_lines] * bool(lines(document, "batch"))
    drawn += [width_lines] * bool(lines(document, "width"))
    rows = -(-len(drawn) // 2)
    figure = new_figure(13.0 if len(drawn) > 1 else 8.0, 4.6 * rows if rows > 1 else 3.2)
    panels = figure.subplots(rows, min(len(drawn), 2), squeeze=False)
    for panel in panels.flat[len(drawn) :]:
        panel.set_axis_off()
    for panel, draw in zip(panels.flat, drawn, strict=False):
        draw(panel, document)
    about = document["machine"]
    when = document["date"][:16].replace("T", " ")
    figure.suptitle(f"fusedmlp bench: {about['cpu']}, {about['cores']} cores, {when} UTC")
    return figure


def _colour(document: Document, engine: str) -> str:
    """Colours follow the order of measuring."""
    order = list(dict.fromkeys(each.engine for each in records(document)))
    return COLOURS[order.index(engine) % len(COLOURS)]


def first_training(document: Document) -> list[Record]:
    """Return the records of the first training, the fastest first."""
    found = [each for each in records(document) if each.section == "training"]
    here = [each for each in found if each.task == found[0].task]
    return sorted(here, key=lambda each: -each.samples_per_s)


def bars(axes: Axes, document: Document) -> None:
    """Draw samples/s of the first training; whiskers reach to the slowest and fastest round."""
    found = first_training(document)
    several = len({each.threads for each in found}) > 1
    most = max(each.fastest for each in found)
    for at, each in enumerate(found):
        rate = each.samples_per_s
        axes.barh(at, rate, BAR_HEIGHT, color=_colour(document, each.engine))
        whiskers = [[rate - each.slowest], [each.fastest - rate]]
        axes.errorbar(rate, at, xerr=whiskers, color="black", capsize=3, linewidth=1)
        text = f"{rate:,.0f}"
        if each.ratio is not None and each.engine != each.reference:
            text += f"  ({each.ratio:.{1 if each.ratio >= 1 else 2}f} × {each.reference})"
        axes.text(each.fastest + 0.015 * most, at, text, va="center")
    labels = [
        f"{each.engine}, {_threads(each.threads)}" if several else each.engine for each in found
    ]
    axes.set_yticks(range(len(found)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.6 * most)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("samples per second in training")
    axes.set_title(found[0].task, loc="left", fontsize=10)
    tidy(axes)
    axes.grid(visible=False, axis="y")


def lines(document: Document, axis: str) -> dict[tuple[str, int, str], list[tuple[int, float]]]:
    """Return (at, samples/s) along an axis, by engine, threads and the other settings.

    Parameters
    ----------
    axis
        ``batch``: the batch sizes of one network; ``width``: networks that differ in the width of
        their single hidden layer. Lines with fewer than two points are left out.
    """
    found: dict[tuple[str, int, str], list[tuple[int, float]]] = {}
    for each in records(document):
        sizes = each.network.split("-")
        if each.section != "training" or (axis == "width" and len(sizes) != 3):
            continue
        at = each.batch_size if axis == "batch" else int(sizes[1])
        other = each.network if axis == "batch" else f"batch {each.batch_size}"
        key = (each.engine, each.threads, f"{other}, {each.dtype}")
        found.setdefault(key, []).append((at, each.samples_per_s))
    return {key: sorted(line) for key, line in found.items() if len({at for at, _ in line}) > 1}


def batch_lines(axes: Axes, document: Document) -> None:
    """Draw samples/s over the batch size."""
    _lines(axes, document, "batch", "batch size")


def width_lines(axes: Axes, document: Document) -> None:
    """Draw samples/s over the width of the hidden layer."""
    _lines(axes, document, "width", "units in the hidden layer")


def _lines(axes: Axes, document: Document, axis: str, label: str) -> None:
    from matplotlib.ticker import NullLocator

    found = lines(document, axis)
    engines = list(dict.fromkeys(engine for engine, _, _ in found))
    others = list(dict.fromkeys(other for _, _, other in found))
    counts = sorted({threads for _, threads, _ in found}, reverse=True)
    for (engine, threads, other), line in found.items():
        parts = [engine] + [_threads(threads)] * (len(counts) > 1) + [other] * (len(others) > 1)
        index = engines.index(engine) + others.index(other)
        axes.plot(
            *zip(*line, strict=True),
            color=_colour(document, engine),
            marker=MARKERS[index % len(MARKERS)],
            linestyle=LINE_STYLES[counts.index(threads) % len(LINE_STYLES)],
            label=", ".join(parts),
        )
    ats = sorted({at for line in found.values() for at, _ in line})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ats, [f"{at:,}" for at in ats])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(label)
    axes.set_ylabel("samples per second in training")
    if len(others) == 1:
        axes.set_title(others[0], loc="left", fontsize=10)
    tidy(axes)
    axes.legend(fontsize=9, framealpha=0.9)


def _phase_bars(axes: Axes, rows: Sequence[dict[str, object]]) -> None:
    from matplotlib import colormaps

    # Other colours than the engines', from dark to light.
    shades = colormaps["viridis"](np.linspace(0.0, 0.97, len(PHASES)))
    sums = [sum(phase_medians(row).values()) for row in rows]
    for at, row in enumerate(rows):
        left = 0.0
        for (name, seconds), shade in zip(phase_medians(row).items(), shades, strict=True):
            label = None if at else name
            bar = {"color": shade, "edgecolor": "white", "label": label}
            axes.barh(at, seconds, BAR_HEIGHT, left=left, **bar)
            left += seconds
        axes.text(left + 0.01 * max(sums), at, duration(left), va="center")
    axes.set_yticks(range(len(rows)), [engine_name(str(row["peer"])) for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(sums, default=1.0))
    tidy(axes)
    axes.grid(visible=False, axis="y")


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"
