"""What a page needs to know of a model and its data, as plain values for JSON.

Arrays are ``{"base64": …}``: little-endian float32 in C order.
"""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from fusedmlp.errors import InvalidInputError
from fusedmlp.network import RECTIFIERS, initialise
from fusedmlp.preprocessing.columns import NumberColumn

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.datasets import Dataset
    from fusedmlp.model import MLP
    from fusedmlp.network import Parameters

Json: TypeAlias = "dict[str, Json] | list[Json] | str | float | bool | None"

SMALLEST_SIDE: Final = 8
"""Side of the smallest images in pixels; fewer inputs in a square are taken for other numbers."""

MOST_POINTS: Final = 2_000
"""Points on a page; of more rows, as many are taken at equal distances."""

SIGMOID_RATE, RECTIFIER_RATE, VALUES_RATE = 0.5, 0.1, 0.01
"""Learning rates at which a page begins; the reader changes them."""


def shows_images(mlp: MLP) -> bool:
    """Whether the inputs of a model are square images of at least 8 × 8 pixels."""
    side = math.isqrt(mlp.network.n_inputs)
    is_square = side >= SMALLEST_SIDE and side * side == mlp.network.n_inputs
    return is_square and mlp.preprocessing is None


def image_payload(mlp: MLP) -> dict[str, Json]:
    """Describe a model of images, and how a drawing becomes pixels.

    Raises
    ------
    InvalidInputError
        The model predicts values.
    """
    if mlp.network.predicts_values:
        raise InvalidInputError(
            f"{mlp.network} predicts values: a page to draw on needs a model that tells classes "
            "apart, with a softmax or sigmoid output"
        )
    side = math.isqrt(mlp.network.n_inputs)
    return {**_model(mlp), "image": _image(side)}


def plane_payload(mlp: MLP, data: Dataset) -> dict[str, Json]:
    """Describe a model with two inputs, its starting weights and the training points.

    Parameters
    ----------
    data
        Inputs and targets as the network takes them: a table's are those of the model's
        preprocessing.

    Raises
    ------
    InvalidInputError
        The model has several values or labels as outputs, or the data do not fit it.
    """
    network = mlp.network
    if network.n_outputs > 1 and network.output != "softmax":
        raise InvalidInputError(
            f"{network} has {network.n_outputs} outputs that are no classes: a page of the plane "
            "shows classes, or one value"
        )
    rows = np.linspace(0, len(data.x_train) - 1, min(len(data.x_train), MOST_POINTS)).astype(int)
    x, y = data.x_train[rows], data.y_train[rows]
    if x.dtype == np.uint8:
        x = x / np.float32(255)
    targets = np.eye(network.n_outputs)[y] if network.output == "softmax" else y
    start = initialise(network, mlp.seed, mlp.dtype)
    return {
        **_model(mlp),
        "plane": {
            "x": encoded(x),
            "y": encoded(targets),
            "columns": _columns(mlp),
            "start": _parameters(start),
            "rate": _rate(mlp),
        },
    }


def encoded(array: npt.NDArray[np.generic]) -> dict[str, Json]:
    """Return an array for JSON; network.js decodes it."""
    return {"base64": base64.b64encode(array.astype("<f4").tobytes()).decode("ascii")}


def _model(mlp: MLP) -> dict[str, Json]:
    network = mlp.network
    names: list[Json] | None = None
    if not network.predicts_values:
        names = list(mlp.class_names or map(str, range(max(network.n_outputs, 2))))
    return {
        "network": {
            "sizes": list(network.sizes),
            "hidden": network.hidden,
            "output": network.output,
            **_parameters(mlp.parameters),
        },
        "classes": names,
    }


def _parameters(parameters: Parameters) -> dict[str, Json]:
    return {
        "weights": [encoded(W) for W in parameters.weights],
        "biases": [encoded(b) for b in parameters.biases],
    }


def _image(side: int) -> dict[str, Json]:
    """Return how the training images were made; see strokes.js.

    MNIST's digits fill a box of 20 × 20 of 28 × 28 pixels; a one has 3 pixels of ink in a row.
    Those of scikit-learn's ``load_digits`` fill 8 × 8 pixels in height and, on average, 6 in width.
    """
    if side == SMALLEST_SIDE:
        return {"side": side, "box": [6, 8], "pen": 1.3, "by_mass": False}
    unit = side / 28
    return {"side": side, "box": [20 * unit, 20 * unit], "pen": 2.8 * unit, "by_mass": True}


def _columns(mlp: MLP) -> list[Json]:
    """Return names of the two inputs, and how they follow from a table's columns."""
    if mlp.preprocessing is None:
        return [{"name": f"input {i}", "center": 0.0, "scale": 1.0} for i in (1, 2)]
    found: list[Json] = []
    for column in mlp.preprocessing.columns:
        if not isinstance(column, NumberColumn) or column.has_indicator:
            raise InvalidInputError(
                f"the two inputs are made of the column {column.name!r}, which is text or has "
                "missing values: a page of the plane needs two columns of numbers"
            )
        found.append({"name": column.name, "center": column.center, "scale": column.scale})
    return found


def _rate(mlp: MLP) -> float:
    """Return the learning rate at which the page begins."""
    if mlp.network.predicts_values:
        return VALUES_RATE
    return RECTIFIER_RATE if mlp.network.hidden in RECTIFIERS else SIGMOID_RATE
