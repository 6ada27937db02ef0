"""Data frames, and arrays of Python objects, as arrays of numbers where that is exact.

No data-frame library is imported: a table is known by how it names its columns. Text, dates and
missing values are never turned into numbers here: the error names the first one, its place and the
remedy. Class labels, which may be text, are in class_labels.py.
"""

from __future__ import annotations

from decimal import Decimal
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np

from fusedmlp.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy.typing as npt

Table: TypeAlias = Any
"""A data frame of a library that is not imported here."""

Place: TypeAlias = "Callable[[tuple[int, ...]], str]"
"""Takes the index of an element; returns what messages call it."""


SHOWN_NAMES: Final = 20
"""Names that a message lists at most."""


class Column(NamedTuple):
    """A column of a table: its name, and its values (N,) of any dtype."""

    name: str
    values: npt.NDArray[Any]


def columns_of(table: Table) -> list[Column] | None:
    """Return the columns of a table; None for anything else.

    Tables are the data frames of pandas and polars and what has their methods, pyarrow's tables
    and NumPy's structured arrays.
    """
    pairs = _named_columns(table)
    if pairs is None:
        return None
    return [Column(str(name), np.asarray(values)) for name, values in pairs]


def column_names(table: Table) -> tuple[str, ...] | None:
    """Return the names of a table's columns.

    None for anything else, and for the numbers that pandas gives to columns without names.
    """
    names = [name for name, _ in _named_columns(table) or ()]
    if not names or not all(isinstance(name, str) for name in names):
        return None
    return tuple(map(str, names))


def _named_columns(table: Table) -> list[tuple[object, Any]] | None:
    kind = type(table)
    if issubclass(kind, np.ndarray):
        return [(name, table[name]) for name in table.dtype.names or ()] or None
    if hasattr(kind, "iter_columns"):  # polars
        return [(column.name, column) for column in table.iter_columns()]
    if hasattr(kind, "column_names") and hasattr(kind, "columns"):  # pyarrow
        return list(zip(table.column_names, table.columns, strict=True))
    if hasattr(kind, "items") and hasattr(kind, "columns"):  # pandas
        return list(table.items())
    return None


def positions(wanted: Sequence[str], found: Sequence[str], where: str) -> list[int]:
    """Return the position in ``found`` of each column that a model was trained on.

    Parameters
    ----------
    where
        What messages call the table.

    Raises
    ------
    InvalidInputError
        A column is missing, or there are several of its name.
    """
    position = {name: j for j, name in enumerate(found)}
    absent = [name for name in wanted if name not in position]
    if absent:
        raise InvalidInputError(
            f"{where} lacks the columns {listed(absent)} that the model was trained on; it has "
            f"{listed(found)}"
        )
    if len(position) < len(found) and (twice := [n for n in wanted if found.count(n) > 1]):
        raise InvalidInputError(
            f"{where} has {found.count(twice[0])} columns named {twice[0]!r}: leave one of them"
        )
    return [position[name] for name in wanted]


def listed(names: Iterable[str]) -> str:
    """Return names for a message, at most :data:`SHOWN_NAMES` of them."""
    known = list(names)
    return ", ".join(known[:SHOWN_NAMES]) + (", …" if len(known) > SHOWN_NAMES else "")


