"""The record of each epoch, and its CSV and JSON Lines forms."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING

from fusedmlp.io.atomic import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One finished epoch.

    Parameters
    ----------
    epoch
        From 1.
    step
        Steps taken since training began.
    lr
        Learning rate of the epoch's last step.
    train_loss, train_accuracy
        Means over the epoch's batches as they were trained on (dropout included, the L2 penalty
        not). Accuracies are None for real targets.
    validation_loss, validation_accuracy
        Means over the validation rows after the epoch; None without validation rows.
    seconds
        Training time, without validation.
    samples_per_s
        Rows trained on per second of ``seconds``.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    train_accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float
    samples_per_s: float


COLUMNS = tuple(f.name for f in fields(EpochRecord))

OPTIONAL_COLUMNS = ("train_accuracy", "validation_loss", "validation_accuracy")
"""Fields that may be None."""


@dataclass
class History:
    """The records of a training.

    Parameters
    ----------
    records
        One for each finished epoch, oldest first.
    best_epoch
        Epoch whose weights the model holds, where early stopping restored them; else None.
    stopped
        Why training ended before its last epoch; None where it did not.
    """

    records: list[EpochRecord] = field(default_factory=list)
    best_epoch: int | None = None
    stopped: str | None = None

    def __len__(self) -> int:
        return len(self.records)

    @property
    def last(self) -> EpochRecord:
        """The newest record."""
        return self.records[-1]

    def column(self, name: str) -> list[float | None]:
        """Return one field of every record, such as ``validation_loss``."""
        return [getattr(record, name) for record in self.records]

    def to_csv(self) -> str:
        """Return a header line and a line for each epoch; an absent value is an empty cell."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(record) for record in self.records)
        return text.getvalue()

    def to_jsonl(self) -> str:
        """Return one JSON object and line for each epoch."""
        return "".join(json.dumps(asdict(record)) + "\n" for record in self.records)

    def plot(self) -> Figure:
        """Draw the curves of loss and accuracy; see :func:`fusedmlp.plot.history`."""
        from fusedmlp import plot

        return plot.history(self)

    def save(self, folder: Path) -> None:
        """Write ``history.csv`` and ``history.jsonl`` into ``folder``.

        Raises
        ------
        StorageError
            The folder cannot be written.
        """
        write_atomically(folder / "history.csv", self.to_csv().encode())
        write_atomically(folder / "history.jsonl", self.to_jsonl().encode())
