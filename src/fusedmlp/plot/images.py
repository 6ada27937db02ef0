"""Rows and weights as images: what a model gets wrong, and what its first layer looks at."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fusedmlp.errors import InvalidInputError
from fusedmlp.plot.classifier import Classifier, as_mlp
from fusedmlp.plot.style import COLOURS, WHITE, colour_map, shown_figure
from fusedmlp.scalars import whole

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from fusedmlp.io.onnx import Estimator
    from fusedmlp.model import MLP
    from fusedmlp.types import InputsLike

MOST_COLUMNS: Final = 5
"""Images beside each other; their titles stay readable in a picture of 400 pixels."""

LONGEST_LINE: Final = 10
"""Letters of a title's line over an image."""


def misclassified(
    model: MLP | Estimator,
    x: InputsLike,
    y: npt.ArrayLike,
    *,
    shape: tuple[int, int] | None = None,
    count: int = 25,
    figure: Figure | None = None,
) -> Figure:
    """Draw the wrong rows of which the model is most sure, as images.

    Parameters
    ----------
    model
        An MLP with a softmax output or one sigmoid output, or a fitted
        :class:`fusedmlp.sklearn.MLPClassifier`.
    x, y
        Rows (N, D) as the model takes them, and their classes (N,).
    shape
        Rows and columns of an image, with the product D; None for square images.
    count
        Images at most.
    figure
        Where to draw; None for a new figure of ``pyplot``.

    Returns
    -------
    The figure. Each title has the true class, the predicted class and its probability. Small
    values are light, large ones dark. Where no row is wrong, the picture says so.

    Raises
    ------
    InvalidInputError
        The model has no classes, ``x`` and ``y`` do not fit it or each other, or ``shape`` does
        not fit D.
    MissingDependencyError
        Matplotlib is not installed.
    """
    most = whole("count", count)
    classifier = Classifier(model, "misclassified")
    image = image_shape(shape, classifier.mlp.network.n_inputs)
    probabilities = classifier.probabilities(x)
    predicted = probabilities.argmax(axis=1)
    true = classifier.class_numbers(y, len(predicted))
    wrong = np.flatnonzero(predicted != true)
    if not wrong.size:
        return _empty(figure, f"none of the {len(true):,} rows is wrong")
    sure = probabilities[wrong, predicted[wrong]]
    chosen = wrong[np.argsort(-sure, kind="stable")[:most]]
    values = classifier.rows(x, chosen).reshape(-1, *image)
    figure, panels = _grid(figure, len(chosen), image, title_lines=3)
    least, largest = float(values.min()), float(values.max())
    for axes, row, pixels in zip(panels, chosen, values, strict=True):
        axes.imshow(pixels, cmap="gray_r", vmin=least, vmax=largest)
        names = classifier.names[true[row]], classifier.names[predicted[row]]
        axes.set_title(_title(*names, float(probabilities[row, predicted[row]])), fontsize=10)
    shown = "" if len(chosen) == wrong.size else f", the {len(chosen)} surest"
    figure.suptitle(f"{wrong.size:,} of {len(true):,} rows wrong{shown}")
    return figure


def first_layer_weights(
    model: MLP | Estimator,
    *,
    shape: tuple[int, int] | None = None,
    count: int = 25,
    figure: Figure | None = None,
) -> Figure:
    """Draw the weights (D,) from all inputs to each unit of the first layer, as images.

    The units with the largest weights, by Euclidean norm, are drawn, in their order in the layer.

    Parameters
    ----------
    model
        An MLP or a fitted estimator of :mod:`fusedmlp.sklearn`.
    shape
        Rows and columns of an image, with the product D; None for square images.
    count
        Units at most.
    figure
        Where to draw; None for a new figure of ``pyplot``.

    Returns
    -------
    The figure. Positive weights are vermilion, negative ones blue, zero is white; the scale is the
    same for all units and symmetric about 0.

    Raises
    ------
    InvalidInputError
        ``model`` is none, or ``shape`` does not fit D.
    MissingDependencyError
        Matplotlib is not installed.
    """
    most = whole("count", count)
    mlp = as_mlp(model)
    image = image_shape(shape, mlp.network.n_inputs)
    W = mlp.parameters.weights[0]
    n_units = W.shape[1]
    chosen = np.sort(np.argsort(-np.linalg.norm(W, axis=0), kind="stable")[:most])
    figure, panels = _grid(figure, len(chosen), image, title_lines=1)
    limit = float(np.abs(W[:, chosen]).max()) or 1.0
    colours = colour_map(COLOURS[0], WHITE, COLOURS[1])
    for axes, unit in zip(panels, chosen, strict=True):
        drawn = axes.imshow(W[:, unit].reshape(image), cmap=colours, vmin=-limit, vmax=limit)
        axes.set_title(f"unit {unit}", fontsize=10)
    figure.colorbar(drawn, ax=panels, orientation="horizontal", label="weight", aspect=40)
    shown = f"all {n_units}" if len(chosen) == n_units else f"{len(chosen)} of {n_units:,}"
    figure.suptitle(f"first layer, {shown} units")
    return figure


def image_shape(shape: tuple[int, int] | None, n_inputs: int) -> tuple[int, int]:
    """Return rows and columns of an image of ``n_inputs`` values.

    Raises
    ------
    InvalidInputError
        They do not fit, or no shape is given and no square does.
    """
    if shape is None:
        side = math.isqrt(n_inputs)
        if side * side != n_inputs:
            raise InvalidInputError(
                f"{n_inputs} inputs are no square image: give shape=(rows, columns)"
            )
        return side, side
    if len(shape) != 2 or math.prod(shape) != n_inputs or min(shape) < 1:
        raise InvalidInputError(
            f"shape {shape} does not fit {n_inputs} inputs: give (rows, columns) with that product"
        )
    return shape


def _grid(
    figure: Figure | None, n_images: int, image: tuple[int, int], *, title_lines: int
) -> tuple[Figure, Any]:
    """Return a figure and the axes of its images, a list."""
    columns = min(MOST_COLUMNS, n_images)
    rows = -(-n_images // columns)
    if figure is None:
        height = min(2.0, max(0.5, image[0] / image[1])) + 0.17 * title_lines
        figure = shown_figure(max(3.0, 1.0 * columns), 0.7 + height * rows)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in panels:
        axes.set_axis_off()
    return figure, list(panels[:n_images])


def _empty(figure: Figure | None, text: str) -> Figure:
    """Return a picture that holds a line of text alone."""
    if figure is None:
        figure = shown_figure(5.0, 1.2)
    figure.suptitle(text, y=0.5, va="center")
    return figure


def _title(true: str, predicted: str, probability: float) -> str:
    """Return the title over an image, its lines short enough for their column."""
    one_line = f"{true} → {predicted}"
    if len(one_line) > LONGEST_LINE:
        one_line = f"{_cut(true)} →\n{_cut(predicted)}"
    return f"{one_line}\n{probability:.1%}"


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_LINE else f"{name[: LONGEST_LINE - 1]}…"
