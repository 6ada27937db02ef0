"""Data sets from ``.csv`` files: numbers, one target column, a header or none.

For tables that fit in memory. Other separators, dates, categories among the inputs and missing
values are errors with a line number; preparing data is a job for other tools.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from itertools import islice
from typing import IO, TYPE_CHECKING

import numpy as np

from fusedmlp.datasets.file_errors import convert_read_errors
from fusedmlp.datasets.labels import RawData, as_dataset
from fusedmlp.errors import DataUnavailableError, InvalidInputError
from fusedmlp.validation import check_finite

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from fusedmlp.datasets.dataset import Dataset, Task

    Row = tuple[int, list[str]]  # line number from 1, cells without surrounding blanks

_MISSING = ("", "na", "n/a", "null", "none", "?")


@dataclass(frozen=True)
class _Header:
    """The first line of ``path``, the number of the target column, whether it holds names."""

    path: Path
    cells: list[str]
    column: int
    is_present: bool

    def label(self, column: int) -> str:
        return repr(self.cells[column]) if self.is_present else str(column)


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
        Overrules the task that the targets suggest: whole numbers from 0 or text are classes (text
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
        with convert_read_errors(path), path.open(encoding="utf-8-sig", newline="") as file:
            header = _read_header(path, list(islice(_rows(file), 2)), target)
            x, positions, tokens = _parse(header, file)
    except UnicodeDecodeError as error:
        raise DataUnavailableError(f"{path}: not UTF-8 text: {error.reason}") from error
    check_finite(f"{path}: inputs", x)
    values, class_names = _read_targets(path, tokens, task)
    label = header.label(header.column)
    source = f"{path} (target {label if header.is_present else f'column {label}'})"
    raw = RawData(path.stem, source, x, values[positions], class_names=class_names)
    return as_dataset(raw, "classification" if class_names else task)


def _rows(file: Iterable[str]) -> Iterator[Row]:
    """Yield every line that is not blank."""
    reader = csv.reader(file)
    for cells in reader:
        if cells:
            yield reader.line_num, [cell.strip() for cell in cells]


def _read_header(path: Path, head: list[Row], target: str | int | None) -> _Header:
    """Interpret the first two rows, as far as present."""
    if not head:
        raise InvalidInputError(f"{path}: empty, expected at least one row of numbers")
    names = head[0][1]
    if len(names) < 2:
        raise InvalidInputError(
            f"{path}: one column, expected inputs and a target separated by commas"
        )
    column = _find_target(path, names, target)
    has_header = (isinstance(target, str) and target in names) or _has_header(path, head, column)
    if has_header and len(head) < 2:
        raise InvalidInputError(f"{path}: a header and no rows, expected at least one row")
    return _Header(path, names, column, has_header)


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
    # Python also reads 1_000 and the digits of other scripts as numbers; other tools do not.
    if "_" in cell or not cell.isascii():
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def _has_header(path: Path, head: list[Row], column: int) -> bool:
    first = head[0][1]
    inputs = [cell for i, cell in enumerate(first) if i != column]
    texts = [c for c in inputs if _as_number(c) is None and c.lower() not in _MISSING]
    if texts and any(_as_number(cell) is not None for cell in inputs):
        raise InvalidInputError(
            f"{path}: the first line mixes numbers and text ({texts[0]!r}): it is neither a "
            "header nor a row; expected one of the two"
        )
    if texts or len(head) < 2:
        return bool(texts)
    second = head[1][1]
    return (
        _as_number(first[column]) is None
        and _as_number(second[min(column, len(second) - 1)]) is not None
    )


def _parse(
    header: _Header, file: IO[str]
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
    """Return inputs (N, D), the position of each target (N,) in a list, and the list."""
    positions: dict[str, int] = {}  # of the different targets, in order of appearance

    def encode(cell: str) -> float:
        return positions.setdefault(cell.strip(), len(positions))

    file.seek(0)
    if header.is_present:
        next(_rows(file))
    try:
        table = np.loadtxt(
            file,
            np.float64,
            comments=None,
            delimiter=",",
            quotechar='"',
            converters={header.column: encode},
            ndmin=2,
            encoding=None,
        )
    except ValueError as error:
        file.seek(0)
        raise InvalidInputError(
            f"{header.path}: {_find_fault(header, _rows(file)) or error}"
        ) from error
    x = np.ascontiguousarray(np.delete(table, header.column, axis=1))
    return x, table[:, header.column].astype(np.int64), list(positions)


def _find_fault(header: _Header, rows: Iterable[Row]) -> str | None:
    """Describe the first row that loadtxt refuses; its own message counts rows, not lines."""
    for line, cells in list(rows)[header.is_present :]:
        if len(cells) != len(header.cells):
            return (
                f"line {line} has {len(cells)} cells, expected {len(header.cells)} as in the first "
                "line"
            )
        for column, cell in enumerate(cells):
            if column != header.column and _as_number(cell) is None:
                return (
                    f"line {line}, column {header.label(column)}: {cell!r} is no number; expected "
                    "numbers in every input column: fill gaps and encode text before"
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
