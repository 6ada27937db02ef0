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

from fusedmlp.datasets.csv_columns import MISSING, Columns, LateTextError, as_numbers, is_number
from fusedmlp.datasets.csv_numbers import delimiter_of, read_numbers
from fusedmlp.datasets.file_errors import convert_read_errors
from fusedmlp.errors import DataUnavailableError, InvalidInputError
from fusedmlp.preprocessing.table import Table
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from fusedmlp.datasets.csv_columns import Row
    from fusedmlp.datasets.csv_numbers import NumberRows

    Report = Callable[[str], None]

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
            if not text_columns and file.seekable():  # a pipe can be read once
                if (rows := read_numbers(file)) is not None:
                    return reader.of_numbers(rows)
                file.seek(0)
            while True:
                try:
                    return reader.read(_rows(file))
                except LateTextError as late:
                    # A column of numbers in the first chunks has text further down.
                    reader = replace(reader, text_numbers=reader.text_numbers | {late.column})
                    file.seek(0)
    except UnicodeDecodeError as error:
        raise DataUnavailableError(
            f"{path}: not UTF-8 text: {error.reason}; save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise DataUnavailableError(f"{path}: not a table of text: {error}") from error


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

    def of_numbers(self, rows: NumberRows) -> Table:
        """Return the table of a file of numbers."""
        names = self._names([rows.first, rows.second])
        numbers, lines = rows.numbers, rows.lines
        if names is None:
            first = as_numbers(rows.first)
            assert first is not None, "text above numbers is a header"
            numbers, lines = np.vstack([first, numbers]), np.append(1, lines)
        table = Table(numbers, {}, names, str(self.path), lines)
        self._check(table)
        return self._without_index(table)

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
        columns = Columns(self._known_texts(names, len(first[0][1])))
        for chunk in chain([first], chunks):
            self._check_lengths(chunk, len(names or first[0][1]))
            columns.add(chunk)
        table = columns.table(names, str(self.path))
        self._check(table)
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
        if not others and any(map(is_number, first)):
            return None
        if not _is_header(first, others):
            return None
        if all(map(is_number, first)):
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

    def _check(self, table: Table) -> None:
        """Refuse infinite numbers, and columns of numbers with a few other cells."""
        assert table.lines is not None
        infinite = np.isinf(table.numbers)
        if infinite.any():
            row, column = (int(i) for i in np.argwhere(infinite)[0])
            raise InvalidInputError(
                f"{self.path}: line {table.lines[row]}, {table.label(column)}: "
                f"{table.numbers[row, column]} is not finite; expected finite numbers"
            )
        known = self._known_texts(table.names, table.n_columns) - self.text_numbers
        for j, texts in table.texts.items():
            if j in known:
                continue
            wrong = [i for i, cell in enumerate(texts) if cell is not None and not is_number(cell)]
            n_cells = sum(cell is not None for cell in texts)
            if all(cell is None or _DECIMAL_COMMA.fullmatch(cell) for cell in texts):
                raise InvalidInputError(
                    f"{self.path}: {table.label(j)} has numbers with a decimal comma "
                    f"({texts[0]!r}): save them with a point"
                )
            if 0 < len(wrong) < MISTYPED_SHARE * n_cells:
                raise InvalidInputError(
                    f"{self.path}: line {table.lines[wrong[0]]}, {table.label(j)}: "
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
    reader = csv.reader(chain(head, lines), delimiter=delimiter_of(head[-1]))
    for cells in reader:
        if cells:
            yield reader.line_num, [cell.strip() for cell in cells]


def _is_header(first: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Whether a first row has names; see :func:`read_csv`."""
    columns = list(zip(*others, strict=False))
    if not columns:
        return True
    are_numbers = [as_numbers(cells) is not None for cells in columns]
    pairs = list(zip(first, are_numbers, strict=False))
    if any(below and not is_number(c) and c.lower() not in MISSING for c, below in pairs):
        return True
    named = first[1:] if not first[0] else first  # pandas' index has an empty name
    if all(map(is_number, named)):
        return len(first) > 2 and list(named) == list(map(str, range(len(named))))
    if any(are_numbers):
        return False
    return len(set(first)) == len(first) and not any(
        cell in below for cell, below in zip(first, columns, strict=False)
    )
