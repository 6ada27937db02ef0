"""The trainer: its settings, and a ``fit`` that prepares the engine, the data and the loop.

The loop over epochs is in loop.py, what is kept of every epoch in keeper.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from fusedmlp.backend import EngineSpec
from fusedmlp.errors import InvalidInputError
from fusedmlp.interop import count_rows, host_copy
from fusedmlp.io.atomic import check_writable
from fusedmlp.network import Objective
from fusedmlp.optimizers import SGD, Optimizer
from fusedmlp.seeding import shuffled, validation_split
from fusedmlp.training.checkpoint import fingerprint
from fusedmlp.training.chunks import EpochChunks
from fusedmlp.training.keeper import KeeperSettings, StateKeeper
from fusedmlp.training.loop import LoopSettings, TrainingLoop, ValidationRows
from fusedmlp.training.schedules import Constant, Schedule
from fusedmlp.validation import validate_targets

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from fusedmlp.model import MLP
    from fusedmlp.network import Network
    from fusedmlp.training.callbacks import Callback
    from fusedmlp.training.early_stopping import EarlyStopping
    from fusedmlp.training.history import History
    from fusedmlp.types import Float64Vector, Inputs, IntArray

ClassWeight: TypeAlias = Literal["balanced"] | Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Trainer:
    """Mini-batch gradient descent, the same on every backend.

    Parameters
    ----------
    optimizer, schedule
        Update formula, and learning rate of every step.
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
        None to train all epochs.
    class_weight
        ``balanced`` (N / (K·count of the class)) or a weight for each class number; multiplies
        the sample weights. Classes that are not in a mapping weigh 1.
    rows_per_epoch
        Rows that an epoch trains on; None for all. The workshop's recipe uses 256.
    callbacks
        Run in this order; see :class:`fusedmlp.training.callbacks.Callback`.
    checkpoint
        File to keep up to date; None for no checkpoints.
    checkpoint_seconds
        Least time between two checkpoints; the last epoch's is always written.
    """

    optimizer: Optimizer = field(default_factory=SGD)
    schedule: Schedule = field(default_factory=Constant)
    epochs: int = 20
    batch_size: int = 64
    objective: Objective = field(default_factory=Objective)
    shuffle: bool = True
    validation: float = 0.0
    early_stopping: EarlyStopping | None = None
    class_weight: ClassWeight | None = None
    rows_per_epoch: int | None = None
    callbacks: tuple[Callback, ...] = ()
    checkpoint: Path | None = None
    checkpoint_seconds: float = 1.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "rows_per_epoch"):
            value = getattr(self, name)
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if value is not None and not (whole and value >= 1):
                raise InvalidInputError(f"{name} {value!r} is not a whole number of at least 1")
        if not 0.0 <= self.validation < 1.0:
            raise InvalidInputError(f"validation {self.validation} is not a share in [0, 1)")

    def fit(
        self,
        mlp: MLP,
        x: Inputs,
        y: npt.ArrayLike,
        *,
        validation_data: tuple[Inputs, npt.ArrayLike] | None = None,
        sample_weight: npt.ArrayLike | None = None,
        resume: Path | None = None,
    ) -> History:
        """Train ``mlp``; its parameters and history are set even when training ends early.

        Parameters
        ----------
        x, y, sample_weight
            (N, D), (N,) or (N, K), (N,); see :meth:`fusedmlp.backend.Engine.stage`.
        validation_data
            Rows and targets to validate on after each epoch.
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
        weights = self._row_weights(mlp.network, x, y, sample_weight)
        if self.checkpoint is not None:
            check_writable(self.checkpoint.parent)
        n_rows = count_rows(x)
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
        data = engine.stage(x, y, weights)
        if not data.labelled:
            raise InvalidInputError("training needs targets: y is None")
        validation = ValidationRows(data, held_out) if held_out.size else None
        if validation_data is not None:
            validation = ValidationRows(engine.stage(*validation_data))

        def order(epoch: int) -> IntArray:
            return (shuffled(rows, mlp.seed, epoch) if self.shuffle else rows)[:epoch_rows]

        identity = self._identity() | {
            "seed": str(mlp.seed),
            "dtype": mlp.dtype,
            "strict": str(backend.strict),
            "data": fingerprint(x, y, weights),
        }
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

    def _row_weights(
        self,
        network: Network,
        x: Inputs,
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None,
    ) -> npt.ArrayLike | None:
        if self.class_weight is None:
            return sample_weight
        labels = validate_targets(y, int(x.shape[0]), network, "float64")
        if labels.ndim == 2 and (network.predicts_values or labels.shape[1] > 1):
            raise InvalidInputError(
                f"class_weight needs one class per row; the network is {network}"
            )
        by_class = class_weights(self.class_weight, labels.ravel().astype(np.int64), network)
        rows = by_class[labels.ravel().astype(np.int64)]
        if sample_weight is None:
            return rows
        given = host_copy("sample_weight", sample_weight)
        if given.shape != rows.shape:
            raise InvalidInputError(f"sample_weight has shape {given.shape}, x needs {rows.shape}")
        product: Float64Vector = rows * given
        return product


def class_weights(
    request: ClassWeight, labels: npt.NDArray[np.int64], network: Network
) -> Float64Vector:
    """Return the weight of each class number: (K,), or (2,) for one sigmoid output."""
    n_classes = max(2, network.n_outputs)
    if request == "balanced":
        counts = np.bincount(labels, minlength=n_classes)
        return len(labels) / (n_classes * np.maximum(counts, 1))
    if not isinstance(request, Mapping):
        raise InvalidInputError(f"class_weight {request!r} is neither 'balanced' nor a mapping")
    weights = np.ones(n_classes)
    for number, weight in request.items():
        if number not in range(n_classes):
            raise InvalidInputError(
                f"class_weight names class {number!r}, the classes are 0 to {n_classes - 1}"
            )
        weights[number] = weight
    return weights
