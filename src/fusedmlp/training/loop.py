"""One training: the loop over epochs, and what must hold whenever and however it ends.

Settings and their checks are in trainer.py, how an epoch is cut into calls of the engine in
chunks.py.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.backend import Data, State
from fusedmlp.errors import DivergedError, FusedMLPError, InvalidInputError
from fusedmlp.interop import count_rows
from fusedmlp.io.atomic import check_writable
from fusedmlp.network import zeros
from fusedmlp.seeding import shuffled, validation_split
from fusedmlp.training.checkpoint import (
    Checkpoint,
    check_settings,
    fingerprint,
    load_checkpoint,
    save_checkpoint,
)
from fusedmlp.training.chunks import EpochChunks
from fusedmlp.training.history import EpochRecord, History
from fusedmlp.training.schedules import Span

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from fusedmlp.model import MLP
    from fusedmlp.network import Parameters
    from fusedmlp.training.callbacks import Callback
    from fusedmlp.training.trainer import Trainer
    from fusedmlp.types import Inputs, IntArray


@dataclass(frozen=True, slots=True)
class _Finished:
    """The state after the last finished epoch, replaced as one so that Ctrl-C cannot split it."""

    epochs: int
    state: State
    best: Parameters | None
    best_epoch: int | None


class TrainingLoop:
    """A training under way, as callbacks see it.

    Attributes
    ----------
    mlp, trainer
        What is trained, and the settings.
    selection, device
        The backend that was chosen, and what it runs on.
    engine
        The engine; callbacks may read it.
    epochs, rows, steps_per_epoch
        Epochs in all, and rows and steps of one epoch.
    history
        Records of the finished epochs, resumed ones included.
    """

    def __init__(
        self,
        mlp: MLP,
        trainer: Trainer,
        x: Inputs,
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None,
        validation_data: tuple[Inputs, npt.ArrayLike] | None,
        resume: Path | None,
    ) -> None:
        self.mlp = mlp
        self.trainer = trainer
        self.history = History()
        self._losses: list[float] = []
        if trainer.checkpoint is not None:
            check_writable(trainer.checkpoint.parent)

        self.selection, backend = mlp.select_backend(trainer.batch_size, count_rows(x))
        self.device = backend.device()
        self._strict = backend.strict
        self.engine = backend.compile(
            mlp.network,
            trainer.optimizer,
            trainer.objective,
            batch_size=trainer.batch_size,
            dtype=mlp.dtype,
            seed=mlp.seed,
        )
        self._data = self.engine.stage(x, y, sample_weight)
        if not self._data.labelled:
            raise InvalidInputError("training needs targets: y is None")
        self._train_rows, held_out = validation_split(self._data.rows, trainer.validation, mlp.seed)
        self._validation: tuple[Data, IntArray | None] | None = None
        if validation_data is not None:
            self._validation = self.engine.stage(*validation_data), None
        elif held_out.size:
            self._validation = self._data, held_out

        self.rows = min(len(self._train_rows), trainer.rows_per_epoch or len(self._train_rows))
        if trainer.batch_size > self.rows:
            raise InvalidInputError(
                f"batch size {trainer.batch_size} is larger than the {self.rows} rows of an "
                f"epoch: use at most {self.rows}"
            )
        self.steps_per_epoch = -(-self.rows // trainer.batch_size)
        self._slices = EpochChunks(self.engine, self._data)
        self._stop_reason: str | None = None
        self._saved_at, self._saved_epochs = time.monotonic(), 0
        self._settings = self._bit_deciding_settings(x, y, sample_weight)
        self._finished = self._start(resume)

    @property
    def epochs(self) -> int:
        """Epochs in all, those before a resume included."""
        return self.trainer.epochs

    @property
    def validated(self) -> bool:
        """Whether there are rows to validate on after each epoch."""
        return self._validation is not None

    def stop(self, reason: str) -> None:
        """End the training after the running epoch."""
        self._stop_reason = reason

    def train(self) -> History:
        """Run the epochs that are left; see :meth:`fusedmlp.training.trainer.Trainer.fit`."""
        try:
            for callback in self.trainer.callbacks:
                callback.on_train_begin(self)
            while self._finished.epochs < self.trainer.epochs and self._stop_reason is None:
                self._epoch()
            self.history.stopped = self._stop_reason
        except KeyboardInterrupt:
            self.history.stopped = "interrupted"
            raise
        except FusedMLPError as error:
            self.history.stopped = str(error)
            raise
        finally:
            self._finish()
        return self.history

    def _start(self, resume: Path | None) -> _Finished:
        """Load the engine with the model's parameters or a checkpoint's state."""
        optimizer, network = self.trainer.optimizer, self.mlp.network
        if resume is None:
            slots = tuple(zeros(network, self.mlp.dtype) for _ in optimizer.slots)
            state = State(self.mlp.parameters, slots, 0)
            self.engine.load(state)
            return _Finished(0, state, None, None)
        checkpoint = load_checkpoint(resume)
        if checkpoint.network != network:
            raise InvalidInputError(f"{resume} is of {checkpoint.network}, the model is {network}")
        check_settings(resume, checkpoint, self._settings)
        self.engine.load(checkpoint.state)
        self.history.records.extend(checkpoint.history.records)
        self._losses.extend(record.train_loss for record in self.history.records)
        n_epochs = len(self.history)
        return _Finished(n_epochs, checkpoint.state, checkpoint.best, self._best_epoch())

    def _epoch(self) -> None:
        epoch = self._finished.epochs
        order = self._train_rows
        if self.trainer.shuffle:
            order = shuffled(order, self.mlp.seed, epoch)
        order = order[: self.rows]
        lrs = self.trainer.schedule.rates(
            self.trainer.optimizer.lr,
            Span(
                epoch * self.steps_per_epoch,
                self.steps_per_epoch,
                self.steps_per_epoch,
                self.trainer.epochs,
                self._losses,
            ),
        )
        began = time.perf_counter()
        sums = self._slices.train(order, lrs, self._tell_rows)
        seconds = time.perf_counter() - began
        bad = sums.first_non_finite()
        if bad is not None:
            first = epoch * self.steps_per_epoch + 1
            raise self._diverged(epoch, first + bad, float(lrs[bad]), "loss")

        held_out = None
        if self._validation is not None:
            held_out = self.mlp.metrics(self.engine.evaluate(*self._validation))
        trained = self.mlp.metrics(sums)
        record = EpochRecord(
            epoch=epoch + 1,
            step=(epoch + 1) * self.steps_per_epoch,
            lr=float(lrs[-1]),
            train_loss=trained.loss,
            train_accuracy=trained.accuracy,
            validation_loss=held_out.loss if held_out else None,
            validation_accuracy=held_out.accuracy if held_out else None,
            seconds=seconds,
            samples_per_s=self.rows / seconds,
        )
        self._conclude_epoch(record)

    def _tell_rows(self, rows: int) -> None:
        for callback in self.trainer.callbacks:
            callback.on_progress(self, rows)

    def _conclude_epoch(self, record: EpochRecord) -> None:
        """Make the epoch the last finished one, then stop, save and report as asked."""
        state = self.engine.state()
        if not all(np.isfinite(array).all() for array in state.parameters):
            raise self._diverged(record.epoch - 1, record.step, record.lr, "weights")
        self.history.records.append(record)
        self._losses.append(record.train_loss)
        best_epoch = self._best_epoch()
        best = state.parameters if best_epoch == record.epoch else self._finished.best
        self._finished = _Finished(record.epoch, state, best, best_epoch)
        self._save_checkpoint(last=record.epoch == self.trainer.epochs)
        for callback in self.trainer.callbacks:
            callback.on_epoch_end(self, record)

    def _finish(self) -> None:
        """Give the model the last finished (or best) weights, whatever ended the training."""
        finished = self._finished
        del self.history.records[finished.epochs :]
        stopping = self.trainer.early_stopping
        if stopping is not None and stopping.restore_best and finished.best is not None:
            self.mlp.parameters = finished.best
            self.history.best_epoch = finished.best_epoch
        else:
            self.mlp.parameters = finished.state.parameters
        self.mlp.history = self.history
        try:
            self._save_checkpoint(last=True)
        finally:
            self._tell_the_end(self.trainer.callbacks)

    def _tell_the_end(self, callbacks: tuple[Callback, ...]) -> None:
        """Call every callback's last method, also when one before it raises."""
        if callbacks:
            try:
                callbacks[0].on_train_end(self)
            finally:
                self._tell_the_end(callbacks[1:])

    def _best_epoch(self) -> int | None:
        """Ask early stopping, where there is any, for the best epoch; stop if that is long ago."""
        stopping = self.trainer.early_stopping
        if stopping is None:
            return None
        best_epoch = stopping.best_epoch(self.history, validated=self._validation is not None)
        if len(self.history) - best_epoch >= stopping.patience:
            self.stop(f"early stopping: no improvement since epoch {best_epoch}")
        return best_epoch

    def _save_checkpoint(self, *, last: bool) -> None:
        path, finished = self.trainer.checkpoint, self._finished
        if path is None or finished.epochs in (0, self._saved_epochs):
            return
        due = time.monotonic() - self._saved_at >= self.trainer.checkpoint_seconds
        if not (last or due):
            return
        history = History(self.history.records[: finished.epochs])
        save_checkpoint(
            path,
            Checkpoint(self.mlp.network, finished.state, finished.best, history, self._settings),
        )
        self._saved_at, self._saved_epochs = time.monotonic(), finished.epochs

    def _diverged(self, epoch: int, step: int, lr: float, what: str) -> DivergedError:
        return DivergedError(
            f"the {what} became NaN or infinite in epoch {epoch + 1}, step {step} "
            f"(learning rate {lr:g}): lower the learning rate, or scale the inputs to about [0, 1]"
        )

    def _bit_deciding_settings(
        self, x: Inputs, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None
    ) -> dict[str, str]:
        names = (
            "optimizer",
            "schedule",
            "batch_size",
            "objective",
            "shuffle",
            "validation",
            "early_stopping",
            "rows_per_epoch",
        )
        settings = {name: repr(getattr(self.trainer, name)) for name in names}
        return settings | {
            "seed": str(self.mlp.seed),
            "dtype": self.mlp.dtype,
            "strict": str(self._strict),
            "data": fingerprint(x, y, sample_weight),
        }
