"""Tables from ``.csv`` files: numbers and text, missing values, a header or none.

All commands read their tables here, by the same rules. Which column is the target, and what the
columns mean, is decided elsewhere: csv_table.py and :mod:`fusedmlp.preprocessing`.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.datasets.file_errors import convert_read_errors
from fusedmlp.errors import DataUnavailableError, InvalidInputError
from fusedmlp.preprocessing.table import Table
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Row = tuple[int, list[str]]  # line number from 1, cells without surrounding blanks
    Report = Callable[[str], None]

MISSING: Final = frozenset(("", "na", "n/a", "nan", "null", "none", "?"))
"""Cells without a value, in lower case."""

MISTYPED_SHARE: Final = 0.1
"""A column with a smaller share of cells that are no numbers has mistakes, not categories."""

_DECIMAL_COMMA: Final = re.compile(r"-?\d+,\d+")

CHUNK_CELLS: Final = 1_000_000
"""Cells that are converted together."""


def read_csv(
    path: Path,
    text_columns: Collection[str] = (),
    report: Report = lambda _line: None,
    names: Collection[str] = (),
) -> Table:
    """Read a table with all of its columns.

    The first line has names if one of its cells is text above a column of numbers, if it is
    ``0,1,2,…``, or if all columns are text and none of its cells appears again below. A first
    column without a name that numbers the rows, as pandas writes it, is left out.

    Parameters
    ----------
    path
        UTF-8 text; cells separated by commas, semicolons or tabs, with double quotes where needed.
    text_columns
        Names of columns that are text, whatever they hold; in a file without names, their numbers.
    report
        Receives a line of text about each of these decisions that is not obvious.
    names
        Names that a model expects: a first line that has all of them is a header.

    Raises
    ------
    DataUnavailableError
        The file cannot be read or is not text.
    InvalidInputError
        It is empty or ragged, a number is infinite, or a few cells of a column of numbers are not
        numbers.
    """
    try:
        with convert_read_errors(path), path.open(encoding="utf-8-sig", newline="") as file:
            reader = _Reader(path, frozenset(text_columns), report, frozenset(names))
            while True:
                try:
                    return reader.read(_rows(file))
                except _LateTextError as late:
                    # A column of numbers in the first chunks has text further down.
                    reader = replace(reader, text_numbers=reader.text_numbers | {late.column})
                    file.seek(0)
    except UnicodeDecodeError as error:
        raise DataUnavailableError(
            f"{path}: not UTF-8 text: {error.reason}; save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise DataUnavailableError(f"{path}: not a table of text: {error}") from error


class _LateTextError(Exception):
    def __init__(self, column: int) -> None:
        self.column = column


@dataclass(frozen=True)
class _Reader:
    """One pass over a file.

    Parameters
    ----------
    text_numbers
        Numbers of columns that are known to be text.
    """

    path: Path
    text_columns: frozenset[str]
    report: Report
    expected_names: frozenset[str]
    text_numbers: frozenset[int] = field(default_factory=frozenset)

    def read(self, rows: Iterator[Row]) -> Table:
        """Read all rows."""
        chunks = self._chunks(rows)
        first = next(chunks, [])
        if not first:
            raise InvalidInputError(f"{self.path}: empty, expected at least one row")
        names = self._names([cells for _, cells in first])
        if names is not None:
            first = first[1:]
            if not first:
                raise InvalidInputError(
                    f"{self.path}: a header and no rows, expected at least one row"
                )
        columns = _Columns(self._known_texts(names, len(first[0][1])))
        for chunk in chain([first], chunks):
            self._check_lengths(chunk, len(names or first[0][1]))
            columns.add(chunk)
        table = columns.table(names, str(self.path))
        self._check(table, columns)
        return self._without_index(table)

    def _chunks(self, rows: Iterator[Row]) -> Iterator[list[Row]]:
        head = list(islice(rows, 2))
        if not head:
            return
        n_rows = max(2, CHUNK_CELLS // len(head[0][1]))
        yield head + list(islice(rows, n_rows - len(head)))
        while chunk := list(islice(rows, n_rows)):
            yield chunk

    def _names(self, rows: Sequence[list[str]]) -> tuple[str, ...] | None:
        """Return the names in the first row, or None where it is a row like the others."""
        first, *others = rows
        if self.expected_names and self.expected_names <= set(first):
            return tuple(first)
        if not others and any(map(_is_number, first)):
            return None
        if not _is_header(first, others):
            return None
        if all(map(_is_number, first)):
            self.report(f"{self.path.name}: the first line, {','.join(first)[:60]}, has the names")
        return tuple(name or f"column {j}" if j else name for j, name in enumerate(first))

    def _known_texts(self, names: tuple[str, ...] | None, n_columns: int) -> set[int]:
        labels = names or tuple(map(str, range(n_columns)))
        named = {j for j, name in enumerate(labels) if name in self.text_columns}
        return named | self.text_numbers

    def _check_lengths(self, chunk: Sequence[Row], n_columns: int) -> None:
        for line, cells in chunk:
            if len(cells) != n_columns:
                raise InvalidInputError(
                    f"{self.path}: line {line} has {counted(len(cells), 'cell')}, expected "
                    f"{n_columns} as in the first line"
                )

    def _check(self, table: Table, columns: _Columns) -> None:
        """Refuse infinite numbers, and columns of numbers with a few other cells."""
        infinite = np.isinf(table.numbers)
        if infinite.any():
            row, column = (int(i) for i in np.argwhere(infinite)[0])
            raise InvalidInputError(
                f"{self.path}: line {columns.lines[row]}, {table.label(column)}: "
                f"{table.numbers[row, column]} is not finite; expected finite numbers"
            )
        known = self._known_texts(table.names, table.n_columns) - self.text_numbers
        for j, texts in table.texts.items():
            if j in known:
                continue
            wrong = [i for i, cell in enumerate(texts) if cell is not None and not _is_number(cell)]
            n_cells = sum(cell is not None for cell in texts)
            if all(cell is None or _DECIMAL_COMMA.fullmatch(cell) for cell in texts):
                raise InvalidInputError(
                    f"{self.path}: {table.label(j)} has numbers with a decimal comma "
                    f"({texts[0]!r}): save them with a point"
                )
            if 0 < len(wrong) < MISTYPED_SHARE * n_cells:
                raise InvalidInputError(
                    f"{self.path}: line {columns.lines[wrong[0]]}, {table.label(j)}: "
                    f"{texts[wrong[0]]!r} is no number, and {n_cells - len(wrong):,} of "
                    f"{n_cells:,} cells of the column are: correct it, or leave the column out"
                )

    def _without_index(self, table: Table) -> Table:
        """Leave out a first column without a name whose whole numbers are all different."""
        if table.names is None or table.names[0] not in ("", "Unnamed: 0") or table.n_columns < 2:
            return table
        first = table.numbers[:, 0]
        is_whole = 0 not in table.texts and bool((first == np.floor(first)).all())
        if not is_whole or len(np.unique(first)) < table.n_rows:
            self.report(f"{self.path.name}: the first column has no name and is an input")
            return replace(table, names=(table.names[0] or "column 0", *table.names[1:]))
        self.report(
            f"{self.path.name}: the first column has no name and numbers the rows: left out"
        )
        return table.select(range(1, table.n_columns))


class _Columns:
    """The columns of the chunks that were read so far."""

    def __init__(self, texts: set[int]) -> None:
        self._texts = texts
        self._numbers: list[NDArray[np.float64]] = []
        self._text_parts: list[dict[int, list[str | None]]] = []
        self.lines: list[int] = []

    def add(self, chunk: Sequence[Row]) -> None:
        """Convert a chunk of rows.

        Raises
        ------
        _LateTextError
            A column that was numbers in earlier chunks has text in this one.
        """
        self.lines += [line for line, _ in chunk]
        columns = list(zip(*(cells for _, cells in chunk), strict=True))
        numbers = np.full((len(chunk), len(columns)), np.nan)
        text_parts: dict[int, list[str | None]] = {}
        for j, cells in enumerate(columns):
            found = None if j in self._texts else as_numbers(cells)
            if found is not None:
                numbers[:, j] = found
                continue
            if j not in self._texts and self._numbers:
                raise _LateTextError(j)
            self._texts.add(j)
            text_parts[j] = [None if cell.lower() in MISSING else cell for cell in cells]
        self._numbers.append(numbers)
        self._text_parts.append(text_parts)

    def table(self, names: tuple[str, ...] | None, where: str) -> Table:
        """Return all rows."""
        texts = {
            j: np.array([cell for part in self._text_parts for cell in part[j]], dtype=object)
            for j in sorted(self._texts)
        }
        return Table(np.concatenate(self._numbers), texts, names, where)


def _rows(file: Iterable[str]) -> Iterator[Row]:
    """Yield every line that is not blank."""
    lines = iter(file)
    head: list[str] = []
    for line in lines:
        head.append(line)
        if line.strip():
            break
    else:
        return
    reader = csv.reader(chain(head, lines), delimiter=_delimiter(head[-1]))
    for cells in reader:
        if cells:
            yield reader.line_num, [cell.strip() for cell in cells]


def _delimiter(line: str) -> str:
    """Return the separator of cells: a comma if the first line has one."""
    return next((sign for sign in (",", ";", "\t") if sign in line), ",")


def _is_number(cell: str) -> bool:
    # Python also reads 1_000 and the digits of other scripts as numbers; other tools do not.
    if "_" in cell or not cell.isascii():
        return False
    try:
        float(cell)
    except ValueError:
        return False
    return True


def as_numbers(cells: Sequence[str]) -> NDArray[np.float64] | None:
    """Convert cells to numbers, NaN where one is missing; None if one is text."""
    joined = "".join(cells)
    if "_" in joined or not joined.isascii():
        return None
    try:
        return np.array(cells, dtype=np.float64)
    except ValueError:
        pass
    try:
        filled = ["nan" if cell.lower() in MISSING else cell for cell in cells]
        return np.array(filled, dtype=np.float64)
    except ValueError:
        return None


def _is_header(first: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Whether a first row has names; see :func:`read_csv`."""
    columns = list(zip(*others, strict=False))
    if not columns:
        return True
    are_numbers = [as_numbers(cells) is not None for cells in columns]
    pairs = list(zip(first, are_numbers, strict=False))
    if any(is_number and not _is_number(c) and c.lower() not in MISSING for c, is_number in pairs):
        return True
    named = first[1:] if not first[0] else first  # pandas' index has an empty name
    if all(map(_is_number, named)):
        return len(first) > 2 and list(named) == list(map(str, range(len(named))))
    if any(are_numbers):
        return False
    return len(set(first)) == len(first) and not any(
        cell in below for cell, below in zip(first, columns, strict=False)
    )
