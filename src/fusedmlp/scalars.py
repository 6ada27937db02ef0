"""Single numbers among settings: checked, and kept as Python's own.

NumPy's scalars have another ``repr``, which checkpoints compare, and JSON does not hold them.
"""

from __future__ import annotations

import numpy as np

from fusedmlp.errors import InvalidInputError


def whole(name: str, value: object, least: int = 1) -> int:
    """Return a whole number as Python's.

    Raises
    ------
    InvalidInputError
        It is not whole, or less than ``least``; the message calls it ``name``.
    """
    number = _plain(value)
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise InvalidInputError(f"{name} {value!r} is not a whole number of at least {least}")
    return number


def real(name: str, value: object) -> float:
    """Return a real number as Python's ``int`` or ``float``.

    Raises
    ------
    InvalidInputError
        It is not a number; the message calls it ``name``.
    """
    number = _plain(value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InvalidInputError(f"{name} {value!r} is not a number")
    return number


def flag(name: str, value: object) -> bool:
    """Return a boolean as Python's.

    Raises
    ------
    InvalidInputError
        It is not a boolean; the message calls it ``name``.
    """
    found = _plain(value)
    if not isinstance(found, bool):
        raise InvalidInputError(f"{name} {value!r} is neither True nor False")
    return found


def store_reals(settings: object, *names: str) -> None:
    """Replace these fields of a frozen dataclass by :func:`real` of them."""
    for name in names:
        object.__setattr__(settings, name, real(name, getattr(settings, name)))


def _plain(value: object) -> object:
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not value.ndim):
        plain: object = value.item()
        return plain
    return value
