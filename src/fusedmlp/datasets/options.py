"""How a user's own data are read: the target, the task, the test part, the scaling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusedmlp.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fusedmlp.datasets.dataset import Task
    from fusedmlp.datasets.targets import TargetCoding
    from fusedmlp.preprocessing import Preprocessing, Scale


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a trained model expects of the data that it is applied to.

    Parameters
    ----------
    preprocessing
        Of its training rows; None for inputs that stay as they are.
    target
        Of its target.
    """

    preprocessing: Preprocessing | None
    target: TargetCoding


@dataclass(frozen=True, slots=True)
class TableOptions:
    """How a file of the user is read.

    Parameters
    ----------
    target
        ``.csv``: name or number of the target column; None for the last one.
    task
        Overrules the task that the targets suggest.
    test
        Share of the rows in [0, 1) to test on, or a file with the same columns. None for a fifth of
        a table that has no test part.
    scale
        Scaling of a table's columns, fitted on the training rows; None for ``standard``.
    drop
        ``.csv``: names or numbers of columns to leave out.
    seed
        Of the split.
    fitted
        Applied in place of fitting.
    report
        Receives a line of text about each decision.
    """

    target: str | int | None = None
    task: Task | None = None
    test: float | str | Path | None = None
    scale: Scale | None = None
    drop: tuple[str | int, ...] = ()
    seed: int = 0
    fitted: Fitted | None = None
    report: Callable[[str], None] = lambda _line: None

    def __post_init__(self) -> None:
        """Check the share."""
        if isinstance(self.test, float | int) and not 0.0 <= self.test < 1.0:
            raise InvalidInputError(
                f"test {self.test:g} is not a share in [0, 1): give a share or a file"
            )


DEFAULTS = TableOptions()

AS_STORED = TableOptions(scale="none", test=0.0)
"""The rows of a file as they are."""
