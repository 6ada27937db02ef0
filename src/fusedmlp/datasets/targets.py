"""What the targets of a user's data are: classes, labels or quantities, and their codes.

Every loader of user files decides here, so that the same rules and messages hold for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fusedmlp.datasets.dataset import TASKS
from fusedmlp.errors import InvalidInputError, UnknownNameError
from fusedmlp.preprocessing.table import listed
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from fusedmlp.class_labels import Label
    from fusedmlp.datasets.dataset import Targets, Task

FEW_CLASSES: Final = 30
"""Different whole numbers up to which a target is always taken as classes."""

ROWS_PER_CLASS: Final = 10
"""Mean rows of a class from which more whole numbers are classes too, if they are 0 to K − 1."""

MOST_CLASSES: Final = 1_000
"""Different texts from which a target that differs in every second row identifies rows."""


@dataclass(frozen=True, slots=True)
class TargetCoding:
    """How a target becomes numbers for a network.

    Parameters
    ----------
    task
        Kind of the target.
    n_outputs
        K: classes for classification, else target columns.
    labels
        Classification: the K labels in order, ``int`` or ``str``; None where they are 0 to K − 1.
    where
        Origin, for messages.
    """

    task: Task
    n_outputs: int
    labels: tuple[Label, ...] | None
    where: str

    @classmethod
    def of(
        cls,
        y: NDArray[Any],
        task: Task | None,
        where: str,
        report: Callable[[str], None] = lambda _line: None,
    ) -> TargetCoding:
        """Decide by the targets of all rows.

        Parameters
        ----------
        y
            (N,), (N, 1) or (N, K) numbers, or (N,) text. Text is classes; numbers with a fraction
            anywhere are a quantity; whole numbers are classes if there are at most
            :data:`FEW_CLASSES`, or if they are 0 to K − 1 with :data:`ROWS_PER_CLASS` rows each on
            average. Several columns of zeros and ones are labels (multilabel), others quantities.
        task
            Overrules this.
        report
            Receives a line of text where the numbers alone do not determine the task.

        Raises
        ------
        InvalidInputError
            The targets do not fit the task: a value is missing or not finite, there is one class.
        UnknownNameError
            The task is unknown.
        """
        if task is not None and task not in TASKS:
            raise UnknownNameError.of("task", str(task), TASKS)
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        _check_values(y, where)
        decided = task or _guess(y)
        n_columns = 1 if y.ndim == 1 else int(y.shape[1])
        if decided != "classification":
            _check_numbers(y, decided, where)
            coding = cls(decided, n_columns, None, where)
        elif n_columns > 1:
            _check_one_hot(y, where)
            coding = cls(decided, n_columns, None, where)
        else:
            coding = cls._of_classes(y, where)
        if task is None and y.dtype.kind != "O":
            coding.report(y, report)
        return coding

    @classmethod
    def _of_classes(cls, y: NDArray[Any], where: str) -> TargetCoding:
        found = np.unique(y)
        if y.dtype.kind != "O":
            wrong = found[found != np.floor(found)]
            if wrong.size:
                row = int(np.argmax(y == wrong[0]))
                raise InvalidInputError(
                    f"{where}: target {wrong[0]:g} in row {row} has a fraction; expected classes, "
                    "which are text or whole numbers (for a quantity choose the task regression)"
                )
            found = np.array([int(value) for value in found.tolist()], dtype=object)
        if len(found) < 2:
            raise InvalidInputError(
                f"{where}: every row has the target {found.tolist()[0]!r}; expected at least two "
                "classes"
            )
        if len(found) > max(MOST_CLASSES, len(y) // 2):
            raise InvalidInputError(
                f"{where}: the target has {len(found):,} different values in {len(y):,} rows, "
                "which identify rows and are no classes: choose another target"
            )
        labels: tuple[Label, ...] | None = tuple(found.tolist())
        if labels == tuple(range(len(found))):
            labels = None
        return cls("classification", len(found), labels, where)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The labels as text; None where they are 0 to K − 1 or there are none."""
        return None if self.labels is None else tuple(map(str, self.labels))

    def encode(self, y: NDArray[Any], dtype: np.dtype[Any] | type) -> NDArray[Targets]:
        """Return class indices (N,) int64, or values (N, K) of a float dtype.

        Raises
        ------
        InvalidInputError
            A label is unknown, a value is missing, or columns are missing.
        """
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        _check_values(y, self.where)
        if self.task != "classification":
            _check_numbers(y, self.task, self.where)
            columns = y.reshape(len(y), -1)
            if columns.shape[1] != self.n_outputs:
                raise InvalidInputError(
                    f"{self.where}: the targets have {counted(columns.shape[1], 'column')}, "
                    f"expected {self.n_outputs}"
                )
            values: NDArray[Targets] = columns.astype(dtype)
            return values
        if y.ndim == 2:
            _check_one_hot(y, self.where)
            indices: NDArray[np.int64] = y.argmax(axis=1)
            return indices
        return self._class_indices(y)

    def _class_indices(self, y: NDArray[Any]) -> NDArray[np.int64]:
        labels = range(self.n_outputs) if self.labels is None else self.labels
        position: dict[Label | float, int] = {label: i for i, label in enumerate(labels)}
        is_text = any(isinstance(label, str) for label in position)
        found, inverse = np.unique(y, return_inverse=True)
        given = [_label_of(value, is_text=is_text) for value in found.tolist()]
        unknown = [label for label in given if label not in position]
        if unknown:
            raise InvalidInputError(
                f"{self.where}: unknown labels {listed(map(repr, unknown))}; the classes are "
                f"{listed(map(repr, position))}"
            )
        indices = np.array([position[label] for label in given], dtype=np.int64)
        return indices[inverse.reshape(-1)]

    def report(self, y: NDArray[Any], report: Callable[[str], None]) -> None:
        """Report a decision that numbers alone do not determine, with the way to change it."""
        if self.task == "classification":
            names = listed(self.class_names or map(str, range(self.n_outputs)))
            report(f"{self.where}: {self.n_outputs} classes, {names} (if not, --task regression)")
        elif self.task == "multilabel":
            is_one_hot = bool((y.sum(axis=1) == 1).all())
            alternative = "classification" if is_one_hot else "regression"
            each = ", one in each row" if is_one_hot else ""
            columns = counted(self.n_outputs, "column")
            report(
                f"{self.where}: {columns} of zeros and ones{each}: labels that may occur together "
                f"(if not, --task {alternative})"
            )
        elif y.ndim == 1 and (y == np.floor(y)).all():
            report(
                f"{self.where}: {len(np.unique(y)):,} different whole numbers, so the task is "
                "regression (if not, --task classification)"
            )


