"""The machine and software of a report: a selection from what ``fusedmlp doctor`` finds."""

from __future__ import annotations

import datetime
import os
from typing import TYPE_CHECKING

from fusedmlp import diagnostics
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def environment(command: Sequence[str]) -> dict[str, object]:
    """Collect date, command, system, processor, versions and the variables in force.

    Parameters
    ----------
    command
        The command line that would make the report again.
    """
    system, cores = diagnostics.system(), diagnostics.cores()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(command),
        "system": system["os"],
        "python": system["python"],
        "cpu": diagnostics.cpu_model(),
        "usable_cpus": cores["usable"],
        "vector_features": [
            diagnostics.readable_feature(name) for name in sorted(diagnostics.cpu_features())
        ],
        "packages": {k: v for k, v in diagnostics.package_versions().items() if v is not None},
        "blas": [
            f"{library['used_by'] or 'other'}: {library['name']} {library['version']}, "
            f"{library['kernels'] or 'unnamed'} kernels, {counted(library['threads'], 'thread')}"
            for library in diagnostics.blas_libraries()
        ],
        "variables": diagnostics.variables(os.environ),
    }


def environment_rows(facts: Mapping[str, object]) -> list[tuple[str, str]]:
    """Name and text of each fact, for a table of two columns."""
    return [(name.replace("_", " "), _text(value)) for name, value in facts.items()]


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return "; ".join(map(str, value)) or "none"
    return "unknown" if value is None else str(value)
