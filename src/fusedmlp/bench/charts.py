"""The pictures of ``fusedmlp bench``, each drawn from a document. Colours belong to engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.bench import roofline
from fusedmlp.bench.phases import PHASES
from fusedmlp.bench.summary import engine_name, records
from fusedmlp.bench.tables import duration, phase_medians
from fusedmlp.report.figures import COLOURS, GREY, MARKERS, new_figure, tidy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fusedmlp.bench.document import Document
    from fusedmlp.bench.summary import Record

Key = tuple[str, int]
"""An engine and its threads: what has a colour of its own, or shares one with fewer threads."""

ROOF_STYLES: Final = ("-", "--", "-.", ":")
"""Of the levels, from the nearest cache to the memory."""

BAR: Final = 0.62
"""Height of a bar, of the room that it has."""

GAP: Final = 0.6
"""Between groups of bars."""


def names(document: Document) -> list[str]:
    """Engines in the order of their colours: that of the contestants, NumPy first."""
    rows = document.get("phases", ())
    found = [each.engine for each in records(document)]
    return list(dict.fromkeys([*found, *(engine_name(str(row["peer"])) for row in rows)]))


def throughput(document: Document) -> Figure:
    """Draw a bar for each engine at the first training, the fastest on top."""
    found = first_training(document)
    figure = new_figure(8.0, 1.1 + 0.42 * len(found))
    bars(figure.subplots(), document)
    return figure


def over_batch(document: Document) -> Figure | None:
    """Draw samples/s over the batch size; None with fewer than two."""
    return _alone(document, batch_lines)


def over_width(document: Document) -> Figure | None:
    """Draw samples/s over the width of a hidden layer; None with fewer than two."""
    return _alone(document, width_lines)


def phases(document: Document) -> Figure | None:
    """Draw the phases of a process, cold and warm; None where they were not measured."""
    rows = [row for row in document.get("phases", ()) if "seconds" in row]
    if not rows:
        return None
    figure = new_figure(8.0, 2.2 + 0.36 * len(rows))
    for axes, state in zip(figure.subplots(2, 1), ("cold", "warm"), strict=True):
        chosen = [row for row in rows if row["state"] == state]
        _phase_bars(axes, chosen)
        axes.set_title(f"{state} start", loc="left", fontsize=10)
        axes.set_xlabel("seconds since the process began")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(PHASES), frameon=False)
    return figure


def rooflines(document: Document) -> Figure | None:
    """Draw every operation below what the machine allows; None where that is not known."""
    if not roofline.points(document) or roofline.peak(document) is None:
        return None
    figure = new_figure(8.0, 5.2)
    roofs(figure.subplots(), document)
    return figure


def shares(document: Document) -> Figure | None:
    """Draw each operation's share of its bound; None where the roofline is not known."""
    points, order = roofline.points(document), names(document)
    if not points:
        return None
    kinds = list(dict.fromkeys(point.operation for point in points))
    figure = new_figure(8.0, 1.0 + 0.24 * len(points) + 0.15 * len(kinds))
    axes = figure.subplots()
    at, middles, labelled = 0.0, [], set()
    for kind in kinds:
        here = [point for point in points if point.operation == kind]
        middles.append(at + (len(here) - 1) / 2)
        for point in here:
            name = engine_name(point.peer)
            colour = COLOURS[order.index(name) % len(COLOURS)]
            label = None if name in labelled else name
            labelled.add(name)
            axes.barh(at, 100 * point.share, 0.9, color=colour, label=label)
            text = f" {point.share:.0%} of {point.bound / 1e9:,.0f} GFLOP/s ({point.limit})"
            axes.text(100 * point.share, at, text, va="center", fontsize=8)
            at += 1.0
        at += GAP
    axes.set_yticks(middles, kinds)
    axes.invert_yaxis()
    axes.set_xlim(0, max(100.0, 140.0 * max(point.share for point in points)))
    axes.set_xlabel("% of what the machine allows")
    tidy(axes)
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper right", ncols=len(labelled), frameon=False)
    return figure


