"""The backend of a command: chosen, built and described."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusedmlp.backend import Workload
from fusedmlp.errors import InvalidInputError
from fusedmlp.network import Network
from fusedmlp.registry import (
    AUTO,
    ENVIRONMENT_VARIABLE,
    Selection,
    availability,
    create,
    select,
)

if TYPE_CHECKING:
    from fusedmlp.backend import Backend
    from fusedmlp.cli.settings import RunOptions

_ANY_WORKLOAD = Workload(Network((1, 1), output="identity"), 1)
"""For a backend that is named: the choice does not depend on the workload."""


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """A backend that was chosen and built."""

    selection: Selection
    backend: Backend

    @classmethod
    def make(cls, run: RunOptions, workload: Workload) -> BackendChoice:
        """Choose and build a backend; the error of one that cannot be used names the remedy."""
        selection = select(run.backend, workload, strict=run.strict)
        return cls(selection, create(selection, threads=run.threads, strict=run.strict))

    @classmethod
    def if_named(cls, run: RunOptions) -> BackendChoice | None:
        """Build the backend that an option or the environment names; None where it is ``auto``."""
        if (run.backend or os.environ.get(ENVIRONMENT_VARIABLE) or AUTO) == AUTO:
            return None
        return cls.make(run, _ANY_WORKLOAD)

    def __str__(self) -> str:
        """Describe the choice, its reason and the device."""
        selection = self.selection
        automatic = f"{AUTO}: " if selection.origin == AUTO else ""
        mode = ", strict arithmetic" if self.backend.strict else ""
        return f"{selection} ({automatic}{selection.reason}), {self.backend.device()}{mode}"


def named_or_usable(request: str | None) -> list[Selection]:
    """Return the backends of an option such as ``numpy,cupy:1``, or all that are usable here.

    The first is the reference. An unknown name, or one given twice, is an InvalidInputError.
    """
    if request is None:
        names = [name for name, found in availability().items() if found.state == "usable"]
        names.sort(key=lambda name: name != "numpy")  # the specification is the reference
        return [Selection(name, None, "usable", "all usable backends") for name in names]
    names = [name.strip() for name in request.split(",") if name.strip()]
    if len(set(names)) < len(names) or not names:
        raise InvalidInputError(
            f"backends {request!r}: name each backend once, such as numpy,numba"
        )
    return [Selection.from_request(name, "argument", "requested by argument") for name in names]
