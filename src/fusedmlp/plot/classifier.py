"""A trained model of classes as pictures need it, whether it is an MLP or an estimator.

Nothing is drawn here. An MLP reads ``uint8`` inputs as pixels and an estimator as numbers, so that
probabilities of a user's rows come from the object that the user passed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import numpy as np

from fusedmlp.class_labels import Targets, n_classes
from fusedmlp.data_frames import columns_of
from fusedmlp.errors import InvalidInputError
from fusedmlp.interop import host_array, host_copy
from fusedmlp.io.onnx import Estimator
from fusedmlp.model import MLP
from fusedmlp.validation import as_inputs, is_sparse, validate_targets

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.class_labels import Labels
    from fusedmlp.types import Float64Array, FloatArray, InputsLike, IntArray

PIXEL_MOST: Final = 255.0
"""Value of a ``uint8`` pixel that an MLP reads as 1."""


class _Classifier(Protocol):
    """The attributes of a fitted ``fusedmlp.sklearn.MLPClassifier`` that are used here."""

    classes_: npt.NDArray[Any]

    def predict_proba(self, X: object) -> FloatArray:
        """Return probabilities (N, K)."""


def as_mlp(model: MLP | Estimator) -> MLP:
    """Return the network of a model.

    Raises
    ------
    InvalidInputError
        It is neither an MLP nor an estimator of :mod:`fusedmlp.sklearn`.
    """
    if isinstance(model, MLP):
        return model
    if isinstance(model, Estimator):
        return model.to_mlp()
    raise InvalidInputError(
        f"model is a {type(model).__qualname__}: give a fusedmlp.MLP or a fitted estimator of "
        "fusedmlp.sklearn"
    )


class Classifier:
    """A model that tells classes apart.

    Parameters
    ----------
    model
        The model that a user passed.
    picture
        Name of the picture, for messages.

    Attributes
    ----------
    mlp
        Its network.
    names
        Names of the K classes, in the order of the probabilities.

    Raises
    ------
    InvalidInputError
        The model predicts values, or several labels for each row.
    """

    def __init__(self, model: MLP | Estimator, picture: str) -> None:
        self._model, self._picture = model, picture
        self.mlp = as_mlp(model)
        network = self.mlp.network
        found = n_classes(network)
        if found is None:
            raise InvalidInputError(
                f"{picture} needs a model of classes, and {network} predicts "
                f"{'values' if network.predicts_values else 'several labels for each row'}: "
                "give a classifier with a softmax output, or with one sigmoid output"
            )
        self._labels: Labels | None = None
        if not isinstance(model, MLP):
            self._labels = tuple(cast("_Classifier", model).classes_.tolist())
        names = self._labels or self.mlp.class_names or ()
        # A network of one sigmoid output may have a name for that output alone.
        is_complete = self._labels is not None or len(names) == found
        self.names = tuple(map(str, names if is_complete else range(found)))

    def probabilities(self, x: InputsLike) -> FloatArray:
        """Return the probability of each class for rows as the model takes them: (N, K)."""
        if isinstance(self._model, MLP):
            return self._of_classes(self._model.forward(x))
        return self._of_classes(cast("_Classifier", self._model).predict_proba(x))

    def at_points(self, points: Float64Array) -> FloatArray:
        """Return the probability of each class for points (M, 2) of :meth:`points`: (M, K)."""
        return self._of_classes(self.mlp.forward(points))

    def class_numbers(self, y: npt.ArrayLike, n_rows: int) -> IntArray:
        """Return the class of each row, as the index of its name: (N,).

        Raises
        ------
        InvalidInputError
            A label is unknown to the model, or there are not ``n_rows`` labels.
        """
        network = self.mlp.network
        targets = Targets("y", y, network)
        labels = self._labels or targets.named_by(self.mlp.labels, self.mlp.class_names)
        checked = validate_targets(targets.encoded(labels), n_rows, network, "float64")
        return checked.reshape(-1).astype(np.int64)

    def rows(self, x: InputsLike, chosen: IntArray) -> npt.NDArray[Any]:
        """Return the network's inputs of the chosen rows: (n, D), dense and on the host."""
        inputs = self.mlp.network_inputs(x) if isinstance(self._model, MLP) else as_inputs(x)
        some = inputs[chosen]
        return host_copy("x", some.toarray() if is_sparse(some) else some)

    def points(self, x: InputsLike) -> tuple[Float64Array, tuple[str, str]]:
        """Return rows (N, 2) of a model with two inputs, and the names of both.

        Raises
        ------
        InvalidInputError
            The model or the rows have another number of inputs.
        """
        preprocessing = self.mlp.preprocessing
        expected: tuple[str, ...] = tuple(getattr(self._model, "feature_names_in_", ()))
        n_expected = self.mlp.network.n_inputs
        if preprocessing is not None:
            expected, n_expected = preprocessing.expected_names, len(preprocessing.columns)
        if n_expected != 2:
            raise InvalidInputError(
                f"{self._picture} needs a model of two inputs, and this one has {n_expected}: "
                "train a model on two of the columns"
            )
        found = tuple(column.name for column in columns_of(x) or ())
        rows = host_array("x", as_inputs(x))
        if found and expected and set(expected) <= set(found):
            # The model finds these columns by name, in any order.
            rows, found = rows[:, [found.index(name) for name in expected]], expected
        if rows.ndim != 2 or rows.shape[1] != 2:
            raise InvalidInputError(f"x has shape {rows.shape}: {self._picture} needs (N, 2)")
        is_pixels = rows.dtype == np.uint8 and isinstance(self._model, MLP)
        scale = PIXEL_MOST if is_pixels and preprocessing is None else 1.0
        return rows.astype(np.float64) / scale, axes_names(found or expected)

    def _of_classes(self, outputs: FloatArray) -> FloatArray:
        found = of_classes(host_copy("probabilities", outputs))
        return found[:, : len(self.names)]  # an estimator may know a single class


def axes_names(columns: tuple[str, ...]) -> tuple[str, str]:
    """Return what to call both inputs, given the names of their columns, if there are any."""
    first, second = columns or ("first input", "second input")
    return first, second


def of_classes(outputs: FloatArray) -> FloatArray:
    """Return the probability of each class, given a network's outputs (N, K) or (N, 1)."""
    if outputs.shape[1] > 1:
        return outputs
    return np.concatenate([1 - outputs, outputs], axis=1)
