"""Watching and steering a training from outside: the base class and the callbacks we ship.

The Rich progress bar is in the command line's package; any object of this class may be passed to
the trainer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fusedmlp.backend import Engine
    from fusedmlp.training.history import EpochRecord, History


class TrainingView(Protocol):
    """A training under way, as callbacks see it: a trainer's, or the fit of an estimator.

    A trainer's is a :class:`fusedmlp.training.loop.TrainingLoop`, which has more to read.
    """

    engine: Engine
    history: History
    rows: int
    steps_per_epoch: int

    @property
    def epochs(self) -> int:
        """Epochs in all."""

    @property
    def validated(self) -> bool:
        """Whether there are rows to validate on after each epoch."""

    def stop(self, reason: str) -> None:
        """End the training after the running epoch."""


class Callback:
    """Override what you need; every method does nothing by default.

    A callback may read everything of the training, ``run``, and may call its ``stop(reason)``.
    It must not change the engine's state.
    """

    def on_train_begin(self, run: TrainingView) -> None:
        """Before the first epoch, also of a resumed training."""

    def on_progress(self, run: TrainingView, rows: int) -> None:
        """Hear a few times a second that ``rows`` of the running epoch have been trained on."""

    def on_epoch_end(self, run: TrainingView, record: EpochRecord) -> None:
        """After each epoch's validation; ``run.history`` already holds ``record``."""

    def on_train_end(self, run: TrainingView) -> None:
        """After the last epoch, also when training was stopped, interrupted or failed."""


class HistoryWriter(Callback):
    """Keep ``history.csv`` and ``history.jsonl`` in a folder up to date.

    Parameters
    ----------
    folder
        Where the two files go.
    every_seconds
        Least time between two writes; the last epoch is always written.
    """

    def __init__(self, folder: Path, every_seconds: float = 1.0) -> None:
        self.folder = folder
        self.every_seconds = every_seconds
        self._written = -float("inf")

    def on_epoch_end(self, run: TrainingView, record: EpochRecord) -> None:
        """Write when it is time."""
        if time.monotonic() - self._written >= self.every_seconds:
            run.history.save(self.folder)
            self._written = time.monotonic()

    def on_train_end(self, run: TrainingView) -> None:
        """Write the final state."""
        run.history.save(self.folder)


class EpochPrinter(Callback):
    """Report each epoch as one plain line, for logs and screens without cursor control.

    Parameters
    ----------
    write
        Takes a line without its line break.
    """

    def __init__(self, write: Callable[[str], None] = print) -> None:
        self._write = write

    def on_epoch_end(self, run: TrainingView, record: EpochRecord) -> None:
        """Print the epoch's line."""
        parts = [f"epoch {record.epoch}/{run.epochs}", f"loss {_loss(record.train_loss)}"]
        if record.train_accuracy is not None:
            parts.append(f"accuracy {record.train_accuracy:.4f}")
        if record.validation_loss is not None:
            parts.append(f"validation loss {_loss(record.validation_loss)}")
        if record.validation_accuracy is not None:
            parts.append(f"validation accuracy {record.validation_accuracy:.4f}")
        parts.append(f"{record.samples_per_s:,.0f} samples/s")
        self._write("  ".join(parts))


def _loss(value: float) -> str:
    """Four decimals, or powers of ten where those would be a line of digits."""
    return f"{value:.4f}" if value < 1e6 else f"{value:.4e}"
