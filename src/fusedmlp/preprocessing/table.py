"""A table in memory: columns of numbers and columns of text, with names where there are some.

Files are read in :mod:`fusedmlp.datasets.csv_table`; data frames and arrays are converted here.
What the columns mean to a network is in encoding.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedmlp.data_frames import Column, columns_of, is_missing, listed
from fusedmlp.errors import InvalidInputError
from fusedmlp.interop import host_copy

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from fusedmlp.interop import ForeignArray


@dataclass(frozen=True, eq=False, slots=True)
class Table:
    """N rows of C columns.

    Parameters
    ----------
    numbers
        (N, C) of a float dtype; NaN where a value is missing, and in the columns of text.
    texts
        Columns of text by their number: (N,) objects, ``str`` or None where a value is missing.
    names
        The C names, or None where columns have a position only.
    where
        Origin, for messages.
    lines
        (N,) lines of the file, from 1; None for rows in memory.
    """

    numbers: NDArray[np.floating[Any]]
    texts: Mapping[int, NDArray[np.object_]]
    names: tuple[str, ...] | None
    where: str
    lines: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        """Check that names are distinct."""
        names = self.names or ()
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidInputError(
                f"{self.where}: {names.count(twice)} columns have the name {twice!r}; expected "
                "different names"
            )

    @classmethod
    def of(cls, x: ForeignArray, text_columns: Collection[str] = (), where: str = "x") -> Table:
        """Convert a data frame (pandas, polars or another with ``columns``) or an array (N, C).

        Parameters
        ----------
        text_columns
            Names of columns that are read as text, whatever they hold.

        Raises
        ------
        InvalidInputError
            A column holds something other than numbers, text and missing values, or the shape is
            not (N, C).
        """
        if isinstance(x, Table):
            return x
        columns = columns_of(x)
        if columns is not None:
            return cls.of_columns(columns, text_columns, where)
        array = host_copy(where, x)
        if array.ndim != 2:
            raise InvalidInputError(
                f"{where} has shape {array.shape}: give (N, columns); one row is x.reshape(1, -1)"
            )
        if array.dtype.kind == "f":
            return cls(array, {}, None, where)
        if array.dtype.kind in "bui":
            return cls(array.astype(np.float64), {}, None, where)
        by_position = [Column(str(j), array[:, j]) for j in range(array.shape[1])]
        return replace(cls.of_columns(by_position, text_columns, where), names=None)

    @classmethod
    def of_columns(
        cls,
        columns: Sequence[Column],
        text_columns: Collection[str] = (),
        where: str = "x",
    ) -> Table:
        """Build a table from named columns (N,) of numbers, booleans, text or objects."""
        n_rows = len(columns[0].values) if columns else 0
        numbers = np.full((n_rows, len(columns)), np.nan)
        texts: dict[int, NDArray[np.object_]] = {}
        for j, (name, values) in enumerate(columns):
            found = None if name in text_columns else _as_numbers(values)
            if found is None:
                if values.dtype.kind not in "buifOUT":
                    raise InvalidInputError(
                        f"{where}: column {name!r} holds {values.dtype}: expected numbers or text; "
                        "convert it, or leave it out"
                    )
                texts[j] = as_texts(values)
            else:
                numbers[:, j] = found
        return cls(numbers, texts, tuple(name for name, _ in columns), where)

    @property
    def n_rows(self) -> int:
        """N."""
        return len(self.numbers)

    @property
    def n_columns(self) -> int:
        """C."""
        return int(self.numbers.shape[1])

    def name(self, column: int) -> str:
        """Return a column's name; its number where columns have no names."""
        return str(column) if self.names is None else self.names[column]

    def label(self, column: int) -> str:
        """Return a column's name for messages."""
        return f"column {column}" if self.names is None else f"column {self.names[column]!r}"

    def take(self, rows: NDArray[np.int64]) -> Table:
        """Return a table of some rows."""
        texts = {j: values[rows] for j, values in self.texts.items()}
        lines = None if self.lines is None else self.lines[rows]
        return replace(self, numbers=self.numbers[rows], texts=texts, lines=lines)

    def select(self, columns: Sequence[int]) -> Table:
        """Return a table of some columns, in the given order."""
        is_whole = list(columns) == list(range(self.n_columns))
        return replace(
            self,
            numbers=self.numbers if is_whole else self.numbers[:, list(columns)],
            texts={new: self.texts[old] for new, old in enumerate(columns) if old in self.texts},
            names=None if self.names is None else tuple(self.names[j] for j in columns),
        )

    def find(self, column: str | int) -> int:
        """Return the number of a column, given by name or by number (negative from the end).

        Raises
        ------
        InvalidInputError
            There is no such column; the message lists the known ones.
        """
        if self.names is not None and column in self.names:
            return self.names.index(str(column))
        is_number = isinstance(column, int) or column.removeprefix("-").isdecimal()
        if is_number and -self.n_columns <= int(column) < self.n_columns:
            return int(column) % self.n_columns
        known = "" if self.names is None else f" or one of {listed(self.names)}"
        raise InvalidInputError(
            f"{self.where}: no column {column!r}: expected a number below {self.n_columns}{known}"
        )


def _as_numbers(values: NDArray[Any]) -> NDArray[np.float64] | None:
    """Return a column as numbers, NaN where a value is missing; None where it holds text."""
    if values.dtype.kind in "buif":
        return values.astype(np.float64)
    if values.dtype.kind != "O":
        return None
    number = (int, float, bool, np.number, np.bool_)
    if not all(isinstance(value, number) or is_missing(value) for value in values):
        return None
    return np.array([np.nan if is_missing(value) else float(value) for value in values])


def as_texts(values: NDArray[Any]) -> NDArray[np.object_]:
    """Return numbers, booleans and text (N,) as text, None where a value is missing."""
    texts = np.full(len(values), None, dtype=object)
    for row, value in enumerate(values):
        if not is_missing(value):
            texts[row] = (
                number_text(value) if isinstance(value, float | np.floating) else str(value)
            )
    return texts


def number_text(value: float | np.floating[Any]) -> str:
    """Write a number as in a file: whole numbers without a fraction."""
    return str(int(value)) if float(value).is_integer() else str(value)
