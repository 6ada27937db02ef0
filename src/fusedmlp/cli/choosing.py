"""Choosing the backend for a command, early where it was named, and saying which and why."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fusedmlp.registry import AUTO, ENVIRONMENT_VARIABLE, Selection, create, select

if TYPE_CHECKING:
    from fusedmlp.backend import Backend, Workload


def chosen_backend(
    request: str | None, threads: int | None, workload: Workload
) -> tuple[Selection, Backend]:
    """Choose and build a backend.

    Raises
    ------
    UnknownNameError, BackendUnavailableError
        It does not exist or cannot be used; the message says how to repair it.
    """
    selection = select(request, workload)
    return selection, create(selection, threads=threads)


def is_named(request: str | None) -> bool:
    """Tell whether the user or the environment names a backend, so that ``auto`` has no say."""
    return (request or os.environ.get(ENVIRONMENT_VARIABLE) or AUTO) != AUTO


def describe(selection: Selection, backend: Backend) -> str:
    """Say what was chosen, why, and what it runs on."""
    why = f"{selection.origin}: {selection.reason}" if selection.origin == AUTO else ""
    return f"{selection} ({why or selection.reason}), {backend.device()}"
