"""The loop over epochs: training, validation, history, stopping rule and callbacks.

It does not draw row orders, compute learning rates, decide when to stop or keep weights: the
functions in :class:`LoopSettings` do. chunks.py cuts an epoch into engine calls.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias

from fusedmlp.errors import DivergedError, FusedMLPError
from fusedmlp.training.history import EpochRecord, History
from fusedmlp.training.schedules import Span

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from fusedmlp.backend import BatchMetrics, Data
    from fusedmlp.training.callbacks import Callback
    from fusedmlp.training.chunks import EpochChunks
    from fusedmlp.types import Float64Vector, IntArray


@dataclass(frozen=True, slots=True)
class ValidationRows:
    """The rows that every epoch is validated on.

    Parameters
    ----------
    data
        A labelled data set that was staged on the engine.
    rows
        (n,) row numbers of ``data``; None for all of them.
    """

    data: Data
    rows: IntArray | None = None


@dataclass(frozen=True, slots=True)
class FinishedEpoch:
    """Argument of a stopping rule: the record of an epoch, and the metrics that it is made of."""

    record: EpochRecord
    training: BatchMetrics
    validation: BatchMetrics | None


RowOrder: TypeAlias = "Callable[[int], IntArray]"
"""Takes the number of an epoch, from 0; returns its row numbers in training order: (n,)."""

RateSource: TypeAlias = "Callable[[Span], Float64Vector]"
"""Takes a span of steps; returns the learning rate of each step: (n_steps,)."""

StoppingRule: TypeAlias = "Callable[[FinishedEpoch], str | None]"
"""Takes each finished epoch; returns the reason to stop, or None. It may keep the weights."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """What the loop needs beside the engine.

    Parameters
    ----------
    epochs
        Epochs in all, including those before a resume.
    rows
        Rows of one epoch.
    order, rates, stopping
        Row order, learning rates and stopping rule.
    validation
        None to train without validation.
    callbacks
        Run in this order.
    raise_if_diverged
        Raise :class:`DivergedError` where the loss of a batch is NaN or infinite. Otherwise the
        rest of that epoch is skipped and training continues.
    """

    epochs: int
    rows: int
    order: RowOrder
    rates: RateSource
    stopping: StoppingRule
    validation: ValidationRows | None = None
    callbacks: tuple[Callback, ...] = ()
    raise_if_diverged: bool = True


class TrainingLoop:
    """A training in progress; a :class:`fusedmlp.training.callbacks.TrainingView` for callbacks.

    A context manager: leaving it runs ``on_train_end`` of every callback, even if one raises. What
    must precede these calls, such as keeping the weights, belongs inside the context.

    Parameters
    ----------
    chunks
        Trains the engine on an epoch.
    history
        Records of the epochs before a resume; the loop appends to it.
    """

    def __init__(
        self, chunks: EpochChunks, settings: LoopSettings, history: History | None = None
    ) -> None:
        self.engine = chunks.engine
        self.history = History() if history is None else history
        self.rows = settings.rows
        self.steps_per_epoch = -(-settings.rows // self.engine.batch_size)
        self._chunks, self._settings = chunks, settings
        self._losses = [record.train_loss for record in self.history.records]

    @property
    def epochs(self) -> int:
        """Epochs in all, including those before a resume."""
        return self._settings.epochs

    @property
    def validated(self) -> bool:
        """Whether every epoch ends with a validation."""
        return self._settings.validation is not None

    @property
    def is_over(self) -> bool:
        """Whether no further epoch follows the finished ones."""
        return self.history.stopped is not None or len(self.history) >= self.epochs

    def stop(self, reason: str) -> None:
        """End the training after the current epoch."""
        self.history.stopped = reason

    def run(self) -> None:
        """Run the epochs that are left.

        Raises
        ------
        DivergedError
            A loss became NaN or infinite, and ``raise_if_diverged`` is set.
        KeyboardInterrupt
            Ctrl-C; ``history.stopped`` is ``interrupted``.
        """
        try:
            for callback in self._settings.callbacks:
                callback.on_train_begin(self)
            while not self.is_over:
                self._run_epoch(len(self.history))
        except KeyboardInterrupt:
            self.stop("interrupted")
            raise
        except FusedMLPError as error:
            self.stop(str(error))
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with ExitStack() as stack:
            for callback in reversed(self._settings.callbacks):
                stack.callback(callback.on_train_end, self)

    def _run_epoch(self, epoch: int) -> None:
        """Train and validate epoch ``epoch``, from 0; apply the stopping rule; run callbacks."""
        settings, steps = self._settings, self.steps_per_epoch
        order = settings.order(epoch)
        rates = settings.rates(Span(epoch * steps, steps, steps, settings.epochs, self._losses))
        start = time.perf_counter()
        training = self._chunks.train(order, rates, self._report_progress)
        seconds = time.perf_counter() - start
        bad = training.first_non_finite() if settings.raise_if_diverged else None
        if bad is not None:
            raise diverged("loss", epoch + 1, epoch * steps + bad + 1, float(rates[bad]))

        validation: BatchMetrics | None = None
        if settings.validation is not None:
            validation = self.engine.evaluate(settings.validation.data, settings.validation.rows)
        record = self._record(epoch + 1, float(rates[-1]), training, validation, seconds)
        self.history.records.append(record)
        self._losses.append(record.train_loss)
        reason = settings.stopping(FinishedEpoch(record, training, validation))
        if reason is not None:
            self.stop(reason)
        for callback in settings.callbacks:
            callback.on_epoch_end(self, record)

    def _record(
        self,
        epoch: int,
        lr: float,
        training: BatchMetrics,
        validation: BatchMetrics | None,
        seconds: float,
    ) -> EpochRecord:
        has_accuracy = not self.engine.network.predicts_values
        return EpochRecord(
            epoch=epoch,
            step=epoch * self.steps_per_epoch,
            lr=lr,
            train_loss=training.loss,
            train_accuracy=training.accuracy if has_accuracy else None,
            validation_loss=validation.loss if validation else None,
            validation_accuracy=validation.accuracy if validation and has_accuracy else None,
            seconds=seconds,
            samples_per_s=self.rows / seconds,
        )

    def _report_progress(self, rows: int) -> None:
        for callback in self._settings.callbacks:
            callback.on_progress(self, rows)


def diverged(what: str, epoch: int, step: int, lr: float) -> DivergedError:
    """Build the error for a loss or weights that are NaN or infinite; both numbers from 1."""
    return DivergedError(
        f"the {what} became NaN or infinite in epoch {epoch}, step {step} "
        f"(learning rate {lr:g}): lower the learning rate, or scale the inputs to about [0, 1]"
    )
