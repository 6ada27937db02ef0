"""Benchmark subjects: a backend, library or the multiply-add peak, on a number of threads.

Nothing that is measured is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from fusedmlp.bench import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fusedmlp.bench.tasks import Task

PEAK: Final = "fma-peak"
OWN_PREFIX: Final = "fusedmlp-"
NUMPY: Final = f"{OWN_PREFIX}numpy"
NUMBA: Final = f"{OWN_PREFIX}numba"


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
    only
        Names of the tasks that it takes part in; empty for all.
    variant
        The task it does in place of a task, so that the cost of one part shows beside it. The
        variant must have another name, since parity is checked against it.
    """

    name: str
    target: str
    library: str
    threads: int = 1
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    variant: Callable[[Task], Task] | None = None

    @property
    def label(self) -> str:
        """Name and threads, unique in a run."""
        return f"{self.name} ×{self.threads}"

    def takes(self, task: Task) -> bool:
        """Whether this subject takes part in a task."""
        return not self.only or task.name in self.only

    def task_for(self, task: Task) -> Task:
        """Return the task as this subject does it."""
        return self.variant(task) if self.variant else task

    def absence(self) -> str | None:
        """Say why it cannot take part here, or None."""
        if find_spec(self.library) is None:
            return f"{self.library} is not installed"
        return None


def backend_subject(backend: str) -> Subject:
    """Return the subject of a backend of any package, such as ``numba`` or ``cupy:1``."""
    library = backend if backend in ("numpy", "numba") else "fusedmlp"
    target = "fusedmlp.bench.backend_adapter:BackendAdapter"
    return Subject(f"{OWN_PREFIX}{backend}", target, library, arguments=(backend,))


PEAK_SUBJECT: Final = Subject(PEAK, "fusedmlp.bench.peak:Peak", "numba")


def is_own(name: str) -> bool:
    """Whether a subject's name is that of one of fusedmlp's backends."""
    return name.startswith(OWN_PREFIX)


def engine_name(subject: str) -> str:
    """Name of a subject for readers: a backend by its own name."""
    return subject.removeprefix(OWN_PREFIX)


def thread_counts() -> list[int]:
    """Return 1, 2, 4, … up to the physical cores."""
    most = machine.n_cores()
    counts = [1]
    while counts[-1] * 2 <= most:
        counts.append(counts[-1] * 2)
    return counts if counts[-1] == most else [*counts, most]
