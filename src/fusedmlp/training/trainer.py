"""The trainer: its settings, and a ``fit`` that prepares the engine, the data and the loop.

The loop over epochs is in loop.py, what is kept of every epoch in keeper.py.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fusedmlp.backend import EngineSpec
from fusedmlp.errors import InvalidInputError
from fusedmlp.io.atomic import check_writable
from fusedmlp.model import MLP
from fusedmlp.network import Objective
from fusedmlp.optimizers import Optimizer, as_optimizer
from fusedmlp.scalars import flag, real, whole
from fusedmlp.seeding import shuffled, validation_split
from fusedmlp.training.callbacks import as_callbacks
from fusedmlp.training.checkpoint import fingerprint
from fusedmlp.training.chunks import EpochChunks
from fusedmlp.training.early_stopping import as_early_stopping
from fusedmlp.training.fit_data import fit_data, validation_arrays
from fusedmlp.training.keeper import KeeperSettings, StateKeeper
from fusedmlp.training.loop import LoopSettings, TrainingLoop, ValidationRows
from fusedmlp.training.row_weights import checked_class_weight
from fusedmlp.training.schedules import Schedule, ScheduleLike, as_schedule

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.training.callbacks import Callback, CallbacksLike
    from fusedmlp.training.early_stopping import EarlyStopping
    from fusedmlp.training.fit_data import ValidationData
    from fusedmlp.training.history import History
    from fusedmlp.training.row_weights import ClassWeight
    from fusedmlp.types import InputsLike, IntArray

_MEAN: Final = Objective()


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Trainer:
    """Mini-batch gradient descent, the same on every backend.

    Parameters
    ----------
    optimizer
        Update formula and base learning rate: an object of :mod:`fusedmlp.optimizers`, or a name
        for :func:`~fusedmlp.optimizers.make_optimizer`.
    schedule
        Learning rate of every step: an object of :mod:`fusedmlp.training.schedules`, a name for
        :func:`~fusedmlp.training.schedules.make_schedule`, or a function that takes the number of
        an epoch, from 0, and returns the rate of its steps in place of the optimizer's.
    epochs
        Epochs in all, including those before a resume.
    batch_size
        Rows per step; the last batch of an epoch may be smaller.
    objective
        Reduction over the batch and L2 penalty.
    shuffle
        Draw a new row order for every epoch.
    validation
        Fraction in [0, 1) of the rows that are held out, drawn once from the seed. Alternatively
        pass ``validation_data`` to :meth:`fit`.
    early_stopping
        None to train all epochs; True for the defaults of :class:`EarlyStopping`, a whole number
        for that ``patience``.
    class_weight
        ``balanced`` (N / (K·count of the class)) or a weight for each label, for each class number
        where the model has no labels; multiplies the sample weights. Classes that are not in a
        mapping weigh 1.
    rows_per_epoch
        Rows that an epoch trains on; None for all. The workshop's recipe uses 256.
    callbacks
        One or several, which run in this order: objects of
        :class:`fusedmlp.training.callbacks.Callback`, or functions with the arguments of its
        ``on_epoch_end``, which run after each epoch.
    checkpoint
        File to keep up to date; None for no checkpoints.
    checkpoint_seconds
        Least time between two checkpoints; the last epoch's is always written.
    """

    optimizer: Optimizer
    schedule: Schedule
    epochs: int
    batch_size: int
    objective: Objective
    shuffle: bool
    validation: float
    early_stopping: EarlyStopping | None
    class_weight: ClassWeight | None
    rows_per_epoch: int | None
    callbacks: tuple[Callback, ...]
    checkpoint: Path | None
    checkpoint_seconds: float

    def __init__(
        self,
        optimizer: Optimizer | str = "sgd",
        schedule: ScheduleLike = "constant",
        epochs: int = 20,
        batch_size: int = 64,
        objective: Objective = _MEAN,
        shuffle: bool = True,
        validation: float = 0.0,
        early_stopping: EarlyStopping | bool | int | None = None,
        class_weight: ClassWeight | None = None,
        rows_per_epoch: int | None = None,
        callbacks: CallbacksLike = (),
        checkpoint: str | PathLike[str] | None = None,
        checkpoint_seconds: float = 1.0,
    ) -> None:
        if not isinstance(objective, Objective):
            raise InvalidInputError(f"objective {objective!r:.80} is no fusedmlp.Objective")
        settings = {
            "optimizer": as_optimizer(optimizer),
            "schedule": as_schedule(schedule),
            "epochs": whole("epochs", epochs),
            "batch_size": whole("batch_size", batch_size),
            "objective": objective,
            "shuffle": flag("shuffle", shuffle),
            "validation": real("validation", validation),
            "early_stopping": as_early_stopping(early_stopping),
            "class_weight": checked_class_weight(class_weight),
            "rows_per_epoch": (
                None if rows_per_epoch is None else whole("rows_per_epoch", rows_per_epoch)
            ),
            "callbacks": as_callbacks(callbacks),
            "checkpoint": path_of("checkpoint", checkpoint),
            "checkpoint_seconds": real("checkpoint_seconds", checkpoint_seconds),
        }
        for name, value in settings.items():
            object.__setattr__(self, name, value)
        if not 0.0 <= self.validation < 1.0:
            raise InvalidInputError(f"validation {self.validation} is not a share in [0, 1)")

    def __repr__(self) -> str:
        """Return the settings that differ from the defaults."""
        default = Trainer()
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        changed = (f"{name}={v!r}" for name, v in values if v != getattr(default, name))
        return f"Trainer({', '.join(changed)})"

    def fit(
        self,
        mlp: MLP,
        x: InputsLike,
        y: npt.ArrayLike,
        *,
        validation_data: ValidationData | None = None,
        sample_weight: npt.ArrayLike | None = None,
        resume: str | PathLike[str] | None = None,
    ) -> History:
        """Train ``mlp``; its parameters and history are set even when training ends early.

        Parameters
        ----------
        x
            (N, D) numbers, as :meth:`MLP.forward` takes them. The first data frame names the
            inputs: :attr:`MLP.feature_names`.
        y
            (N,) or (N, 1) class indices from 0 to K-1, or K distinct labels: text, whole numbers,
            floats such as 1.0 or booleans, which become :attr:`MLP.labels` in ascending order. For
            one sigmoid output zeros and ones, or 2 labels; for several (N, K) zeros and ones. For
            identity and exp (N,) or (N, K) values. A model with labels takes no others.
        sample_weight
            (N,) finite, at least 0.
        validation_data
            Rows and targets to validate on after each epoch, and weights if there are three.
        resume
            A checkpoint of the same training, which continues with the same bits. On another
            backend it continues within the trajectory bound, in strict mode with the same bits.

        Raises
        ------
        InvalidInputError
            Data or settings do not fit; nothing was computed.
        DivergedError
            The loss became NaN or infinite; the model has the last finished epoch's weights.
        KeyboardInterrupt
            Ctrl-C; the model has the last finished epoch's weights.
        BackendUnavailableError, FileFormatError, StorageError
            The backend, the checkpoint to resume or the one to write cannot be used.
        """
        if self.validation and validation_data is not None:
            raise InvalidInputError(
                f"validation={self.validation} and validation_data were both given: choose one"
            )
        if not isinstance(mlp, MLP):
            raise InvalidInputError(
                f"the first argument of fit is a {type(mlp).__qualname__}, expected a fusedmlp.MLP"
            )
        given = fit_data(mlp, x, y, sample_weight, self.class_weight)
        resume = path_of("resume", resume)
        if self.checkpoint is not None:
            check_writable(self.checkpoint.parent)
        n_rows = int(given.x.shape[0])
        rows, held_out = validation_split(n_rows, self.validation, mlp.seed)
        epoch_rows = self._epoch_rows(len(rows))  # checked before an engine gets room for a batch
        _, backend = mlp.select_backend(self.batch_size, n_rows)
        engine = backend.compile(
            EngineSpec(
                mlp.network,
                self.optimizer,
                self.objective,
                batch_size=self.batch_size,
                dtype=mlp.dtype,
                seed=mlp.seed,
            )
        )
        data = engine.stage(given.x, given.y, given.weights)
        validation = ValidationRows(data, held_out) if held_out.size else None
        if validation_data is not None:
            validation = ValidationRows(
                engine.stage(*validation_arrays(validation_data, mlp, given))
            )

        def order(epoch: int) -> IntArray:
            return (shuffled(rows, mlp.seed, epoch) if self.shuffle else rows)[:epoch_rows]

        identity = self._identity() | {
            "seed": str(mlp.seed),
            "dtype": mlp.dtype,
            "strict": str(backend.strict),
            "labels": repr(given.labels),
        }
        if self.checkpoint is not None or resume is not None:
            identity["data"] = fingerprint(given.x, given.y, given.weights)
        kept = KeeperSettings(
            early_stopping=self.early_stopping,
            validated=validation is not None,
            checkpoint=self.checkpoint,
            checkpoint_seconds=self.checkpoint_seconds,
            identity=identity,
        )
        keeper = StateKeeper(mlp, engine, kept, resume)
        settings = LoopSettings(
            epochs=self.epochs,
            rows=epoch_rows,
            order=order,
            rates=partial(self.schedule.rates, self.optimizer.lr),
            stopping=keeper.epoch_finished,
            validation=validation,
            callbacks=self.callbacks,
        )
        if given.labels != mlp.labels:
            mlp.labels = given.labels
        mlp.feature_names = given.feature_names
        with TrainingLoop(EpochChunks(engine, data), settings, keeper.history) as loop:
            try:
                loop.run()
            finally:
                keeper.finish()
        return keeper.history

    def _epoch_rows(self, n_rows: int) -> int:
        """Return the rows of an epoch, of ``n_rows`` training rows."""
        rows = min(n_rows, self.rows_per_epoch or n_rows)
        if self.batch_size > rows:
            raise InvalidInputError(
                f"batch size {self.batch_size} is larger than the {rows} rows of an epoch: "
                f"use at most {rows}"
            )
        return rows

    def _identity(self) -> dict[str, str]:
        """Return the settings that decide the results, as text by name."""
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
        return {name: repr(getattr(self, name)) for name in names}


def path_of(name: str, path: str | PathLike[str] | None) -> Path | None:
    """Return a path, checked to be one; messages call it ``name``."""
    if path is None or isinstance(path, str | PathLike):
        return None if path is None else Path(path)
    raise InvalidInputError(f"{name} {path!r:.80} is no path of a file")
