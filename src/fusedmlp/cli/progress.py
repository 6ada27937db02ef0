"""Progress of a training on stderr: a bar and a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.progress import BarColumn, Progress, TextColumn

from fusedmlp.cli.console import is_narrow, note
from fusedmlp.training.callbacks import Callback, EpochPrinter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from fusedmlp.training.callbacks import TrainingView
    from fusedmlp.training.history import EpochRecord

ALL_EPOCHS_UP_TO: Final = 50
"""Of longer trainings only some epochs are shown."""

SHOWN_EPOCHS: Final = 20
"""Approximate number of epochs that are shown of a longer training."""


@contextmanager
def progress_view(console: Console) -> Iterator[Callback]:
    """Yield the callback that suits ``console``; leave the terminal in order after an error."""
    if console.is_terminal and not console.is_dumb_terminal and not is_narrow(console):
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[rows]}"),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            expand=True,
        )
        with bar:
            yield TrainingTable(bar)
    else:
        yield TrainingLines(console)


def is_shown(epoch: int, epochs: int) -> bool:
    """Tell whether an epoch, from 1, gets a line."""
    if epochs <= ALL_EPOCHS_UP_TO or epoch in (1, epochs):
        return True
    return epoch % -(-epochs // SHOWN_EPOCHS) == 0


class TrainingLines(Callback):
    """One plain line for each epoch."""

    def __init__(self, console: Console) -> None:
        self._printer = EpochPrinter(lambda line: note(line, console))

    def on_epoch_end(self, run: TrainingView, record: EpochRecord) -> None:
        """Print the line of an epoch that is shown."""
        if is_shown(record.epoch, run.epochs):
            self._printer.on_epoch_end(run, record)


class TrainingTable(Callback):
    """A table with a line for each epoch, above a bar of the running epoch's rows."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("preparing; the first run compiles", total=None, rows="", left="")
        self._began = 0.0
        self._epochs_before = 0

    def on_train_begin(self, run: TrainingView) -> None:
        """Print the table's head and start the bar."""
        self._began, self._epochs_before = time.monotonic(), len(run.history)
        if self._epochs_before < run.epochs:
            for line in _head(run):
                self._print(line)
            self._update(run, 0)

    def on_progress(self, run: TrainingView, rows: int) -> None:
        """Move the bar."""
        self._update(run, rows)

    def on_epoch_end(self, run: TrainingView, record: EpochRecord) -> None:
        """Add the epoch to the table."""
        if is_shown(record.epoch, run.epochs):
            self._print(_line(run, record))
        self._update(run, 0)

    def _print(self, line: str) -> None:
        self._bar.console.print(line, soft_wrap=True)

    def _update(self, run: TrainingView, rows: int) -> None:
        epochs, finished = run.epochs, len(run.history)
        share_done = finished - self._epochs_before + rows / run.rows
        left = ""
        if share_done > 0:
            share_left = max(0.0, epochs - self._epochs_before - share_done)
            seconds = (time.monotonic() - self._began) / share_done * share_left
            left = f"{duration(seconds)} left"
        self._bar.update(
            self._task,
            description=f"epoch {min(finished + 1, epochs)}/{epochs}",
            total=run.rows,
            completed=rows,
            rows=f"{rows:,}/{run.rows:,} rows",
            left=left,
        )


def _head(run: TrainingView) -> tuple[str, str]:
    has_accuracy = not run.engine.network.predicts_values
    names = f"{'loss':>10}" + (f"{'accuracy':>10}" if has_accuracy else "")
    width = len(names)
    groups, columns = f"{'':9}{'training':>{width}}", f"{'epoch':>9}{names}"
    if run.validated:
        groups += f"{'validation':>{width + 2}}"
        columns += f"  {names}"
    return groups, f"{columns}{'samples/s':>13}"


def _line(run: TrainingView, record: EpochRecord) -> str:
    def pair(loss: float, accuracy: float | None) -> str:
        return f"{loss_text(loss):>10}" + ("" if accuracy is None else f"{accuracy:>10.4f}")

    epoch = f"{record.epoch}/{run.epochs}"
    line = f"{epoch:>9}{pair(record.train_loss, record.train_accuracy)}"
    if record.validation_loss is not None:
        line += f"  {pair(record.validation_loss, record.validation_accuracy)}"
    return f"{line}{record.samples_per_s:>13,.0f}"


def loss_text(loss: float) -> str:
    """Write a loss with four decimals, or its magnitude alone where it is huge."""
    return f"{loss:.4f}" if loss < 1e4 else f"{loss:.2e}"


def duration(seconds: float) -> str:
    """Write a time span: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
