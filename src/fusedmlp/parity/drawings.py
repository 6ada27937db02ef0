"""The two drawings of the certificate's page: differences by operation, and by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.plot.style import COLOURS, GREY, MARKERS, new_figure, tidy
from fusedmlp.report.figures import as_svg
from fusedmlp.tolerance import TRAJECTORY_STEPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from fusedmlp.parity.comparison import Comparison
    from fusedmlp.parity.trajectories import Trajectory


SMALLEST_SHARE: Final = 1e-5
"""Smallest share of a bound that is drawn; smaller ones are at the left edge."""


def draw_operations(worst: Sequence[Comparison]) -> str:
    """Draw a row for each operation: each pair's difference as a share of its bound."""
    names = list(dict.fromkeys(each.operation for each in worst))
    series = list(dict.fromkeys((c.backend, c.reference, c.dtype) for c in worst))
    figure = new_figure(9.0, 1.2 + 0.2 * len(names))
    axes = figure.add_subplot()
    shares = [c.share_of_bound for c in worst if 0.0 < c.share_of_bound < float("inf")]
    least = max(SMALLEST_SHARE, 10.0 ** np.floor(np.log10(min(shares, default=1.0)) - 0.5))
    most = max(10.0, *shares) * 3.0 if shares else 10.0
    for number, key in enumerate(series):
        points = [c for c in worst if (c.backend, c.reference, c.dtype) == key]
        axes.plot(
            [float(np.clip(c.share_of_bound, least, most)) for c in points],
            [
                names.index(c.operation) + 0.3 * (number / max(len(series) - 1, 1) - 0.5)
                for c in points
            ],
            linestyle="none",
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            color=COLOURS[number % len(COLOURS)],
            label=f"{key[0]} and {key[1]}, {key[2]}",
        )
    axes.axvline(1.0, color="black", linewidth=1.2)
    axes.annotate(
        "bound", (1.0, -0.9), ha="right", va="bottom", xytext=(-4, 0), textcoords="offset points"
    )
    axes.set_xscale("log")
    axes.set_xlim(least * 0.8, most)
    axes.set_ylim(len(names) - 0.4, -1.2)
    axes.set_yticks(range(len(names)), names, fontsize=8.5)
    axes.set_xlabel("largest difference, as a share of its bound (left edge: equal bits, or less)")
    tidy(axes)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return as_svg(figure)


def draw_trajectories(found: Sequence[Trajectory]) -> str:
    """Draw a panel for each training: the difference after each step, on logarithmic scales."""
    trainings = list(dict.fromkeys(each.training for each in found))
    figure = new_figure(9.0, 4.2)
    panels = figure.subplots(1, max(len(trainings), 1), sharey=True, squeeze=False)[0]
    for panel, training in zip(panels, trainings, strict=False):
        _panel(panel, training, [each for each in found if each.training == training])
    if trainings:
        panels[0].set_ylabel("largest difference, relative")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return as_svg(figure)


def _panel(panel: Axes, training: str, found: Sequence[Trajectory]) -> None:
    for number, each in enumerate(found):
        steps = np.arange(1, len(each.differences) + 1)
        values = np.asarray(each.differences)
        shown = values > 0.0
        colour = COLOURS[number % len(COLOURS)]
        panel.plot(
            steps[shown],
            values[shown],
            color=colour,
            linewidth=1.5,
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            markevery=0.12,
            label=f"{each.backend} and {each.reference}, {each.dtype}",
        )
    for bound in sorted({each.bound for each in found}):
        dtypes = ", ".join(dict.fromkeys(each.dtype for each in found if each.bound == bound))
        panel.hlines(bound, 1, TRAJECTORY_STEPS, color=GREY, linestyle="--", linewidth=1.2)
        panel.annotate(
            f"bound, {dtypes}",
            (TRAJECTORY_STEPS, bound),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel("step")
    panel.set_title(training, fontsize=10.5)
    tidy(panel)
