"""Choosing the backend for a command, early where it was named, and saying which and why."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fusedmlp.errors import InvalidInputError
from fusedmlp.registry import (
    AUTO,
    ENVIRONMENT_VARIABLE,
    Selection,
    availability,
    create,
    select,
)

if TYPE_CHECKING:
    from fusedmlp.backend import Backend, Workload


def chosen_backend(
    request: str | None, threads: int | None, workload: Workload, *, strict: bool = False
) -> tuple[Selection, Backend]:
    """Choose and build a backend.

    Raises
    ------
    UnknownNameError, BackendUnavailableError
        It does not exist or cannot be used; the message says how to repair it.
    InvalidInputError
        It has no strict mode, and ``strict`` asks for it.
    """
    selection = select(request, workload, strict=strict)
    return selection, create(selection, threads=threads, strict=strict)


def named_or_usable(request: str | None) -> list[Selection]:
    """Return the backends that a command line names, or all that are usable here.

    Parameters
    ----------
    request
        Names with commas between them, such as ``numpy,cupy:1``; the first is the reference.

    Raises
    ------
    UnknownNameError, InvalidInputError
        A name is unknown, or stands twice.
    """
    if request is None:
        names = [name for name, found in availability().items() if found.state == "usable"]
        # The specification is the natural reference wherever it is there.
        names.sort(key=lambda name: name != "numpy")
        return [Selection(name, None, "usable", "all usable backends") for name in names]
    names = [name.strip() for name in request.split(",") if name.strip()]
    if len(set(names)) < len(names) or not names:
        raise InvalidInputError(
            f"backends {request!r}: name each backend once, such as numpy,numba"
        )
    return [Selection.from_request(name, "argument", "requested by argument") for name in names]


def is_named(request: str | None) -> bool:
    """Tell whether the user or the environment names a backend, so that ``auto`` has no say."""
    return (request or os.environ.get(ENVIRONMENT_VARIABLE) or AUTO) != AUTO


def describe(selection: Selection, backend: Backend) -> str:
    """Say what was chosen, why, and what it runs on."""
    why = f"{selection.origin}: {selection.reason}" if selection.origin == AUTO else ""
    mode = ", strict arithmetic" if backend.strict else ""
    return f"{selection} ({why or selection.reason}), {backend.device()}{mode}"
