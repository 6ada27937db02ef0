"""What the targets of a user's data are: classes, labels or quantities, and their codes.

Every loader of user files decides here, so that the same rules and messages hold for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fusedmlp.class_labels import class_indices
from fusedmlp.data_frames import listed
from fusedmlp.datasets.dataset import TASKS
from fusedmlp.errors import InvalidInputError, UnknownNameError
from fusedmlp.preprocessing.table import as_texts
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from fusedmlp.class_labels import Labels
    from fusedmlp.datasets.dataset import Targets, Task
    from fusedmlp.types import IntArray

FEW_CLASSES: Final = 30
"""Different whole numbers up to which a target is always taken as classes."""

ROWS_PER_CLASS: Final = 10
"""Mean rows of a class from which more whole numbers are classes too, if they are 0 to K − 1."""

MOST_CLASSES: Final = 1_000
"""Different texts from which a target that differs in every second row identifies rows."""


@dataclass(frozen=True, eq=False, slots=True)
class RawTargets:
    """Targets as read, with their origin.

    Parameters
    ----------
    values
        (N,), (N, 1) or (N, K) numbers, or (N,) objects: text, and None where a value is missing.
    where
        Origin, for messages.
    lines
        (N,) lines of the file, from 1; None where the origin has no lines.
    """

    values: NDArray[Any]
    where: str
    lines: NDArray[np.int64] | None = None

    def take(self, rows: IntArray) -> RawTargets:
        """Return the targets of some rows."""
        lines = None if self.lines is None else self.lines[rows]
        return replace(self, values=self.values[rows], lines=lines)

    def row(self, index: int) -> str:
        """Return what messages call a row."""
        return f"row {index}" if self.lines is None else f"line {self.lines[index]}"

    def checked(self) -> RawTargets:
        """Return one column as (N,).

        Raises
        ------
        InvalidInputError
            A value is missing or infinite, or the shape or type is not that of targets.
        """
        y, where = self.values, self.where
        if y.ndim not in (1, 2) or y.size == 0:
            raise InvalidInputError(
                f"{where}: targets have shape {y.shape}, expected (N,) or (N, K) for N rows"
            )
        if y.dtype.kind not in "buifO":
            raise InvalidInputError(f"{where}: targets are {y.dtype}, expected numbers or text")
        if y.dtype.kind == "O":
            is_bad = np.array([value is None for value in y.tolist()])
        else:
            is_bad = ~np.isfinite(y)
        if is_bad.any():
            index = tuple(int(i) for i in np.argwhere(is_bad)[0])
            value = y[index]
            if value is None or np.isnan(value):
                found = "no target: fill it, or leave the row out"
            else:
                found = f"the target {value}; expected a finite number"
            raise InvalidInputError(f"{where}: {self.row(index[0])} has {found}")
        return replace(self, values=y[:, 0]) if y.shape[1:] == (1,) else self

    def check_numbers(self, task: Task) -> None:
        """Refuse text, and for several labels numbers other than 0 and 1."""
        y = self.values
        if y.dtype.kind == "O":
            raise InvalidInputError(
                f"{self.where}: target {y[0]!r} in {self.row(0)} is text; the task {task} needs "
                "numbers"
            )
        if task == "multilabel" and not np.isin(y, (0, 1)).all():
            wrong = y[~np.isin(y, (0, 1))][0]
            raise InvalidInputError(
                f"{self.where}: target {wrong:g}; the task multilabel needs 0 and 1"
            )

    def check_whole(self) -> None:
        """Refuse numbers with a fraction as classes."""
        y = self.values
        if y.dtype.kind == "f" and (has_fraction := y != np.floor(y)).any():
            row = int(np.argmax(has_fraction))
            raise InvalidInputError(
                f"{self.where}: target {y[row]:g} in {self.row(row)} has a fraction; expected "
                "classes, which are text or whole numbers (for a quantity choose the task "
                "regression)"
            )

    def check_one_hot(self) -> None:
        """Refuse columns without a single 1 in every row."""
        y = self.values
        if not (np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()):
            raise InvalidInputError(
                f"{self.where}: targets of {y.shape[1]} columns; classification needs one column "
                "of labels, or a single 1 in every row (else choose the task multilabel or "
                "regression)"
            )


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
    """

    task: Task
    n_outputs: int
    labels: Labels | None

    @classmethod
    def of(
        cls,
        parts: Sequence[RawTargets],
        task: Task | None,
        report: Callable[[str], None] = lambda _line: None,
    ) -> TargetCoding:
        """Decide by the targets of all rows.

        Parameters
        ----------
        parts
            Targets of training, and of testing where a file has them. Text is classes; numbers with
            a fraction anywhere are a quantity; whole numbers are classes if there are at most
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
        checked = [part.checked() for part in parts]
        where, y = parts[0].where, _joined([part.values for part in checked])
        decided = task or _guess(y)
        n_columns = 1 if y.ndim == 1 else int(y.shape[1])
        if decided == "classification" and n_columns == 1:
            for part in checked:
                part.check_whole()
            coding = cls._of_classes(y, where)
        else:
            for part in checked:
                part.check_one_hot() if decided == "classification" else part.check_numbers(decided)
            coding = cls(decided, n_columns, None)
        if task is None and y.dtype.kind != "O":
            coding.report(y, where, report)
        return coding

    @classmethod
    def _of_classes(cls, y: NDArray[Any], where: str) -> TargetCoding:
        found = np.unique(y)
        if y.dtype.kind != "O":
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
        labels: Labels | None = tuple(found.tolist())
        if labels == tuple(range(len(found))):
            labels = None
        return cls("classification", len(found), labels)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The labels as text; None where they are 0 to K − 1 or there are none."""
        return None if self.labels is None else tuple(map(str, self.labels))

    def encode(self, targets: RawTargets, dtype: np.dtype[Any] | type) -> NDArray[Targets]:
        """Return class indices (N,) int64, or values (N, K) of a float dtype.

        Raises
        ------
        InvalidInputError
            A label is unknown, a value is missing, or columns are missing.
        """
        checked = targets.checked()
        y, where = checked.values, checked.where
        if self.task != "classification":
            checked.check_numbers(self.task)
            columns = y.reshape(len(y), -1)
            if columns.shape[1] != self.n_outputs:
                raise InvalidInputError(
                    f"{where}: the targets have {counted(columns.shape[1], 'column')}, expected "
                    f"{self.n_outputs}"
                )
            values: NDArray[Targets] = columns.astype(dtype)
            return values
        if y.ndim == 2:
            checked.check_one_hot()
            indices: NDArray[np.int64] = y.argmax(axis=1)
            return indices
        labels = tuple(range(self.n_outputs)) if self.labels is None else self.labels
        if isinstance(labels[0], str):
            y = as_texts(y)
        return class_indices(y, labels, lambda row: f"{where}: the target in {checked.row(row)}")

    def report(self, y: NDArray[Any], where: str, report: Callable[[str], None]) -> None:
        """Report a decision that numbers alone do not determine, with the way to change it."""
        if self.task == "classification":
            names = listed(self.class_names or map(str, range(self.n_outputs)))
            report(f"{where}: {self.n_outputs} classes, {names} (if not, --task regression)")
        elif self.task == "multilabel":
            is_one_hot = bool((y.sum(axis=1) == 1).all())
            alternative = "classification" if is_one_hot else "regression"
            each = ", one in each row" if is_one_hot else ""
            columns = counted(self.n_outputs, "column")
            report(
                f"{where}: {columns} of zeros and ones{each}: labels that may occur together "
                f"(if not, --task {alternative})"
            )
        elif y.ndim == 1 and (y == np.floor(y)).all():
            report(
                f"{where}: {len(np.unique(y)):,} different whole numbers, so the task is "
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


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return all targets; as text where some of them are."""
    if any(y.dtype.kind == "O" for y in parts):
        parts = [as_texts(y) for y in parts]
    return np.concatenate(parts)