def stacked(name: str, columns: list[Column], rows: int) -> npt.NDArray[Any]:
    """Return the numbers of a table as one C-ordered array (N, D).

    Columns of one dtype keep it. Columns of several become the smallest dtype that holds all of
    them, but never ``uint8``, which would mean pixels.

    Parameters
    ----------
    name
        What messages call the table.

    Raises
    ------
    InvalidInputError
        A value is not a finite number; the message has its column and row, from 0.
    """
    found = []
    for column in columns:

        def place(index: tuple[int, ...], column: Column = column) -> str:
            return f"column {column.name!r} of {name}, row {index[0]},"

        values = as_numbers(name, column.values, place)
        if values.ndim != 1:
            raise InvalidInputError(
                f"column {column.name!r} of {name} has values of shape {values.shape[1:]}: "
                "give one number a row"
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise missing(place((row,)), values[row])
        found.append(values)
    dtypes = {values.dtype for values in found}
    dtype = np.result_type(*dtypes) if dtypes else np.dtype(np.float64)
    if dtype == np.uint8 and len(dtypes) > 1:
        dtype = np.dtype(np.int16)
    numbers = np.empty((rows, len(found)), dtype)
    for index, values in enumerate(found):
        numbers[:, index] = values
    return numbers


def as_numbers(name: str, array: npt.NDArray[Any], place: Place | None = None) -> npt.NDArray[Any]:
    """Return an array whose elements are numbers as one of a numeric dtype.

    A numeric array is returned itself. Python's and NumPy's numbers, booleans and decimals in an
    object array become ``bool``, ``int64`` or ``float64``.

    Parameters
    ----------
    name
        What messages call the array.
    place
        What they call an element; None for ``name[index]``.

    Raises
    ------
    InvalidInputError
        An element is text, a date, missing or otherwise no number.
    """
    place = place or (lambda index: f"{name}{[int(i) for i in index]}")
    if isinstance(array, np.ma.MaskedArray):
        if np.ma.is_masked(array):
            first = tuple(np.argwhere(np.ma.getmaskarray(array))[0])
            raise missing(place(first), "masked")
        array = array.data
    kind = array.dtype.kind
    if kind in "buifc":
        return np.asarray(array)
    if array.ndim == 0:
        raise InvalidInputError(
            f"{name} is {_shown(array.item())}: give an array, a data frame or a SciPy sparse array"
        )
    if array.size == 0:
        return np.empty(array.shape)
    if kind != "O":
        first = (0,) * array.ndim
        raise _not_a_number(place(first), array[first])
    return _from_objects(array, place)


def is_missing(value: object) -> bool:
    """Whether a value stands for no value: None, NaN, and the like of data frames."""
    if value is None:
        return True
    try:
        return bool(value != value)  # NaN and NaT
    except TypeError:  # pandas.NA has no truth value
        return True
    except ValueError:  # an array
        return False


def missing(place: str, value: object) -> InvalidInputError:
    """Return the error for a value that is missing, NaN or infinite."""
    return InvalidInputError(
        f"{place} is {value}: values must be present and finite; drop or fill such rows "
        "(fusedmlp.preprocessing.Preprocessing fills missing inputs)"
    )


def _from_objects(array: npt.NDArray[np.object_], place: Place) -> npt.NDArray[Any]:
    """Return the numbers of an object array."""
    types = {type(value) for value in array.flat}
    if not all(map(_is_number, types)):
        index = next(i for i in np.ndindex(array.shape) if not _is_number(type(array[i])))
        raise _not_a_number(place(index), array[index])
    if types <= {bool, np.bool_}:
        return array.astype(np.bool_)
    if all(issubclass(each, Integral | np.bool_) for each in types):
        try:
            return array.astype(np.int64)
        except OverflowError:
            pass
    return array.astype(np.float64)


def _is_number(kind: type) -> bool:
    return issubclass(kind, Real | Decimal | np.bool_)


def _not_a_number(place: str, value: object) -> InvalidInputError:
    if isinstance(value, bytes):
        return InvalidInputError(
            f"{place} is {_plain(value)!r:.60}: bytes are no number; decode class labels to text "
            "(.astype(str) of NumPy)"
        )
    if isinstance(value, str):
        return InvalidInputError(
            f"{place} is {_plain(value)!r:.60}: text is no number; in inputs, "
            "fusedmlp.preprocessing.Preprocessing encodes it as columns of zeros and ones"
        )
    if is_missing(value):
        return missing(place, value)
    if isinstance(value, np.datetime64 | np.timedelta64) or hasattr(value, "isoformat"):
        return InvalidInputError(
            f"{place} is the date or time {value}: give numbers, such as the days since a first one"
        )
    return InvalidInputError(f"{place} is {_shown(value)}: give numbers")


def _shown(value: object) -> str:
    """Return a value and its type, short."""
    kind = type(value)
    return f"{value!r:.60} ({kind.__module__}.{kind.__qualname__})"


def _plain(value: object) -> object:
    """Return a NumPy scalar as Python's, whose ``repr`` is shorter."""
    return value.item() if isinstance(value, np.generic) else value