def _guess(y: NDArray[Any]) -> Task:
    if y.ndim == 2:
        return "multilabel" if np.isin(y, (0, 1)).all() else "regression"
    if y.dtype.kind == "O":
        return "classification"
    if y.dtype.kind == "f" and (y != np.floor(y)).any():
        return "regression"
    found = np.unique(y)
    if len(found) <= FEW_CLASSES:
        return "classification"
    has_no_gap = found[0] == 0 and found[-1] == len(found) - 1
    is_class = has_no_gap and len(y) >= ROWS_PER_CLASS * len(found)
    return "classification" if is_class else "regression"


def _check_values(y: NDArray[Any], where: str) -> None:
    """Refuse missing and infinite values, and shapes and types that are no targets."""
    if y.ndim not in (1, 2) or y.size == 0:
        raise InvalidInputError(
            f"{where}: targets have shape {y.shape}, expected (N,) or (N, K) for N rows"
        )
    if y.dtype.kind == "O":
        missing = np.array([value is None for value in y.tolist()])
        if missing.any():
            raise InvalidInputError(
                f"{where}: row {int(np.argmax(missing))} has no target: fill it, or leave the row "
                "out"
            )
    elif y.dtype.kind not in "buif":
        raise InvalidInputError(f"{where}: targets are {y.dtype}, expected numbers or text")
    elif y.dtype.kind == "f" and not np.isfinite(y).all():
        row = [int(i) for i in np.argwhere(~np.isfinite(y))[0]]
        value = y[tuple(row)]
        found = "no target" if np.isnan(value) else f"the target {value}"
        raise InvalidInputError(
            f"{where}: row {row[0]} has {found}; expected a finite number in every row"
        )


def _check_numbers(y: NDArray[Any], task: Task, where: str) -> None:
    if y.dtype.kind == "O":
        raise InvalidInputError(
            f"{where}: target {y[0]!r} in row 0 is text; the task {task} needs numbers"
        )
    if task == "multilabel" and not np.isin(y, (0, 1)).all():
        wrong = y[~np.isin(y, (0, 1))][0]
        raise InvalidInputError(f"{where}: target {wrong:g}; the task multilabel needs 0 and 1")


def _check_one_hot(y: NDArray[Any], where: str) -> None:
    if not (np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()):
        raise InvalidInputError(
            f"{where}: targets of {counted(y.shape[1], 'column')}; classification needs one column "
            "of labels, or a single 1 in every row (else choose the task multilabel or regression)"
        )


def _label_of(value: float | str, *, is_text: bool) -> Label | float:
    """Return a target as a label: 1.0 is 1, and "1" where labels are text."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not value.is_integer():
        return value
    number = int(value)
    return str(number) if is_text else number
