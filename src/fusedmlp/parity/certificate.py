"""The parity certificate: the results of every comparison in one document, and the verdict.

The comparisons are in checks.py, finite_differences.py, trajectories.py, accuracies.py and
fingerprints.py. page.py and the command line present the certificate.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fusedmlp.errors import InvalidInputError
from fusedmlp.model import DTYPES
from fusedmlp.parity.accuracies import Accuracy, accuracies
from fusedmlp.parity.checks import comparisons
from fusedmlp.parity.fingerprints import (
    Fingerprint,
    fingerprints,
    strict_fingerprints,
    unequal,
)
from fusedmlp.parity.finite_differences import GradientCheck, gradient_checks
from fusedmlp.parity.trajectories import Trajectory, trajectories
from fusedmlp.registry import create
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedmlp.backend import Backend
    from fusedmlp.datasets import Dataset
    from fusedmlp.parity.comparison import Comparison, Finding
    from fusedmlp.registry import Selection
    from fusedmlp.types import FloatDtype

KIND: Final = "fusedmlp-parity"
VERSION: Final = 1


@dataclass(slots=True)
class Certificate:
    """The results of all comparisons.

    Parameters
    ----------
    devices
        Device of each backend, by name; the first backend is the reference.
    dataset
        Name of the training data, and its number of rows.
    """

    devices: dict[str, str]
    dataset: str
    seed: int
    comparisons: list[Comparison] = field(default_factory=list)
    gradient_checks: list[GradientCheck] = field(default_factory=list)
    trajectories: list[Trajectory] = field(default_factory=list)
    accuracies: list[Accuracy] = field(default_factory=list)
    fingerprints: list[Fingerprint] = field(default_factory=list)

    @property
    def reference(self) -> str:
        """Name of the backend that the others are compared with."""
        return next(iter(self.devices))

    @property
    def is_met(self) -> bool:
        """Whether every bound is met."""
        return not self.breaches()

    def breaches(self) -> list[str]:
        """Describe what is outside its bound, one line each, in the order of the certificate."""
        findings: list[Finding] = [
            *self.comparisons,
            *self.gradient_checks,
            *self.trajectories,
            *self.accuracies,
        ]
        return [each.describe() for each in findings if not each.is_met] + unequal(
            self.fingerprints
        )

    def document(self) -> dict[str, object]:
        """Plain data for JSON, without the environment."""
        return {
            "kind": KIND,
            "version": VERSION,
            "met": self.is_met,
            "breaches": self.breaches(),
            "reference": self.reference,
            "devices": self.devices,
            "dataset": self.dataset,
            "seed": self.seed,
            "comparisons": [each.document() for each in self.comparisons],
            "gradient_checks": [each.document() for each in self.gradient_checks],
            "trajectories": [each.document() for each in self.trajectories],
            "accuracies": [each.document() for each in self.accuracies],
            "fingerprints": [each.document() for each in self.fingerprints],
        }


def certify(
    selections: Sequence[Selection],
    dataset: Dataset,
    *,
    seed: int = 0,
    dtypes: tuple[FloatDtype, ...] = DTYPES,
    report: Callable[[str], None] | None = None,
) -> Certificate:
    """Compare backends with each other, and each with itself.

    Parameters
    ----------
    selections
        At least two; the first is the reference.
    dataset
        Training data of trajectories, accuracies and fingerprints: classes or labels.
    report
        Receives a line of text before each step; None for no progress lines.

    Raises
    ------
    InvalidInputError
        Fewer than two backends, one twice, or a data set of real targets.
    BackendUnavailableError
        A backend cannot be used here.
    """
    names = [str(selection) for selection in selections]
    if len(names) < 2:
        raise InvalidInputError(
            f"parity is between backends, and {', '.join(names) or 'none'} is fewer than two: "
            "name at least two, such as numpy,numba"
        )
    if len(set(names)) < len(names):
        raise InvalidInputError(f"{', '.join(names)} names a backend twice: name each once")
    if dataset.task == "regression":
        raise InvalidInputError(
            f"{dataset.name} has real targets: name a data set with classes, such as digits"
        )
    backends: dict[str, Backend] = {
        name: create(selection) for name, selection in zip(names, selections, strict=True)
    }
    devices = {name: str(backend.device()) for name, backend in backends.items()}
    report = report or (lambda _line: None)
    rows = f"{counted(len(dataset.x_train), 'row')} to train on"
    found = Certificate(devices, f"{dataset.name}, {rows}", seed)

    report("operations, one by one, on random numbers")
    for group in comparisons(backends, dtypes):
        found.comparisons += group
    report("gradients against finite differences")
    for name, backend in backends.items():
        found.gradient_checks += gradient_checks(name, backend)
    report(f"trajectories on {dataset.name}, step by step")
    found.trajectories += trajectories(backends, dataset, dtypes, seed)
    report(f"trainings on {dataset.name}, to the end")
    found.accuracies += accuracies(backends, dataset, "float32", seed)
    report("hashes of trainings, run after run, thread count after thread count")
    found.fingerprints += fingerprints(selections, thread_counts(), dataset, dtypes, seed)
    report("hashes of trainings in strict mode")
    found.fingerprints += strict_fingerprints(selections, dataset, dtypes, seed)
    return found


def thread_counts() -> list[int]:
    """Return 1, 2 and the number of threads that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return sorted({1, min(2, usable or 1), usable or 1})
