"""The record of each epoch, and its forms: CSV, JSON Lines, a table in notebooks."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING

from fusedmlp.html_table import html_table
from fusedmlp.io.atomic import write_atomically
from fusedmlp.wording import counted

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

    def __repr__(self) -> str:
        """Write the fields in one line; rounded, and without those that are None."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return f"EpochRecord({', '.join(f'{n}={_cell(v)}' for n, v in values if v is not None)})"


COLUMNS = tuple(f.name for f in fields(EpochRecord))

OPTIONAL_COLUMNS = ("train_accuracy", "validation_loss", "validation_accuracy")
"""Fields that may be None."""

_SHOWN_EPOCHS = 10
"""Epochs in the table of a notebook."""


def _cell(value: float | None) -> str:
    """Write a field with four digits, or with all before the point where these are up to nine."""
    if value is None:
        return ""
    is_whole = isinstance(value, int) or 1e3 <= abs(value) < 1e9
    return f"{value:.0f}" if is_whole else f"{value:.4g}"


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

    def __repr__(self) -> str:
        """Describe the training in one line: epochs, the last losses, and how it ended."""
        parts = [counted(len(self), "epoch")]
        if self.records:
            parts.append(f"training loss {self.last.train_loss:.5g}")
            if self.last.validation_loss is not None:
                parts.append(f"validation loss {self.last.validation_loss:.5g}")
        return f"History({', '.join([*parts, *self._end()])})"

    def _repr_html_(self) -> str:
        """Return what notebooks show: a table of the last epochs."""
        shown = self.records[-_SHOWN_EPOCHS:]
        hidden = len(self) - len(shown)
        last = [f"the last {len(shown)} are shown"] if hidden else []
        title = f"History: {', '.join([counted(len(self), 'epoch'), *last, *self._end()])}"
        if not shown:
            return html_table(title, COLUMNS, ())
        names = [name for name in COLUMNS if any(v is not None for v in self.column(name))]
        rows = ([_cell(getattr(record, name)) for name in names] for record in shown)
        return html_table(title, [name.replace("_", " ") for name in names], rows)

    def _end(self) -> list[str]:
        best = [] if self.best_epoch is None else [f"best epoch {self.best_epoch}"]
        return best if self.stopped is None else [*best, f"stopped: {self.stopped}"]

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
