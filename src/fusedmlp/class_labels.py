"""Class labels of any kind, and the class indices that engines train on.

A label is text, a whole number, a whole float or a boolean. Class indices 0 to K-1 need no labels:
they are passed on as they are. What a column of a table file means is decided in
:mod:`fusedmlp.datasets`, not here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from fusedmlp.data_frames import as_numbers, is_missing, missing
from fusedmlp.errors import InvalidInputError
from fusedmlp.interop import host_copy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from fusedmlp.interop import ForeignArray
    from fusedmlp.network import Network
    from fusedmlp.types import IntArray

Label: TypeAlias = str | int | float | bool
Labels: TypeAlias = tuple[Label, ...]
"""The label of each class, in the order of the class indices."""

_MOST_SHOWN: Final = 10
"""Labels that a message lists at most."""


def n_classes(network: Network) -> int | None:
    """Return the number of classes that a network tells apart; None for other outputs."""
    if network.output == "softmax":
        return network.n_outputs
    return 2 if (network.output, network.n_outputs) == ("sigmoid", 1) else None


def checked_labels(labels: Sequence[Label] | npt.NDArray[Any], network: Network) -> Labels:
    """Return labels as Python values, checked to be of one type, distinct, and one for each class.

    Raises
    ------
    InvalidInputError
        They are not.
    """
    if isinstance(labels, str) or not isinstance(labels, Iterable):
        raise InvalidInputError(f"labels {labels!r:.60} are not a sequence, one for each class")
    found = tuple(x.item() if isinstance(x, np.generic) else x for x in labels)
    types = {type(label) for label in found}
    if len(types) != 1 or not types <= {str, int, float, bool}:
        raise InvalidInputError(f"labels {shown(found)} are not all str, all int, float or bool")
    if types == {float} and not np.isfinite(found).all():
        raise InvalidInputError(f"labels {shown(found)} are not all finite")
    if len(set(found)) != len(found) or len(found) != n_classes(network):
        raise InvalidInputError(
            f"labels {shown(found)} are not one distinct label for each class of {network}"
        )
    return found


class Targets:
    """Targets as a caller gives them, read once.

    Parameters
    ----------
    name
        What messages call them.
    y
        Array, series or sequence, in host or device memory.
    network
        The network that they are for.

    Attributes
    ----------
    given
        The targets as an array: numbers, or labels of any kind.
    """

    def __init__(self, name: str, y: ForeignArray, network: Network) -> None:
        self._name, self._network = name, network
        self._classes = n_classes(network)
        array = host_copy(name, y)
        is_column = array.shape[1:] in ((), (1,))
        if self._classes is not None and is_column and array.dtype.kind in "OUT":
            self.given = _typed(name, array.reshape(-1))
        else:
            self.given = as_numbers(name, array)

    @property
    def is_text(self) -> bool:
        """Whether they are text."""
        return self.given.dtype == object

    def named_by(self, labels: Labels | None, class_names: tuple[str, ...] | None) -> Labels | None:
        """Return a model's labels; its class names where it has no labels and these are text."""
        if labels is None and self.is_text and class_names is not None:
            return class_names if len(set(class_names)) == self._classes else None
        return labels

    def learned(self) -> Labels | None:
        """Return the sorted labels that a first training gives a model.

        None where the targets are class indices, or no classes at all.

        Raises
        ------
        InvalidInputError
            There are more or fewer labels than classes.
        """
        n = self._classes
        if n is None or self.given.shape[1:] not in ((), (1,)) or not self.given.size:
            return None
        array = self.given.reshape(-1)
        if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.floor(array))).all():
            return None  # measurements: their message is that of the engines
        is_label = self.is_text or (array.dtype.kind == "b" and n == 2)
        if not is_label and array.min() >= 0 and array.max() < n:
            return None
        # Both booleans are known, even where only one of them occurs.
        values = (False, True) if array.dtype.kind == "b" else array.tolist()
        found = tuple(sorted(set(values)))
        if len(found) != n:
            raise InvalidInputError(
                f"{self._name} has {len(found)} distinct labels ({shown(found)}), and "
                f"{self._network} tells {n} classes apart: give it one class index from 0 to "
                f"{n - 1} for each row, or {n} distinct labels, or name all of them before, in the "
                "model's attribute labels"
            )
        return found

    def encoded(self, labels: Labels | None) -> npt.NDArray[Any]:
        """Return the targets for engines: class indices where a model has labels.

        Raises
        ------
        InvalidInputError
            A label is not one of the model's, or the model has none.
        """
        if labels is None:
            if self._classes is not None and self.is_text:
                raise InvalidInputError(
                    f"{self._name}[0] is {self.given[0]!r:.60}, and the model has no labels: give "
                    f"class indices from 0 to {self._classes - 1}, or set its attribute labels"
                )
            return self.given
        if self.given.shape[1:] not in ((), (1,)):
            return self.given  # a wrong shape: its message is that of the engines
        return class_indices(self.given.reshape(-1), labels, lambda row: f"{self._name}[{row}]")


def class_indices(
    values: npt.NDArray[Any], labels: Sequence[Label], place: Callable[[int], str]
) -> IntArray:
    """Return the position in ``labels`` of each target: (N,).

    Parameters
    ----------
    values
        (N,) targets of any dtype; 1.0 and True equal the label 1.
    place
        Takes a row; returns what messages call its target.

    Raises
    ------
    InvalidInputError
        A target is not one of the labels.
    """
    position = {label: index for index, label in enumerate(labels)}
    given = values.tolist()
    found: IntArray = np.fromiter((position.get(value, -1) for value in given), np.int64)
    if (found < 0).any():
        row = int(np.argmax(found < 0))
        raise InvalidInputError(
            f"{place(row)} is {given[row]!r:.60}, which is not one of the labels {shown(labels)}"
        )
    return found


def shown(labels: Sequence[Label]) -> str:
    """Return labels for a message, the first of many."""
    text = ", ".join(f"{label!r:.60}" for label in labels[:_MOST_SHOWN])
    return text if len(labels) <= _MOST_SHOWN else f"{text}, … {len(labels):,} in all"


def _typed(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return labels (N,) as numbers, or as an object array of text."""
    texts = values.astype(object)
    is_text = [isinstance(value, str) for value in texts]
    if not any(is_text):
        return as_numbers(name, values)
    if not all(is_text):
        row = is_text.index(False)
        if is_missing(texts[row]):
            raise missing(f"{name}[{row}]", texts[row])
        raise InvalidInputError(
            f"{name}[{row}] is {texts[row]!r:.60}, and {name}[{is_text.index(True)}] is text: give "
            "labels of one kind"
        )
    return np.array([str(value) for value in texts], dtype=object)
