"""Data sets from ``.csv`` files: numbers, one target column, a header or none.

For tables that fit in memory. Other separators, dates, categories among the inputs and missing
values are errors with a line number; preparing data is a job for other tools.
"""

from __future__ import annotations

import csv
from array import array
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.datasets.file_errors import convert_read_errors
from fusedmlp.datasets.labels import RawData, as_dataset, require_finite
from fusedmlp.errors import DataUnavailableError, InvalidInputError

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
            rows = _rows(file)
            head = list(islice(rows, 2))
            header = _read_header(path, head, target)
            x, tokens = _parse(header, chain(head[header.is_present :], rows))
    except UnicodeDecodeError as error:
        raise DataUnavailableError(f"{path}: not UTF-8 text: {error.reason}") from error
    require_finite(x, f"{path}: inputs")
    y, class_names = _read_targets(path, tokens, task)
    label = header.label(header.column)
    source = f"{path} (target {label if header.is_present else f'column {label}'})"
    raw = RawData(path.stem, source, x, y, class_names=class_names)
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


def _parse(header: _Header, rows: Iterable[Row]) -> tuple[NDArray[np.float64], list[str]]:
    """Return inputs (N, D) and the N cells of the target column."""
    values, tokens = array("d"), []
    for line, cells in rows:
        where = f"{header.path}: line {line}"
        if len(cells) != len(header.cells):
            raise InvalidInputError(
                f"{where} has {len(cells)} cells, expected {len(header.cells)} as in the first line"
            )
        tokens.append(cells[header.column])
        for column, cell in enumerate(cells):
            if column != header.column:
                number = _as_number(cell)
                if number is None:
                    raise InvalidInputError(
                        f"{where}, column {header.label(column)}: {cell!r} is no number; expected "
                        "numbers in every input column: fill gaps and encode text before"
                    )
                values.append(number)
    return np.array(values).reshape(len(tokens), -1), tokens


def _read_targets(
    path: Path, tokens: list[str], task: Task | None
) -> tuple[NDArray[np.float64 | np.int64], tuple[str, ...] | None]:
    """Return numbers or, where targets are text, the position of each in the sorted class names."""
    numbers = {token: _as_number(token) for token in set(tokens)}
    texts = [token for token in tokens if numbers[token] is None]
    if not texts:
        return np.array([numbers[token] for token in tokens], np.float64), None
    has_numbers = len(texts) < len(tokens)
    if "" in texts or task in ("regression", "multilabel") or (has_numbers and task is None):
        shown = "" if "" in texts else texts[0]
        raise InvalidInputError(
            f"{path}: the target column holds {shown!r}"
            f"{' besides numbers' if has_numbers else ''}; expected a number in every row, or a "
            "class name in every row (pass task='classification' if numbers are names here)"
        )
    names, positions = np.unique(np.array(tokens), return_inverse=True)
    return positions, tuple(str(name) for name in names)
