"""Benchmark subjects: a backend or another library, on a number of threads.

Nothing that is measured is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fusedmlp.bench.tasks import Task

OWN_PREFIX: Final = "fusedmlp-"
NUMPY: Final = f"{OWN_PREFIX}numpy"
NUMBA: Final = f"{OWN_PREFIX}numba"

PEAK: Final = "fma-peak"
"""The machine's peak of multiply-adds, in documents of the checkout's benchmarks. It is no result,
but what the results are related to."""


@dataclass(frozen=True)
class Subject:
    """What is measured, and the process that it needs.

    Parameters
    ----------
    target
        ``module:Class`` of its :class:`fusedmlp.bench.adapter.Adapter`.
    library
        The module that must be installed.
    arguments
        Arguments of the class after the number of threads.
    environment
        Variables of its process, besides the numbers of threads.
    variant
        A task that it takes part in, alone, and the task that it does in its place, so that the
        cost of one part shows beside it. That one must have another name.
    """

    name: str
    target: str
    library: str
    threads: int = 1
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    variant: tuple[str, Callable[[Task], Task]] | None = None

    @property
    def label(self) -> str:
        """Name and threads, unique in a run."""
        return f"{self.name} ×{self.threads}"

    def task_for(self, task: Task) -> Task | None:
        """Return the task as this subject does it; None where it does not take part."""
        if self.variant is None:
            return task
        name, change = self.variant
        return change(task) if name == task.name else None

    def absence(self) -> str | None:
        """Say why it cannot take part here, or None."""
        if find_spec(self.library) is None:
            return f"{self.library} is not installed"
        return None


def backend_subject(backend: str, threads: int = 1) -> Subject:
    """Return the subject of a backend of any package, such as ``numba`` or ``cupy:1``."""
    library = backend if backend in ("numpy", "numba") else "fusedmlp"
    target = "fusedmlp.bench.backend_adapter:BackendAdapter"
    return Subject(f"{OWN_PREFIX}{backend}", target, library, threads, (backend,))


def is_own(name: str) -> bool:
    """Whether a subject's name is that of one of fusedmlp's backends."""
    return name.startswith(OWN_PREFIX)


def engine_name(subject: str) -> str:
    """Name of a subject for readers: a backend by its own name."""
    return subject.removeprefix(OWN_PREFIX)
