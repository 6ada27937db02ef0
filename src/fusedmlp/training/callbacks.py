"""Callbacks: the interface through which other code observes a training, and two of its users.

The Rich progress bar is in the command line's package. An object of any subclass of
:class:`Callback` may be passed to the trainer or to an estimator; the trainer also takes functions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from fusedmlp.errors import InvalidInputError
from fusedmlp.training.functions import check_arguments, name_of

if TYPE_CHECKING:
    from os import PathLike

    from fusedmlp.backend import Engine
    from fusedmlp.training.history import EpochRecord, History


class TrainingView(Protocol):
    """A running training, as callbacks see it.

    Attributes
    ----------
    engine
        The engine that trains; callbacks may read it and must not change it.
    history
        Records of the finished epochs, including those before a resume.
    rows, steps_per_epoch
        Rows and steps of one epoch.
    """

    engine: Engine
    history: History
    rows: int
    steps_per_epoch: int

    @property
    def epochs(self) -> int:
        """Epochs in all, including those before a resume."""

    @property
    def validated(self) -> bool:
        """Whether every epoch ends with a validation."""

    def stop(self, reason: str) -> None:
        """End the training after the current epoch."""


class Callback:
    """Base class of callbacks; every method does nothing by default.

    A callback may read the training, ``run``, and call ``run.stop(reason)``. It must not change
    the state of the engine.
    """

    def on_train_begin(self, run: TrainingView) -> None:
        """Run before the first epoch, also of a resumed training."""

    def on_progress(self, run: TrainingView, rows: int) -> None:
        """Run a few times a second; ``rows`` of the current epoch have been trained on."""

    def on_epoch_end(self, run: TrainingView, record: EpochRecord) -> None:
        """Run after each epoch's validation; ``run.history`` already holds ``record``."""

    def on_train_end(self, run: TrainingView) -> None:
        """Run after the last epoch, also when training was stopped, interrupted or failed."""


EpochEnd: TypeAlias = "Callable[[TrainingView, EpochRecord], object]"
"""A function with the arguments of :meth:`Callback.on_epoch_end`; its result is not used."""


class AfterEpoch(Callback):
    """Call a function after each epoch."""

    def __init__(self, function: EpochEnd) -> None:
        check_arguments("callback", function, "the training", "the record of the epoch")
        self._function = function

    def __repr__(self) -> str:
        return f"AfterEpoch({name_of(self._function)})"

    def on_epoch_end(self, run: TrainingView, record: EpochRecord) -> None:
        """Call the function."""
        self._function(run, record)


def as_callbacks(callbacks: CallbacksLike) -> tuple[Callback, ...]:
    """Return callbacks, given one or several, each an object or a function.

    Raises
    ------
    InvalidInputError
        One is neither.
    """
    if callbacks is None:
        return ()
    several = callbacks if isinstance(callbacks, Iterable) else (callbacks,)
    return tuple(map(_as_callback, several))


def _as_callback(callback: Callback | EpochEnd) -> Callback:
    if isinstance(callback, Callback):
        return callback
    if callable(callback) and not isinstance(callback, type):
        return AfterEpoch(callback)
    raise InvalidInputError(
        f"callbacks has {callback!r:.80}: give objects of subclasses of fusedmlp.Callback, or "
        "functions that take the training and the record of an epoch"
    )


CallbacksLike: TypeAlias = "Callback | EpochEnd | Iterable[Callback | EpochEnd] | None"
"""One callback or several; see :func:`as_callbacks`."""


class HistoryWriter(Callback):
    """Keep ``history.csv`` and ``history.jsonl`` in a folder up to date.

    Parameters
    ----------
    folder
        Where the two files are written.
    every_seconds
        Least time between two writes; the last epoch is always written.
    """

    def __init__(self, folder: str | PathLike[str], every_seconds: float = 1.0) -> None:
        self.folder = Path(folder)
        self.every_seconds = every_seconds
        self._written = -float("inf")

    def __repr__(self) -> str:
        return f"HistoryWriter({str(self.folder)!r})"

    def on_epoch_end(self, run: TrainingView, record: EpochRecord) -> None:
        """Write if the last write is long enough ago."""
        if time.monotonic() - self._written >= self.every_seconds:
            run.history.save(self.folder)
            self._written = time.monotonic()

    def on_train_end(self, run: TrainingView) -> None:
        """Write the final state."""
        run.history.save(self.folder)


class EpochPrinter(Callback):
    """Print each epoch as one plain line, for logs and screens without cursor control.

    Parameters
    ----------
    write
        Function that takes a line without its line break.
    """

    def __init__(self, write: Callable[[str], None] = print) -> None:
        self._write = write

    def on_epoch_end(self, run: TrainingView, record: EpochRecord) -> None:
        """Print the epoch's line."""
        parts = [f"epoch {record.epoch}/{run.epochs}", f"loss {_loss_text(record.train_loss)}"]
        if record.train_accuracy is not None:
            parts.append(f"accuracy {record.train_accuracy:.4f}")
        if record.validation_loss is not None:
            parts.append(f"validation loss {_loss_text(record.validation_loss)}")
        if record.validation_accuracy is not None:
            parts.append(f"validation accuracy {record.validation_accuracy:.4f}")
        parts.append(f"{record.samples_per_s:,.0f} samples/s")
        self._write("  ".join(parts))


def _loss_text(value: float) -> str:
    """Return a loss with four decimals, or with an exponent where it has many digits."""
    return f"{value:.4f}" if value < 1e6 else f"{value:.4e}"
