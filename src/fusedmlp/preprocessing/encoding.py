"""Preprocessing that is fitted on the training rows of a table and travels with the model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedmlp.data_frames import listed, positions
from fusedmlp.errors import InvalidInputError, UnknownNameError
from fusedmlp.preprocessing.columns import (
    SCALES,
    CategoryColumn,
    Column,
    NumberColumn,
    Scale,
    column_from_dict,
)
from fusedmlp.preprocessing.table import Table
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fusedmlp.interop import ForeignArray


@dataclass(frozen=True)
class Preprocessing:
    """The columns that a model expects, and what makes inputs (N, D) of them.

    Missing numbers become the median, with an indicator; numbers are scaled; text becomes one-hot.
    Tables are matched by name where both have names: the order of columns does not matter, and
    further columns are ignored.

    Parameters
    ----------
    columns
        Input columns in the order of the training table.
    has_names
        Whether the training table had names.
    target
        Name of its target column, or None.
    """

    columns: tuple[Column, ...]
    has_names: bool = False
    target: str | None = None

    @classmethod
    def fit(
        cls, table: Table, scale: Scale = "standard", target: str | None = None
    ) -> Preprocessing:
        """Compute the statistics of the training rows.

        Raises
        ------
        InvalidInputError
            A column is empty, not finite, or identifies rows.
        UnknownNameError
            The scale is unknown.
        """
        if scale not in SCALES:
            raise UnknownNameError.of("scale", str(scale), SCALES)
        names = table.names or tuple(map(str, range(table.n_columns)))
        columns: list[Column] = []
        for j, name in enumerate(names):
            if j in table.texts:
                columns.append(CategoryColumn.fit(name, table.texts[j]))
            else:
                columns.append(NumberColumn.fit(name, table.numbers[:, j], scale))
        return cls(tuple(columns), table.names is not None, target)

    @property
    def n_inputs(self) -> int:
        """D, the inputs of the network."""
        return sum(column.n_inputs for column in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the input columns; their numbers where they have no names."""
        return tuple(column.name for column in self.columns)

    @property
    def expected_names(self) -> tuple[str, ...]:
        """Names that a header has; none where columns have a position only."""
        return self.names if self.has_names else ()

    @cached_property
    def text_columns(self) -> frozenset[str]:
        """Names of the columns of text."""
        return frozenset(c.name for c in self.columns if isinstance(c, CategoryColumn))

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """Number of each column's first input."""
        return np.cumsum([0, *(column.n_inputs for column in self.columns)])[:-1]

    def transform(self, x: ForeignArray) -> NDArray[np.float64]:
        """Turn rows of a table into the network's inputs.

        Parameters
        ----------
        x
            A data frame, an array (N, C) or a :class:`Table`, with the columns of training.

        Returns
        -------
        (N, D) float64.

        Raises
        ------
        InvalidInputError
            A column is missing, holds text in place of numbers, or is infinite.
        """
        table = self._matched(Table.of(x, self.text_columns))
        inputs = np.zeros((table.n_rows, self.n_inputs))
        numbers = [(j, c) for j, c in enumerate(self.columns) if isinstance(c, NumberColumn)]
        if numbers:
            self._encode_numbers(table, numbers, inputs)
        for j, column in enumerate(self.columns):
            if isinstance(column, CategoryColumn):
                start = self._starts[j]
                column.encode(table.texts[j], inputs[:, start : start + column.n_inputs])
        return inputs

    def ignored(self, table: Table) -> list[str]:
        """Return the names of a table's columns that are no inputs, but for the target."""
        if not self.has_names or table.names is None:
            return []
        return [name for name in table.names if name not in (*self.names, self.target)]

    def to_dict(self) -> dict[str, object]:
        """Return plain data for JSON; :meth:`from_dict` reads it."""
        return {
            "columns": [column.to_dict() for column in self.columns],
            "has_names": self.has_names,
            "target": self.target,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Rebuild from :meth:`to_dict`; malformed data raise an error."""
        columns = tuple(column_from_dict(column) for column in data["columns"])
        target = data["target"]
        return cls(columns, data["has_names"] is True, None if target is None else str(target))

    def __repr__(self) -> str:
        """Describe the columns in one line, without their statistics."""
        return f"Preprocessing({self})"

    def __str__(self) -> str:
        n_texts = len(self.text_columns)
        parts = [
            counted(n, kind)
            for n, kind in ((len(self.columns) - n_texts, "number"), (n_texts, "text"))
            if n
        ]
        return f"{' and '.join(parts)} a row, {counted(self.n_inputs, 'input')}"

    def _encode_numbers(
        self, table: Table, numbers: list[tuple[int, NumberColumn]], inputs: NDArray[np.float64]
    ) -> None:
        positions = [j for j, _ in numbers]
        values = table.numbers if len(positions) == table.n_columns else table.numbers[:, positions]
        infinite = np.isinf(values)
        if infinite.any():
            row, column = (int(i) for i in np.argwhere(infinite)[0])
            raise InvalidInputError(
                f"{table.where}: {table.label(positions[column])} is {values[row, column]} in row "
                f"{row}: expected finite numbers"
            )
        missing = np.isnan(values)
        starts = self._starts[positions]
        with np.errstate(over="ignore"):  # an infinite input is refused by the engine
            filled = np.where(missing, [c.fill for _, c in numbers], values)
            scaled = (filled - [c.center for _, c in numbers]) / [c.scale for _, c in numbers]
        inputs[:, starts] = scaled
        marked = np.array([c.has_indicator for _, c in numbers])
        inputs[:, starts[marked] + 1] = missing[:, marked]

    def _matched(self, table: Table) -> Table:
        """Return the columns of training, in their order, checked to be of their kinds."""
        if self.has_names and table.names is not None:
            order = positions(self.names, table.names, table.where)
        else:
            order = self._by_position(table)
        matched = table.select(order)
        for j, column in enumerate(self.columns):
            is_text = j in matched.texts
            if is_text and isinstance(column, NumberColumn):
                text = next(value for value in matched.texts[j] if value is not None)
                raise InvalidInputError(
                    f"{table.where}: {matched.label(j)} holds text ({text!r}); the model was "
                    "trained on numbers there"
                )
            if not is_text and isinstance(column, CategoryColumn):
                raise InvalidInputError(
                    f"{table.where}: {matched.label(j)} holds numbers; the model was trained on "
                    f"text there ({listed(str(c) for c in column.categories)})"
                )
        return matched

    def _by_position(self, table: Table) -> list[int]:
        if table.n_columns != len(self.columns):
            raise InvalidInputError(
                f"{table.where} has {counted(table.n_columns, 'column')}, the model was trained on "
                f"{len(self.columns)}: {listed(self.names)}"
            )
        return list(range(table.n_columns))
