"""Data sets from ``.csv`` files: numbers, one target column, a header or none.

For tables that fit in memory. Other separators, dates, categories among the inputs and missing
values are errors with a line number; preparing data is a job for other tools.
"""

from __future__ import annotations

import csv
from typing import IO, TYPE_CHECKING

import numpy as np

from fusedmlp.datasets.labels import as_dataset, require_finite
from fusedmlp.datasets.reading import reading
from fusedmlp.errors import DataUnavailableError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from fusedmlp.datasets.dataset import Dataset, Task


_MISSING = ("", "na", "n/a", "null", "none", "?")


def load_csv(path: Path, target: str | int | None = None, task: Task | None = None) -> Dataset:
    """Load a comma-separated table; every column but the target is an input.

    The first line is a header if the cells outside the target column are text, or if the second
    line has a number in the target column and the first has none.

    Parameters
    ----------
    path : Path
        UTF-8, commas, double quotes where needed.
    target : str, int or None
        The target column: its name, or its number from 0 (negative from the end); None for the
        last one.
    task : str or None
        Overrules what the targets look like: whole numbers from 0 or text are classes (text
        sorted, the names kept), a fraction anywhere means regression.

    Returns
    -------
    Dataset
        float64 inputs, no test part.

    Raises
    ------
    DataUnavailableError
        If the file cannot be read or is not text.
    InvalidInputError
        If it is empty, ragged, holds something other than numbers, or has no such target.
    """
    try:
        with reading(path), path.open(encoding="utf-8-sig", newline="") as file:
            return _load(path, file, target, task)
    except UnicodeDecodeError as error:
        raise DataUnavailableError(f"{path}: not UTF-8 text: {error.reason}") from error


def _load(path: Path, file: IO[str], target: str | int | None, task: Task | None) -> Dataset:
    head = [cells for (_, cells), _ in zip(_records(file), range(2), strict=False)]
    if not head:
        raise InvalidInputError(f"{path}: empty, expected at least one row of numbers")
    names = [cell.strip() for cell in head[0]]
    if len(names) < 2:
        raise InvalidInputError(
            f"{path}: one column, expected inputs and a target separated by commas"
        )
    column = _find_target(path, names, target)
    is_named = isinstance(target, str) and target in names
    has_header = is_named or _has_header(path, head, column)
    if has_header and len(head) < 2:
        raise InvalidInputError(f"{path}: a header and no rows, expected at least one row")
    table, tokens = _parse(path, file, column, has_header=has_header)
    x = np.ascontiguousarray(np.delete(table, column, axis=1))
    require_finite(x, f"{path}: inputs")
    values, class_names = _read_targets(path, tokens, task)
    label = repr(names[column]) if has_header else f"column {column}"
    return as_dataset(
        name=path.stem,
        x_train=x,
        y_train=values[table[:, column].astype(np.int64)],
        x_test=None,
        y_test=None,
        source=f"{path} (target {label})",
        image_shape=None,
        task="classification" if class_names else task,
        class_names=class_names,
    )


def _records(file: IO[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number, from 1, and the cells of every line that is not blank."""
    reader = csv.reader(file)
    for cells in reader:
        if cells:
            yield reader.line_num, cells


def _find_target(path: Path, names: list[str], target: str | int | None) -> int:
    if target is None:
        return len(names) - 1
    is_number = isinstance(target, int) or target.removeprefix("-").isdigit()
    if is_number and -len(names) <= int(target) < len(names):
        return int(target) % len(names)
    if not is_number and names.count(str(target)) == 1:
        return names.index(str(target))
    raise InvalidInputError(
        f"{path}: no target column {target!r}: expected a number below {len(names)} or one of "
        f"{', '.join(names[:20])}{', …' if len(names) > 20 else ''}"
    )


def _as_number(cell: str) -> float | None:
    if "_" in cell:  # Python reads 1_000 as a number, NumPy does not
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def _has_header(path: Path, head: list[list[str]], column: int) -> bool:
    inputs = [cell for i, cell in enumerate(head[0]) if i != column]
    texts = [c for c in inputs if _as_number(c) is None and c.strip().lower() not in _MISSING]
    if texts and any(_as_number(cell) is not None for cell in inputs):
        raise InvalidInputError(
            f"{path}: the first line mixes numbers and text ({texts[0]!r}): it is neither a "
            "header nor a row; expected one of the two"
        )
    if texts:
        return True
    is_text = _as_number(head[0][column]) is None
    return (
        is_text and len(head) > 1 and _as_number(head[1][min(column, len(head[1]) - 1)]) is not None
    )


def _parse(
    path: Path, file: IO[str], column: int, *, has_header: bool
) -> tuple[NDArray[np.float64], list[str]]:
    """Read all rows; the target column holds positions in the returned list of targets."""
    codes: dict[str, int] = {}  # each different target, in order of appearance

    def encode(cell: str) -> float:
        return codes.setdefault(cell.strip(), len(codes))

    file.seek(0)
    if has_header:
        next(_records(file))
    try:
        table = np.loadtxt(
            file,
            np.float64,
            comments=None,
            delimiter=",",
            quotechar='"',
            converters={column: encode},
            ndmin=2,
            encoding=None,
        )
    except ValueError as error:
        file.seek(0)
        reason = _find_fault(file, column, has_header=has_header) or str(error)
        raise InvalidInputError(f"{path}: {reason}") from error
    return table, list(codes)


def _find_fault(file: IO[str], column: int, *, has_header: bool) -> str | None:
    """Say which line loadtxt stumbled over; its own words count rows, not lines."""
    records = _records(file)
    _, first = next(records)
    if not has_header:
        file.seek(0)
        records = _records(file)
    for line, cells in records:
        if len(cells) != len(first):
            return f"line {line} has {len(cells)} cells, expected {len(first)} as in the first line"
        for i, cell in enumerate(cells):
            if i != column and _as_number(cell) is None:
                name = repr(first[i].strip()) if has_header else str(i)
                return (
                    f"line {line}, column {name}: {cell!r} is no number; expected numbers in "
                    "every input column: fill gaps and encode text before"
                )
    return None


def _read_targets(
    path: Path, tokens: list[str], task: Task | None
) -> tuple[NDArray[np.float64 | np.int64], tuple[str, ...] | None]:
    """Return the value of each different target, and the class names if targets are text."""
    numbers = [value for value in map(_as_number, tokens) if value is not None]
    if len(numbers) == len(tokens):
        return np.array(numbers), None
    texts = [token for token in tokens if _as_number(token) is None]
    if "" in texts or task in ("regression", "multilabel") or (numbers and task is None):
        shown = "" if "" in texts else texts[0]
        raise InvalidInputError(
            f"{path}: the target column holds {shown!r}"
            f"{' besides numbers' if numbers else ''}; expected a number in every row, or a "
            "class name in every row (pass task='classification' if numbers are names here)"
        )
    names = sorted(tokens)
    position = {name: i for i, name in enumerate(names)}
    return np.array([position[token] for token in tokens]), tuple(names)
