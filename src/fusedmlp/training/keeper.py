"""What a model's training keeps after every epoch: the state, the best weights, the checkpoint.

A training that ends in whatever way leaves the model with the weights of the last finished epoch,
or of the best one with early stopping. The loop over epochs is in loop.py.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.backend import State
from fusedmlp.errors import InvalidInputError
from fusedmlp.network import zeros
from fusedmlp.training.checkpoint import (
    Checkpoint,
    check_settings,
    load_checkpoint,
    save_checkpoint,
)
from fusedmlp.training.history import History
from fusedmlp.training.loop import diverged

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fusedmlp.backend import Engine
    from fusedmlp.model import MLP
    from fusedmlp.network import Parameters
    from fusedmlp.training.early_stopping import EarlyStopping
    from fusedmlp.training.loop import FinishedEpoch


@dataclass(frozen=True, slots=True)
class KeeperSettings:
    """What is kept of a training, and where.

    Parameters
    ----------
    early_stopping
        None to train all epochs.
    validated
        Whether early stopping monitors the validation rows.
    checkpoint
        File to keep up to date; None for none.
    checkpoint_seconds
        Least time between two checkpoints; the last epoch's is always written.
    identity
        What decides the results of a training, as text by name: a resumed one must agree.
    """

    early_stopping: EarlyStopping | None
    validated: bool
    checkpoint: Path | None
    checkpoint_seconds: float
    identity: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Kept:
    """The last finished epoch; replaced as a whole, so that Ctrl-C cannot leave a mixture."""

    epochs: int
    state: State
    best: Parameters | None
    best_epoch: int | None


class StateKeeper:
    """Keeps the state of finished epochs; ``epoch_finished`` is the trainer's stopping rule.

    Parameters
    ----------
    model
        Receives the weights and the history in :meth:`finish`.
    engine
        The engine that trains; a state is loaded here.
    resume
        A checkpoint to continue from; None to start with the model's parameters.

    Attributes
    ----------
    history
        Records of the finished epochs; the loop appends to it.
    """

    def __init__(
        self, model: MLP, engine: Engine, settings: KeeperSettings, resume: Path | None
    ) -> None:
        self._model, self._engine, self._settings = model, engine, settings
        self._saved_at, self._saved_epochs = time.monotonic(), 0
        self.history = History()
        if resume is None:
            slots = tuple(zeros(model.network, model.dtype) for _ in engine.optimizer.slots)
            self._kept = _Kept(0, State(model.parameters, slots, 0), None, None)
        else:
            checkpoint = load_checkpoint(resume)
            if checkpoint.network != model.network:
                raise InvalidInputError(
                    f"{resume} is of {checkpoint.network}, the model is {model.network}"
                )
            check_settings(resume, checkpoint, settings.identity)
            self.history.records.extend(checkpoint.history.records)
            best_epoch, self.history.stopped = self._apply_early_stopping()
            epochs = len(self.history)
            self._kept = _Kept(epochs, checkpoint.state, checkpoint.best, best_epoch)
        engine.load(self._kept.state)

    def epoch_finished(self, epoch: FinishedEpoch) -> str | None:
        """Keep the engine's state; return why to stop, or None.

        Raises
        ------
        DivergedError
            A weight is NaN or infinite; the state before this epoch is kept.
        """
        record, state = epoch.record, self._engine.state()
        if not all(np.isfinite(array).all() for array in state.parameters):
            raise diverged("weights", record.epoch, record.step, record.lr)
        best_epoch, reason = self._apply_early_stopping()
        best = state.parameters if best_epoch == record.epoch else self._kept.best
        self._kept = _Kept(record.epoch, state, best, best_epoch)
        due = time.monotonic() - self._saved_at >= self._settings.checkpoint_seconds
        if due:
            self._save_checkpoint()
        return reason

    def finish(self) -> None:
        """Give the model the weights and the history, and write the last checkpoint."""
        kept, stopping = self._kept, self._settings.early_stopping
        del self.history.records[kept.epochs :]
        if stopping is not None and stopping.restore_best and kept.best is not None:
            self._model.parameters = kept.best
            self.history.best_epoch = kept.best_epoch
        else:
            self._model.parameters = kept.state.parameters
        self._model.history = self.history
        self._save_checkpoint()

    def _apply_early_stopping(self) -> tuple[int | None, str | None]:
        """Return the best epoch and why to stop; None where there is no early stopping."""
        stopping = self._settings.early_stopping
        if stopping is None:
            return None, None
        best_epoch = stopping.best_epoch(self.history, validated=self._settings.validated)
        if len(self.history) - best_epoch < stopping.patience:
            return best_epoch, None
        return best_epoch, f"early stopping: no improvement since epoch {best_epoch}"

    def _save_checkpoint(self) -> None:
        path, kept = self._settings.checkpoint, self._kept
        if path is None or kept.epochs in (0, self._saved_epochs):
            return
        history = History(self.history.records[: kept.epochs])
        identity = self._settings.identity
        save_checkpoint(
            path, Checkpoint(self._model.network, kept.state, kept.best, history, identity)
        )
        self._saved_at, self._saved_epochs = time.monotonic(), kept.epochs
