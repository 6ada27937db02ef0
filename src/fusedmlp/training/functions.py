"""Functions that a caller gives in place of a schedule or a callback: names and arguments."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from fusedmlp.errors import InvalidInputError
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable


def name_of(function: Callable[..., object]) -> str:
    """Return a function's module and name, the same in every process."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def check_arguments(what: str, function: Callable[..., object], *arguments: str) -> None:
    """Raise :class:`InvalidInputError` unless a function takes these arguments, by position.

    Parameters
    ----------
    what
        What messages call the function's use.
    arguments
        What each argument is.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # some builtin functions have none
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise InvalidInputError(
            f"{what} {name_of(function)}{signature} is called with "
            f"{counted(len(arguments), 'argument')}, {' and '.join(arguments)}: {error}"
        ) from error
