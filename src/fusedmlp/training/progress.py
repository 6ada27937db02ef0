"""Progress of a training, for people: in notebooks, on terminals and in plain text.

:class:`ProgressBar` chooses among the three views below it. The command line chooses itself,
because its view begins before the engine is compiled. What a training computes is not changed.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

from fusedmlp.training.callbacks import Callback, EpochPrinter

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.progress import Progress

    from fusedmlp.training.callbacks import TrainingView
    from fusedmlp.training.history import EpochRecord

ALL_EPOCHS_UP_TO: Final = 50
"""Of longer trainings only some epochs are shown."""

SHOWN_EPOCHS: Final = 20
"""Approximate number of epochs that are shown of a longer training."""

TABLE_WIDTH: Final = 64
"""Columns of the table with validation."""

_NOTEBOOK_SECONDS: Final = 0.2
"""Least time between two updates of a notebook, which draws the whole output anew each time."""


class ProgressBar(Callback):
    """Show the progress of a training where it runs.

    In a notebook it is a bar with a table of the last epochs, which stay in the saved notebook; on
    a terminal a bar below a line for each epoch; elsewhere plain lines. Nothing has to be
    installed for it. Bars and lines go to stderr. Pass it to the trainer or to an estimator::

        Trainer("adam", epochs=20, callbacks=ProgressBar()).fit(mlp, x, y)
    """

    def __init__(self) -> None:
        self._view = Callback()
        self._bar: Progress | None = None

    def __repr__(self) -> str:
        return "ProgressBar()"

    def on_train_begin(self, run: TrainingView) -> None:
        """Choose the view and show it."""
        from rich.console import Console

        console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        if console.is_jupyter:
            self._view = NotebookTable()
        elif fits_table(console):
            self._bar = rich_bar(console)
            self._bar.start()
            self._view = TrainingTable(self._bar)
        else:
            self._view = TrainingLines(lambda line: print(line, file=sys.stderr))
        self._view.on_train_begin(run)

    def on_progress(self, run: TrainingView, rows: int) -> None:
        """Move the bar."""
        self._view.on_progress(run, rows)

    def on_epoch_end(self, run: TrainingView, record: EpochRecord) -> None:
        """Add the epoch."""
        self._view.on_epoch_end(run, record)

    def on_train_end(self, run: TrainingView) -> None:
        """Leave the table and remove the bar."""
        self._view.on_train_end(run)
        if self._bar is not None:
            self._bar.stop()
        self._view, self._bar = Callback(), None


class TrainingLines(Callback):
    """One plain line for each epoch that is shown.

    Parameters
    ----------
    write
        Function that takes a line without its line break.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._printer = EpochPrinter(write)

    def on_epoch_end(self, run: TrainingView, record: EpochRecord) -> None:
        """Print the line of an epoch that is shown."""
        if is_shown(record.epoch, run.epochs):
            self._printer.on_epoch_end(run, record)


class TrainingTable(Callback):
    """A table with a line for each epoch, above a bar of the running epoch's rows."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("preparing; the first run compiles", total=None, rows="", left="")
        self._pace = _Pace()

    def on_train_begin(self, run: TrainingView) -> None:
        """Print the table's head and start the bar."""
        self._pace.begin(run)
        if len(run.history) < run.epochs:
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
        self._bar.update(
            self._task,
            description=_epoch_text(run),
            total=run.rows,
            completed=rows,
            rows=f"{rows:,}/{run.rows:,} rows",
            left=self._pace.left(run, rows),
        )


class NotebookTable(Callback):
    """A bar above the table of the last epochs: one output of a cell, drawn anew in place.

    It needs IPython alone, which every notebook has, and no widgets: these are lost when a notebook
    is saved.
    """

    def __init__(self) -> None:
        self._pace = _Pace()
        self._show: Callable[[object], None] | None = None
        self._shown_at = -float("inf")

    def on_train_begin(self, run: TrainingView) -> None:
        """Show an output."""
        self._pace.begin(run)
        self._draw(run, _bar_html(run, 0, ""))

    def on_progress(self, run: TrainingView, rows: int) -> None:
        """Move the bar."""
        if time.monotonic() - self._shown_at >= _NOTEBOOK_SECONDS:
            self._draw(run, _bar_html(run, rows, self._pace.left(run, rows)))

    def on_epoch_end(self, run: TrainingView, record: EpochRecord) -> None:
        """Add the epoch to the table."""
        self.on_progress(run, 0)

    def on_train_end(self, run: TrainingView) -> None:
        """Leave the table alone."""
        self._draw(run, "")

    def _draw(self, run: TrainingView, bar: str) -> None:
        from IPython.display import HTML, display

        content = HTML(bar + run.history._repr_html_())
        if self._show is None:
            handle = display(content, display_id=True)
            self._show = handle.update
        else:
            self._show(content)
        self._shown_at = time.monotonic()


class _Pace:
    """The time that the rest of a training takes, at the pace of its past."""

    def __init__(self) -> None:
        self._began, self._epochs_before = 0.0, 0

    def begin(self, run: TrainingView) -> None:
        self._began, self._epochs_before = time.monotonic(), len(run.history)

    def left(self, run: TrainingView, rows: int) -> str:
        """Return ``12 s left``; nothing before the first rows are done."""
        share_done = len(run.history) - self._epochs_before + rows / run.rows
        if share_done <= 0:
            return ""
        share_left = max(0.0, run.epochs - self._epochs_before - share_done)
        seconds = (time.monotonic() - self._began) / share_done * share_left
        return f"{duration(seconds)} left"


def rich_bar(console: Console) -> Progress:
    """Return the bar of :class:`TrainingTable`, which is not started."""
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[rows]}"),
        TextColumn("{task.fields[left]}"),
        console=console,
        transient=True,
        expand=True,
    )


def fits_table(console: Console) -> bool:
    """Tell whether a terminal can show :class:`TrainingTable`."""
    is_plain = console.is_dumb_terminal or not console.is_terminal
    return not is_plain and console.width >= TABLE_WIDTH


def is_shown(epoch: int, epochs: int) -> bool:
    """Tell whether an epoch, from 1, gets a line."""
    if epochs <= ALL_EPOCHS_UP_TO or epoch in (1, epochs):
        return True
    return epoch % -(-epochs // SHOWN_EPOCHS) == 0


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


def _epoch_text(run: TrainingView) -> str:
    return f"epoch {min(len(run.history) + 1, run.epochs)}/{run.epochs}"


def _bar_html(run: TrainingView, rows: int, left: str) -> str:
    """Return a bar over all epochs with its text."""
    done, whole = len(run.history) * run.rows + rows, run.epochs * run.rows
    text = ", ".join(filter(None, (_epoch_text(run), f"{rows:,}/{run.rows:,} rows", left)))
    return f'<progress value="{done}" max="{whole}"></progress> {text}'


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