def overview(document: Document) -> Figure:
    """Draw all that there is of throughput and roofline, for a picture that stands alone."""
    drawn: list[Callable[[Axes, Document], None]] = [bars]
    drawn += [
        draw
        for draw, axis in ((batch_lines, "batch"), (width_lines, "width"))
        if lines(document, axis)
    ]
    if rooflines(document) is not None:
        drawn.append(roofs)
    rows = -(-len(drawn) // 2)
    figure = new_figure(13.0 if len(drawn) > 1 else 8.0, 4.6 * rows)
    panels = figure.subplots(rows, min(len(drawn), 2), squeeze=False)
    for panel in panels.flat[len(drawn) :]:
        panel.set_axis_off()
    for panel, draw in zip(panels.flat, drawn, strict=False):
        draw(panel, document)
    about = document["machine"]
    when = document["date"][:16].replace("T", " ")
    figure.suptitle(f"fusedmlp bench: {about['cpu']}, {about['cores']} cores, {when} UTC")
    return figure


def first_training(document: Document) -> list[Record]:
    """Return the records of the first training, the fastest first."""
    found = [each for each in records(document) if each.section == "training"]
    here = [each for each in found if each.task == found[0].task]
    return sorted(here, key=lambda each: -each.samples_per_s)


def bars(axes: Axes, document: Document) -> None:
    """Draw samples/s of the first training; whiskers reach to the slowest and fastest round."""
    found, order = first_training(document), names(document)
    several = len({each.threads for each in found}) > 1
    most = max(each.fastest for each in found)
    for at, each in enumerate(found):
        axes.barh(
            at, each.samples_per_s, BAR, color=COLOURS[order.index(each.engine) % len(COLOURS)]
        )
        whiskers = [[each.samples_per_s - each.slowest], [each.fastest - each.samples_per_s]]
        axes.errorbar(each.samples_per_s, at, xerr=whiskers, color="black", capsize=3, linewidth=1)
        ratio = (
            ""
            if each.ratio is None or each.engine == each.reference
            else f"  ({each.ratio:.{1 if each.ratio >= 1 else 2}f} × {each.reference})"
        )
        axes.text(each.fastest + 0.015 * most, at, f"{each.samples_per_s:,.0f}{ratio}", va="center")
    axes.set_yticks(range(len(found)), [_label(each, several) for each in found])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.6 * most)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(_thousands)
    axes.set_xlabel("samples per second in training")
    axes.set_title(found[0].task, loc="left", fontsize=10)
    tidy(axes)
    axes.grid(visible=False, axis="y")


def lines(document: Document, axis: str) -> dict[tuple[str, int, str], list[tuple[int, float]]]:
    """Return (at, samples/s) along an axis, by engine, threads and what else is told apart.

    Parameters
    ----------
    axis
        ``batch``: one network's batch sizes; ``width``: networks that differ in the width of
        their one hidden layer. Only lines of two points and more.
    """
    found: dict[tuple[str, int, str], list[tuple[int, float]]] = {}
    for each in records(document):
        sizes = each.network.split("-")
        if each.section != "training" or (axis == "width" and len(sizes) != 3):
            continue
        at = each.batch_size if axis == "batch" else int(sizes[1])
        beside = each.network if axis == "batch" else f"batch {each.batch_size}"
        key = (each.engine, each.threads, f"{beside}, {each.dtype}")
        found.setdefault(key, []).append((at, each.samples_per_s))
    return {key: sorted(line) for key, line in found.items() if len({at for at, _ in line}) > 1}


def batch_lines(axes: Axes, document: Document) -> None:
    """Draw samples/s over the batch size."""
    _lines(axes, document, "batch", "batch size")


def width_lines(axes: Axes, document: Document) -> None:
    """Draw samples/s over the width of the hidden layer."""
    _lines(axes, document, "width", "units in the hidden layer")


