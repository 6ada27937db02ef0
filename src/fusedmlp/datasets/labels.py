"""Raw arrays of a user's file to a checked :class:`Dataset`: rows, targets, task.

Every loader of user files ends here, so that the same rules and messages hold for all of them.
What the values do not determine is an error with the remedy, never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.datasets.dataset import Dataset, Inputs, Targets, Task
from fusedmlp.errors import InvalidInputError
from fusedmlp.validation import check_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray

# More classes than rows and more than this: identifiers or measurements, not classes.
_MANY_CLASSES = 1_000


@dataclass
class RawData:
    """The arrays of a file before the targets are interpreted.

    Parameters
    ----------
    name, source
        See :class:`~fusedmlp.datasets.dataset.Dataset`.
    x_train, x_test
        Rows (N, D) of :func:`as_rows`.
    y_train, y_test
        Targets (N,), (N, 1) or (N, K). One column of whole numbers from 0: classes. One column with
        fractions: regression. Several columns of only zeros and ones: multilabel. Several others:
        regression.
    image_shape, class_names
        See :class:`~fusedmlp.datasets.dataset.Dataset`.
    """

    name: str
    source: str
    x_train: NDArray[Inputs]
    y_train: NDArray[np.generic]
    x_test: NDArray[Inputs] | None = None
    y_test: NDArray[np.generic] | None = None
    image_shape: tuple[int, int] | None = None
    class_names: tuple[str, ...] | None = None


def as_rows(x: NDArray[np.generic], where: str) -> tuple[NDArray[Inputs], tuple[int, int] | None]:
    """Bring inputs into shape (N, D) and one of the three input types.

    Parameters
    ----------
    x : ndarray, shape (N,), (N, D) or (N, rows, columns, …)
        uint8 stays (pixels), float32 and float64 stay, other numbers become float64, or float32
        where that holds them exactly. A memory map that needs no conversion stays one.
    where : str
        For messages.

    Returns
    -------
    rows : ndarray, shape (N, D)
    image_shape : (int, int) or None
        Set when ``x`` had exactly three dimensions.

    Raises
    ------
    InvalidInputError
        If ``x`` is empty, not numeric, or not finite (memory maps are not scanned here).
    """
    if x.ndim == 0 or x.size == 0:
        raise InvalidInputError(f"{where}: inputs have shape {x.shape}, expected at least one row")
    if x.dtype.kind not in "buif":
        raise InvalidInputError(f"{where}: inputs are {x.dtype}, expected numbers")
    image_shape = (int(x.shape[1]), int(x.shape[2])) if x.ndim == 3 else None
    rows = x.reshape(len(x), -1)
    if rows.dtype.isnative and rows.dtype.type in (np.uint8, np.float32, np.float64):
        typed: NDArray[Inputs] = rows.view(rows.dtype.type)
    elif np.can_cast(rows.dtype, np.float32):
        typed = rows.astype(np.float32)
    else:
        typed = rows.astype(np.float64)
    # A memory map may be larger than memory: it is scanned once, when an engine receives it.
    if not isinstance(typed, np.memmap):
        check_finite(f"{where}: inputs", typed)
    return typed, image_shape


def class_labels(y: NDArray[np.generic], where: str) -> NDArray[np.int64]:
    """Return labels (N,) as int64 after checking that they are whole and not negative.

    Raises
    ------
    InvalidInputError
        Otherwise; it names the first offending value and its row.
    """
    if y.dtype.kind not in "buif":
        raise InvalidInputError(f"{where}: labels are {y.dtype}, expected whole numbers from 0")
    values = y if y.dtype.kind != "f" else y.astype(np.float64)
    bad = np.less(values, 0)
    if y.dtype.kind == "f":
        bad |= (
            ~np.isfinite(values) | (values != np.floor(values)) | np.greater_equal(values, 2.0**63)
        )
    if bad.any():
        row = int(np.argmax(bad))
        raise InvalidInputError(
            f"{where}: label {values[row]:g} in row {row}; expected whole numbers from 0 to K-1 "
            "(renumber the classes, or pass task='regression')"
        )
    return y.astype(np.int64)


def as_dataset(raw: RawData, task: Task | None) -> Dataset:
    """Work out the task and K from raw targets, check them, and build the data set.

    Parameters
    ----------
    raw : RawData
        Inputs and targets.
    task : str or None
        Overrules the task that the targets suggest.

    Raises
    ------
    InvalidInputError
        If the targets do not fit the inputs or the task.
    """
    parts = {"train": (raw.x_train, raw.y_train)}
    if raw.x_test is not None and raw.y_test is not None:
        parts["test"] = (raw.x_test, raw.y_test)
    for part, (x, y) in parts.items():
        if y.ndim not in (1, 2) or len(y) != len(x) or y.size == 0:
            raise InvalidInputError(
                f"{raw.name}: {part} has {len(x)} rows of inputs and targets of shape {y.shape}; "
                "expected as many targets as rows"
            )
    columns = {part: y.reshape(len(y), -1) for part, (_, y) in parts.items()}
    task = task or _guess_task(list(columns.values()))
    if task == "classification":
        targets, n_outputs = _class_targets(raw, columns)
    else:
        targets, n_outputs = _column_targets(raw, columns, task)
    return Dataset(
        name=raw.name,
        x_train=raw.x_train,
        y_train=targets["train"],
        x_test=raw.x_test,
        y_test=targets.get("test"),
        n_outputs=n_outputs,
        task=task,
        class_names=raw.class_names,
        source=raw.source,
        image_shape=raw.image_shape,
    )


def _guess_task(columns: list[NDArray[np.generic]]) -> Task:
    if columns[0].shape[1] > 1:
        is_binary = all(np.isin(y, (0, 1)).all() for y in columns)
        return "multilabel" if is_binary else "regression"
    # Whole numbers stored as floats are classes too; a fraction anywhere makes it regression.
    is_float = all(y.dtype.kind == "f" for y in columns)
    if is_float and any(bool((np.isfinite(y) & (y != np.floor(y))).any()) for y in columns):
        return "regression"
    return "classification"


def _class_targets(
    raw: RawData, columns: dict[str, NDArray[np.generic]]
) -> tuple[dict[str, NDArray[Targets]], int]:
    """Return the labels (N,) of each part, and K."""
    name = raw.name
    if columns["train"].shape[1] != 1:
        raise InvalidInputError(
            f"{name}: targets have {columns['train'].shape[1]} columns, expected one column of "
            "labels for classification (or task='multilabel')"
        )
    targets: dict[str, NDArray[Targets]] = {}
    for part, y in columns.items():
        targets[part] = class_labels(y[:, 0], f"{name}: {part}")
    n_classes = 1 + max(int(y.max()) for y in targets.values())
    if raw.class_names is not None:
        n_classes = len(raw.class_names)
    n_rows = len(raw.x_train)
    if n_classes > max(_MANY_CLASSES, n_rows):
        raise InvalidInputError(
            f"{name}: label {n_classes - 1} would mean {n_classes:,} classes for {n_rows:,} rows; "
            "expected labels 0..K-1 (for a measured quantity pass task='regression')"
        )
    if len(np.unique(targets["train"])) < 2:
        raise InvalidInputError(
            f"{name}: every training row has label {targets['train'][0]}; "
            "expected at least two classes"
        )
    return targets, n_classes


def _column_targets(
    raw: RawData, columns: dict[str, NDArray[np.generic]], task: Task
) -> tuple[dict[str, NDArray[Targets]], int]:
    """Return the targets (N, K) of each part, in the inputs' floating type, and K."""
    name = raw.name
    floats = np.float64 if raw.x_train.dtype == np.float64 else np.float32
    n_outputs = columns["train"].shape[1]
    targets: dict[str, NDArray[Targets]] = {}
    for part, y in columns.items():
        if y.dtype.kind not in "buif" or y.shape[1] != n_outputs:
            raise InvalidInputError(
                f"{name}: {part} targets are {y.dtype} with {y.shape[1]} columns, "
                f"expected numbers in {n_outputs}"
            )
        if task == "multilabel" and not np.isin(y, (0, 1)).all():
            raise InvalidInputError(f"{name}: {part} targets of a multilabel set must be 0 or 1")
        targets[part] = y.astype(floats)
        check_finite(f"{name}: {part} targets", targets[part])
    return targets, n_outputs
