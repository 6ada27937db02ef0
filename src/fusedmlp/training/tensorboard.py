"""Epochs written for TensorBoard, by the library tensorboardX (``fusedmlp[tensorboard]``).

Scalars alone are written; the page itself is ``tensorboard --logdir FOLDER``, installed apart.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fusedmlp.errors import MissingDependencyError
from fusedmlp.io.atomic import check_writable, storage_errors
from fusedmlp.training.callbacks import Callback

if TYPE_CHECKING:
    from os import PathLike

    from tensorboardX import SummaryWriter

    from fusedmlp.training.callbacks import TrainingView
    from fusedmlp.training.history import EpochRecord

TAGS: Final = {
    "train_loss": "loss/train",
    "validation_loss": "loss/validation",
    "train_accuracy": "accuracy/train",
    "validation_accuracy": "accuracy/validation",
    "lr": "learning_rate",
    "samples_per_s": "samples_per_s",
}
"""Tag of each field of a record; TensorBoard draws those with a common first part together."""


class TensorBoardWriter(Callback):
    """Write the losses, accuracies, learning rate and speed of each epoch for TensorBoard.

    Pass it to the trainer or to an estimator; steps are epochs, from 1. A resumed training
    continues its curves: epochs that the checkpoint does not have are hidden.

    Parameters
    ----------
    folder
        Where the event file is written, one folder for each training.

    Raises
    ------
    MissingDependencyError
        tensorboardX is not installed; the message has the install command.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        if find_spec("tensorboardX") is None:
            raise MissingDependencyError(
                "TensorBoardWriter needs tensorboardX: pip install 'fusedmlp[tensorboard]'"
            )
        self.folder = Path(folder)
        self._writer: SummaryWriter | None = None

    def __repr__(self) -> str:
        return f"TensorBoardWriter({str(self.folder)!r})"

    def on_train_begin(self, run: TrainingView) -> None:
        """Open an event file.

        Raises
        ------
        StorageError
            The folder cannot be written.
        """
        from tensorboardX import SummaryWriter

        check_writable(self.folder)
        resumed = len(run.history)
        self._writer = SummaryWriter(
            str(self.folder),
            purge_step=resumed + 1 if resumed else None,
            # Without it, a second file of the same second replaces the first.
            filename_suffix=f".{time.time_ns()}",
        )

    def on_epoch_end(self, run: TrainingView, record: EpochRecord) -> None:
        """Write the epoch's scalars."""
        if self._writer is None:
            return
        for name, tag in TAGS.items():
            value = getattr(record, name)
            if value is not None:
                self._writer.add_scalar(tag, value, record.epoch)

    def on_train_end(self, run: TrainingView) -> None:
        """Write what is left, and close the file.

        Raises
        ------
        StorageError
            The file cannot be written.
        """
        if self._writer is not None:
            with storage_errors(f"cannot write to {self.folder}", "choose another folder"):
                self._writer.close()
            self._writer = None
