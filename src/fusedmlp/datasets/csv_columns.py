"""Cells of a ``.csv`` file as columns of numbers and of text. Rows are read in csv_file.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.preprocessing.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Row = tuple[int, list[str]]  # line number from 1, cells without surrounding blanks

MISSING: Final = frozenset(("", "na", "n/a", "nan", "null", "none", "?"))
"""Cells without a value, in lower case."""


class LateTextError(Exception):
    """A column that was numbers in earlier rows has text."""

    def __init__(self, column: int) -> None:
        self.column = column


class Columns:
    """The columns of the chunks that were read so far."""

    def __init__(self, texts: set[int]) -> None:
        self._texts = texts
        self._numbers: list[NDArray[np.float64]] = []
        self._text_parts: list[dict[int, list[str | None]]] = []
        self._lines: list[int] = []

    def add(self, chunk: Sequence[Row]) -> None:
        """Convert a chunk of rows.

        Raises
        ------
        LateTextError
            A column that was numbers in earlier chunks has text in this one.
        """
        self._lines += [line for line, _ in chunk]
        columns = list(zip(*(cells for _, cells in chunk), strict=True))
        numbers = np.full((len(chunk), len(columns)), np.nan)
        text_parts: dict[int, list[str | None]] = {}
        for j, cells in enumerate(columns):
            found = None if j in self._texts else as_numbers(cells)
            if found is not None:
                numbers[:, j] = found
                continue
            if j not in self._texts and self._numbers:
                raise LateTextError(j)
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
        lines = np.array(self._lines, dtype=np.int64)
        return Table(np.concatenate(self._numbers), texts, names, where, lines)


def is_number(cell: str) -> bool:
    """Whether a cell is a number, infinity or NaN."""
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
