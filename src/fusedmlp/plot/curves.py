"""The curves of a training: loss and accuracy after each epoch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from fusedmlp.errors import InvalidInputError
from fusedmlp.plot.style import GREY, class_style, shown_figure, tidy
from fusedmlp.training.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_MARKERS: Final = 12
"""Markers on one line, about. A line of one epoch would be invisible without."""

METRICS: Final = ("loss", "accuracy")
PARTS: Final = ("train", "validation")


def history(history: History, *, figure: Figure | None = None) -> Figure:
    """Draw the loss of each epoch and, where there is one, its accuracy.

    The best epoch is marked: ``history.best_epoch``, or else the one with the lowest validation
    loss. Without validation rows none is.

    Parameters
    ----------
    history
        Such as ``mlp.history`` after a training, or what ``Trainer.fit`` returns.
    figure
        Where to draw; None for a new figure of ``pyplot``.

    Returns
    -------
    The figure, with the loss to the left and the accuracy to the right.

    Raises
    ------
    InvalidInputError
        It is no history, or one without an epoch.
    MissingDependencyError
        Matplotlib is not installed.
    """
    if not isinstance(history, History):
        raise InvalidInputError(
            f"history is {history!r:.60}: give a fusedmlp.History, such as mlp.history after a "
            "training"
        )
    if not history.records:
        raise InvalidInputError("the history has no epoch to draw: train first")
    drawn = [metric for metric in METRICS if _has(history, metric)]
    if figure is None:
        figure = shown_figure(2.9 * len(drawn), 2.9)
    best = _best_epoch(history)
    panels = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axes, metric in zip(panels, drawn, strict=True):
        _draw_metric(axes, history, metric, best)
    panels[0].legend(framealpha=0.9)  # the lines of both panels have the same names
    return figure


def _draw_metric(axes: Axes, history: History, metric: str, best: int | None) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = [record.epoch for record in history.records]
    for number, part in enumerate(PARTS):
        values = _column(history, part, metric)
        if all(value is None for value in values):
            continue
        colour, marker = class_style(number)
        axes.plot(
            epochs,
            [math.nan if value is None else value for value in values],
            color=colour,
            marker=marker,
            markersize=4,
            markevery=max(1, len(epochs) // MOST_MARKERS),
            label=part,
        )
    if best is not None:
        axes.axvline(best, color=GREY, linestyle="--", linewidth=1.2, label=f"best epoch: {best}")
    axes.set_title(metric)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    tidy(axes)


def _column(history: History, part: str, metric: str) -> list[float | None]:
    return history.column(f"{part}_{metric}")


def _has(history: History, metric: str) -> bool:
    return any(value is not None for part in PARTS for value in _column(history, part, metric))


def _best_epoch(history: History) -> int | None:
    """Return the epoch whose weights were restored, or else that of the lowest validation loss."""
    if history.best_epoch is not None:
        return history.best_epoch
    found = [
        (record.validation_loss, record.epoch)
        for record in history.records
        if record.validation_loss is not None and math.isfinite(record.validation_loss)
    ]
    return min(found)[1] if found else None
