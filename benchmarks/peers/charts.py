"""The charts of the results page, one for each question, as SVG files in docs/_static/results.

A file carries the description of its numbers, so that a test can tell an old file from a new one
without drawing.
"""

from __future__ import annotations

import re
import statistics
import textwrap
from html import escape

from fusedmlp.plot.style import COLOURS, GREY, MARKERS, new_figure, tidy
from peers.documents import ROOT

FOLDER = ROOT / "docs" / "_static" / "results"

WIDTH = 5.2
"""Inches. Text of 11 points is still 9 pixels high where the picture is 400 pixels wide."""

TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100)
"""Of ratios, on a logarithmic axis."""

DESCRIPTION = re.compile(r"<dc:description>(.*?)</dc:description>", re.DOTALL)


def write(questions, folder=FOLDER):
    """Draw all charts into a folder, and remove those of questions that are gone."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.svg"):
        path.unlink()
    for question in questions:
        with mpl.rc_context({"font.size": 11, "svg.hashsalt": "fusedmlp"}):
            about = {"Date": None, "Creator": None, "Description": question.description}
            draw(question).savefig(folder / f"{question.name}.svg", metadata=about)


def described(path):
    """Return the description that a file carries."""
    return DESCRIPTION.search(path.read_text("utf-8"))[1]


def description(question):
    """Return a question's description as a file has it."""
    return escape(question.description, quote=False)


def draw(question):
    """Draw a question's numbers: points with the range of the runs, or curves."""
    series = list(dict.fromkeys(name for row in question.numbers.values() for name in row))
    height = 1.4 + 0.25 * len(series)
    height += 2.4 if question.kind == "line" else 0.42 * len(question.numbers)
    figure = new_figure(WIDTH, height)
    axes = figure.subplots()
    (curves if question.kind == "line" else points)(axes, question, series)
    tidy(axes)
    if question.kind != "line":
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("\n".join(textwrap.wrap(question.unit, 40)))
    if len(series) > 1:
        figure.legend(loc="outside lower left", frameon=False, fontsize=10.5)
    return figure


def points(axes, question, series):
    """Draw a row for each label and a point for each machine; a line spans its runs."""
    step = 0.68 / max(1, len(series))
    for at in range(0, len(question.numbers), 2):
        axes.axhspan(at - 0.5, at + 0.5, color=GREY, alpha=0.08, linewidth=0)
    for number, name in enumerate(series):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        found = [
            (at, row[name]) for at, row in enumerate(question.numbers.values()) if row.get(name)
        ]
        offset = step * (number - (len(series) - 1) / 2)
        heights = [at + offset for at, _ in found]
        middles = [statistics.median(each) for _, each in found]
        axes.hlines(
            heights, [min(v) for _, v in found], [max(v) for _, v in found], colour, linewidth=2.5,
            alpha=0.55,
        )  # fmt: skip
        axes.plot(middles, heights, marker, color=colour, markersize=6.5, label=name)
    axes.set_yticks(range(len(question.numbers)), list(question.numbers))
    axes.set_ylim(len(question.numbers) - 0.5, -0.5)
    if question.kind == "ratio":
        every = [v for row in question.numbers.values() for each in row.values() for v in each]
        low, high = min(1.0, *every) / 1.15, max(2.2, *every) * 1.15
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.set_xticks([t for t in TICKS if low < t < high], minor=False)
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
        axes.axvline(1.0, color=GREY, linewidth=1.5)
    else:
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=6)


def curves(axes, question, series):
    """Draw a curve for each series over the rows, whose labels are numbers."""
    from matplotlib.ticker import NullLocator

    for number, name in enumerate(series):
        found = [
            (int(k), statistics.median(v[name])) for k, v in question.numbers.items() if name in v
        ]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        axes.plot(*zip(*found, strict=True), color=colour, marker=marker, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks([int(at) for at in question.numbers], list(question.numbers))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylabel(question.unit)
