"""The decision boundary of a classifier with two inputs.

recorder.py draws the same while a network is being trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, cast

import numpy as np

from fusedmlp.plot.classifier import Classifier
from fusedmlp.plot.style import WHITE, class_style, colour_map, shown_figure, tint

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.contour import QuadContourSet

    from fusedmlp.io.onnx import Estimator
    from fusedmlp.model import MLP
    from fusedmlp.types import Float64Array, FloatArray, InputsLike, IntArray

GRID_SIDE: Final = 200
"""Points of the grid along each axis."""

MARGIN: Final = 0.1
"""Space around the points, as a share of their extent."""

STRENGTH: Final = 0.6
"""Share of the class's colour where its probability is 1; its points have the colour itself."""


@dataclass(frozen=True)
class Grid:
    """A grid over the plane of two inputs.

    Parameters
    ----------
    x, y
        (G,) values of the first and of the second input.
    """

    x: Float64Array
    y: Float64Array

    @classmethod
    def around(cls, points: Float64Array, side: int) -> Self:
        """Return a grid of ``side`` values along each axis, around points (N, 2)."""
        least, most = points.min(axis=0), points.max(axis=0)
        space = MARGIN * np.where(most > least, most - least, 1.0)
        first, second = np.linspace(least - space, most + space, side, axis=1)
        return cls(first, second)

    @property
    def points(self) -> Float64Array:
        """All points, (G·G, 2): the first input changes fastest."""
        first, second = np.meshgrid(self.x, self.y)
        return np.column_stack([first.ravel(), second.ravel()])

    def spread(self, values: FloatArray) -> FloatArray:
        """Return values (G·G, K) of the points as (G, G, K): second input, first input, class."""
        return values.reshape(len(self.y), len(self.x), -1)


@dataclass(frozen=True)
class Points:
    """The rows that are drawn over the probabilities.

    Parameters
    ----------
    rows
        (N, 2) inputs.
    classes
        (N,) numbers of their classes.
    names
        Names of the K classes.
    axes
        Names of both inputs.
    """

    rows: Float64Array
    classes: IntArray
    names: tuple[str, ...]
    axes: tuple[str, str]


def decision_boundary(
    model: MLP | Estimator, x: InputsLike, y: npt.ArrayLike, *, ax: Axes | None = None
) -> Axes:
    """Draw the classes that a model predicts over the plane of its two inputs, and rows over it.

    Parameters
    ----------
    model
        An MLP with a softmax output or one sigmoid output, or a fitted
        :class:`fusedmlp.sklearn.MLPClassifier`; of two inputs.
    x, y
        Rows (N, 2) as the model takes them, and their classes (N,).
    ax
        Where to draw; None for a new figure of ``pyplot``, which also has a colour bar where there
        are two classes.

    Returns
    -------
    The axes. Two classes: filled contours of the second one's probability, and a black line where
    it is 0.5. More classes: each region has its class's colour, the deeper, the further the
    probability is above that of the next class; a black line is between regions.

    Raises
    ------
    InvalidInputError
        The model has no classes or not two inputs, or ``x`` and ``y`` do not fit it or each other.
    MissingDependencyError
        Matplotlib is not installed.
    """
    classifier = Classifier(model, "decision_boundary")
    rows, axes_names = classifier.points(x)
    numbers = classifier.class_numbers(y, len(rows))
    points = Points(rows, numbers, classifier.names, axes_names)
    grid = Grid.around(rows, GRID_SIDE)
    probabilities = grid.spread(classifier.at_points(grid.points))
    if ax is not None:
        draw_boundary(ax, grid, probabilities, points)
        return ax
    figure = shown_figure(5.0, 4.2)
    ax = figure.subplots()
    filled = draw_boundary(ax, grid, probabilities, points)
    if len(points.names) == 2:
        label = f"probability of {points.names[1]}"
        figure.colorbar(filled, ax=ax, label=label, ticks=[0.0, 0.25, 0.5, 0.75, 1.0])
    return ax


def draw_boundary(
    ax: Axes, grid: Grid, probabilities: FloatArray, points: Points
) -> QuadContourSet:
    """Draw probabilities (G, G, K) of a grid, and points; return the last filled contours."""
    n_classes = len(points.names)
    probabilities = cast("FloatArray", np.clip(probabilities, 0.0, 1.0))  # 1 - p is rounded
    deepest = [tint(class_style(k)[0], STRENGTH) for k in range(n_classes)]
    if n_classes == 2:
        field = probabilities[..., 1]
        tenths = np.linspace(0.0, 1.0, 11)
        colours = colour_map(deepest[0], WHITE, deepest[1])
        filled = ax.contourf(grid.x, grid.y, field, levels=tenths, cmap=colours, vmin=0, vmax=1)
        _draw_line(ax, grid, field - 0.5)
    else:
        for k, deep in enumerate(deepest):
            lead = _lead(probabilities, k)
            fifths = np.linspace(0.0, 1.0, 6)
            colours = colour_map(tint(deep, 0.25), deep)
            filled = ax.contourf(grid.x, grid.y, lead, levels=fifths, cmap=colours, vmin=0, vmax=1)
            _draw_line(ax, grid, lead)
    for k, name in enumerate(points.names):
        colour, marker = class_style(k)
        first, second = points.rows[points.classes == k].T
        ax.scatter(
            first,
            second,
            c=colour,
            marker=marker,
            s=28,
            edgecolors=WHITE,
            linewidths=0.7,
            label=name,
        )
    ax.set_xlim(grid.x[0], grid.x[-1])
    ax.set_ylim(grid.y[0], grid.y[-1])
    ax.set_xlabel(points.axes[0])
    ax.set_ylabel(points.axes[1])
    ax.legend(loc="upper right", framealpha=0.9)
    return filled


def _lead(probabilities: FloatArray, k: int) -> FloatArray:
    """Return by how much the probability of class k is above the largest of the others: (G, G)."""
    others = np.delete(probabilities, k, axis=-1)
    return cast("FloatArray", probabilities[..., k] - others.max(axis=-1, initial=0.0))


def _draw_line(ax: Axes, grid: Grid, field: FloatArray) -> None:
    """Draw a line where a field is 0, if it is so anywhere on the grid."""
    if field.min() < 0.0 < field.max():
        ax.contour(grid.x, grid.y, field, levels=[0.0], colors="black", linewidths=1.8)