def roofs(axes: Axes, document: Document) -> None:
    """Draw GFLOP/s over operations per byte, below the roofs; a marker for each operation."""
    points, order = roofline.points(document), names(document)
    top = roofline.peak(document)
    assert top is not None
    levels = roofline.levels(document)
    left = min(point.work.intensity for point in points) / 3
    right = max(max(point.work.intensity for point in points) * 3, 4 * top / levels[-1].rate)
    for level, style in zip(levels, ROOF_STYLES, strict=False):
        xs, ys = (left, top / level.rate), (left * level.rate / 1e9, top / 1e9)
        label = f"{level.name}, {level.rate / 1e9:,.0f} GB/s"
        axes.plot(xs, ys, color=GREY, linewidth=1.3, linestyle=style, label=label)
    axes.plot((top / levels[0].rate, right), (top / 1e9, top / 1e9), color=GREY, linewidth=1.2)
    axes.annotate(
        f"fused multiply-adds {top / 1e9:,.0f} GFLOP/s",
        (top / levels[0].rate, top / 1e9),  # where no operation is: they are further right
        xytext=(2, 4),
        textcoords="offset points",
        ha="left",
        fontsize=8,
        color="#555555",
    )
    kinds = list(dict.fromkeys(point.operation for point in points))
    for point in points:
        axes.scatter(
            point.work.intensity,
            point.rate / 1e9,
            marker=MARKERS[kinds.index(point.operation) % len(MARKERS)],
            facecolors="none",  # open, so that those below stay visible
            edgecolors=COLOURS[order.index(engine_name(point.peer)) % len(COLOURS)],
            s=60,
            zorder=3,
            linewidths=1.8,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    axes.set_ylim(min(point.rate for point in points) / 1e9 / 2.5, top / 1e9 * 2.2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("operations per byte that must move (FLOP/byte)")
    axes.set_ylabel("GFLOP/s")
    tidy(axes)
    _roof_legend(axes, document, kinds)


def _roof_legend(axes: Axes, document: Document, kinds: Sequence[str]) -> None:
    """Colours for engines, markers for operations."""
    from matplotlib.lines import Line2D

    order = names(document)
    shown = [
        name
        for name in order
        if any(engine_name(p.peer) == name for p in roofline.points(document))
    ]
    handles = [
        Line2D([], [], color=COLOURS[order.index(name) % len(COLOURS)], linewidth=5, label=name)
        for name in shown
    ]
    handles += [
        Line2D(
            [],
            [],
            color="#333333",
            marker=MARKERS[i % len(MARKERS)],
            markerfacecolor="none",
            markeredgewidth=1.5,
            linestyle="",
            label=kind,
        )
        for i, kind in enumerate(kinds)
    ]
    handles += [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    # Beside the axes: below the roofs there may be a point anywhere.
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)


def _alone(document: Document, draw: Callable[[Axes, Document], None]) -> Figure | None:
    if not lines(document, "batch" if draw is batch_lines else "width"):
        return None
    figure = new_figure(8.0, 4.0)
    draw(figure.subplots(), document)
    return figure


def _lines(axes: Axes, document: Document, axis: str, label: str) -> None:
    from matplotlib.ticker import NullLocator

    found, order = lines(document, axis), names(document)
    others = list(dict.fromkeys(other for _, _, other in found))
    counts = sorted({threads for _, threads, _ in found}, reverse=True)
    styles = ("-", "--", ":", "-.")
    for (engine, threads, other), line in found.items():
        index = order.index(engine)
        label_parts = [engine]
        if len(counts) > 1:
            label_parts.append(f"{threads} thread{'s' * (threads > 1)}")
        if len(others) > 1:
            label_parts.append(other)
        axes.plot(
            [at for at, _ in line],
            [rate for _, rate in line],
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[(index + others.index(other)) % len(MARKERS)],
            linestyle=styles[counts.index(threads) % len(styles)],
            label=", ".join(label_parts),
        )
    ats = sorted({at for line in found.values() for at, _ in line})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ats, [f"{at:,}" for at in ats])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(_thousands)
    axes.set_xlabel(label)
    axes.set_ylabel("samples per second in training")
    if len(others) == 1:
        axes.set_title(others[0], loc="left", fontsize=10)
    tidy(axes)
    axes.legend(fontsize=9, framealpha=0.9)


def _phase_bars(axes: Axes, rows: Sequence[dict[str, object]]) -> None:
    from matplotlib import colormaps

    # Other colours than the engines': dark to light, which any eye tells apart.
    shades = colormaps["viridis"](np.linspace(0.0, 0.97, len(PHASES)))
    sums = []
    for at, row in enumerate(rows):
        left = 0.0
        for name, shade in zip(PHASES, shades, strict=True):
            seconds = phase_medians(row)[name]
            label = None if at else name
            axes.barh(at, seconds, BAR, left=left, color=shade, edgecolor="white", label=label)
            left += seconds
        sums.append(left)
    for at, total in enumerate(sums):
        axes.text(total + 0.01 * max(sums), at, duration(total), va="center")
    axes.set_yticks(range(len(rows)), [engine_name(str(row["peer"])) for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(sums))
    tidy(axes)
    axes.grid(visible=False, axis="y")


def _label(each: Record, several: bool) -> str:
    return (
        f"{each.engine}, {each.threads} thread{'s' * (each.threads > 1)}"
        if several
        else each.engine
    )


def _thousands(value: float, _position: float) -> str:
    return f"{value:,.0f}"
