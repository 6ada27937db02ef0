"""Recipe: the settings of a network and its training, and the defaults of ``fusedmlp train``.

Nothing is trained here. A recipe says nothing of the data, the seed and the backend.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from fusedmlp.backend import Backend
from fusedmlp.cli.options import NETWORK, TRAINING, Option, choices, from_entries
from fusedmlp.errors import InvalidInputError, UnknownNameError
from fusedmlp.model import DTYPES, MLP
from fusedmlp.network import (
    HIDDEN_ACTIVATIONS,
    INITIALISATIONS,
    OUTPUT_OF_TASK,
    HiddenActivation,
    Initialisation,
    Network,
    Objective,
    Reduction,
)
from fusedmlp.optimizers import OPTIMIZER_NAMES, Optimizer, make_optimizer
from fusedmlp.training.callbacks import Callback
from fusedmlp.training.early_stopping import EarlyStopping
from fusedmlp.training.schedules import SCHEDULES, make_schedule
from fusedmlp.training.trainer import Trainer
from fusedmlp.types import FloatDtype

if TYPE_CHECKING:
    from fusedmlp.datasets import Dataset, Task

STEEP_ACTIVATION_LR: Final = 0.1
"""Base learning rate for activations other than the sigmoid: training diverges at 0.5."""

REGRESSION_LR: Final = 0.003
"""Base learning rate for real targets, with Adam."""

SMALL_SET_STEPS: Final = 6_000
"""Steps that a training on a small set takes at least; it gets more epochs for that."""

SMALL_SET_EPOCHS: Final = 300
"""Upper limit of these epochs."""

_STEPS_PER_EPOCH: Final = 16
"""Steps that an epoch on a small set has at least; it gets smaller batches for that."""


def parse_hidden(text: str) -> tuple[int, ...]:
    """Read ``256,128``, or ``none`` for no hidden layer."""
    if text.strip().lower() == "none":
        return ()
    try:
        widths = tuple(map(int, text.split(",")))
    except ValueError:
        widths = (0,)
    if min(widths) < 1:
        raise InvalidInputError(
            f"--hidden {text!r}: give widths of at least 1 such as 256 or 256,128, or 'none'"
        )
    return widths


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a training except the data, the seed and the backend.

    Fields without an option are explained by :class:`fusedmlp.network.Objective` (``reduction``),
    :class:`fusedmlp.model.MLP` (``init``) and :class:`fusedmlp.Trainer` (``rows_per_epoch``).
    """

    hidden: Annotated[
        tuple[int, ...],
        Option(
            "Widths of the hidden layers, such as 256,128; 'none' for a single layer.",
            "H1,H2,...",
            NETWORK,
            note="100 for tables",
            parse=parse_hidden,
        ),
    ] = (256,)
    activation: Annotated[
        HiddenActivation,
        Option(
            f"Activation of the hidden layers: {choices(HIDDEN_ACTIVATIONS)}.",
            "NAME",
            NETWORK,
            note="relu for tables",
        ),
    ] = "sigmoid"
    dropout: Annotated[
        float,
        Option("Share of hidden units to silence in each training step, in [0, 1).", "P", NETWORK),
    ] = 0.0
    dtype: Annotated[
        FloatDtype, Option(f"Type of all numbers: {choices(DTYPES)}.", "NAME", NETWORK)
    ] = "float32"
    optimizer: Annotated[
        str,
        Option(
            f"Optimizer: {choices(OPTIMIZER_NAMES)}.",
            "NAME",
            TRAINING,
            note="adam for tables and real targets",
        ),
    ] = "nesterov"
    lr: Annotated[
        float,
        Option(
            "Learning rate; the highest one where a schedule changes it.",
            "RATE",
            TRAINING,
            note=f"with another activation or optimizer {STEEP_ACTIVATION_LR}, with adam 0.001",
        ),
    ] = 0.5
    schedule: Annotated[
        str,
        Option(
            f"How the learning rate changes during training: {choices(SCHEDULES)}.",
            "NAME",
            TRAINING,
            note="constant for tables",
        ),
    ] = "one-cycle"
    batch_size: Annotated[
        int,
        Option("Rows in each step.", "ROWS", TRAINING, note="fewer for small sets"),
    ] = 64
    epochs: Annotated[
        int,
        Option(
            "Passes over the training rows, those before a resume included.",
            "N",
            TRAINING,
            note="more for small sets, 200 for tables",
            may_change_on_resume=True,
        ),
    ] = 15
    l2: Annotated[
        float,
        Option(
            "Strength of the penalty on large weights: LAMBDA/2 times the sum of their squares.",
            "LAMBDA",
            TRAINING,
            note="0.0001 for tables",
        ),
    ] = 0.0
    validation: Annotated[
        float,
        Option(
            "Share of the training rows to hold out and measure after each epoch; 0 for none.",
            "SHARE",
            TRAINING,
        ),
    ] = 0.1
    patience: Annotated[
        int,
        Option(
            "Stop after N epochs without a better validation loss, and keep the best epoch's "
            "weights; 0 to train all epochs.",
            "N",
            TRAINING,
            note="20 for tables",
            is_new=True,
        ),
    ] = 0
    reduction: Reduction = "mean"
    init: Initialisation = "auto"
    rows_per_epoch: int | None = None

    def check(self) -> None:
        """Raise the InvalidInputErrors of network, trainer and model, before any data is read."""
        Network((1, *self.hidden, 2), self.activation, "softmax", self.dropout)
        self.trainer()
        if self.init not in INITIALISATIONS:
            raise UnknownNameError.of("initialisation", self.init, INITIALISATIONS)
        if self.dtype not in DTYPES:
            raise UnknownNameError.of("dtype", self.dtype, DTYPES)

    def network(self, dataset: "Dataset") -> Network:
        """Return the network for a data set: its inputs, these hidden layers, its outputs."""
        sizes = (dataset.n_inputs, *self.hidden, dataset.n_outputs)
        return Network(sizes, self.activation, OUTPUT_OF_TASK[dataset.task], self.dropout)

    def model(self, dataset: "Dataset", *, seed: int, backend: str | Backend | None = None) -> MLP:
        """Build the untrained model for a data set."""
        network = self.network(dataset)
        mlp = MLP(
            network.sizes,
            network.hidden,
            network.output,
            network.dropout,
            init=self.init,
            backend=backend,
            dtype=self.dtype,
            seed=seed,
        )
        mlp.class_names = dataset.class_names
        return mlp

    def make_optimizer(self) -> Optimizer:
        """Build the optimizer with its learning rate."""
        return make_optimizer(self.optimizer, self.lr)

    def trainer(
        self, *, callbacks: tuple[Callback, ...] = (), checkpoint: Path | None = None
    ) -> Trainer:
        """Build the trainer."""
        return Trainer(
            optimizer=self.make_optimizer(),
            schedule=make_schedule(self.schedule),
            epochs=self.epochs,
            batch_size=self.batch_size,
            objective=Objective(self.reduction, self.l2),
            validation=self.validation,
            early_stopping=EarlyStopping(patience=self.patience) if self.patience else None,
            rows_per_epoch=self.rows_per_epoch,
            callbacks=callbacks,
            checkpoint=checkpoint,
        )

    def suited_to(self, rows: int, task: "Task") -> "Recipe":
        """Derive the defaults for another data set from this recipe.

        Few rows get smaller batches (a power of two) and, without early stopping, more epochs, so
        that there are enough steps. Real targets get Adam: with the squared error, the largest
        stable step of momentum depends on the targets' unit.

        Parameters
        ----------
        rows
            Training rows N, those to be held out for validation included.
        """
        trained_on = rows - round(rows * self.validation)
        most = max(1, trained_on // _STEPS_PER_EPOCH)
        batch_size = min(self.batch_size, 2 ** int(math.log2(most)))
        steps = -(-max(trained_on, 1) // batch_size)
        epochs = self.epochs
        if not self.patience:
            epochs = min(SMALL_SET_EPOCHS, max(epochs, -(-SMALL_SET_STEPS // steps)))
        recipe = replace(self, batch_size=batch_size, epochs=epochs)
        if task == "regression" and self.optimizer != "adam":
            recipe = replace(recipe, optimizer="adam", lr=REGRESSION_LR)
        return recipe

    def changed(self, overrides: Mapping[str, Any]) -> "Recipe":
        """Return a copy with some fields replaced, and a learning rate that suits them.

        Another optimizer without a learning rate gets that optimizer's default. The default
        optimizer with an activation other than the sigmoid, whose slope is at most 1/4, gets a
        lower rate.
        """
        recipe = replace(self, **overrides)
        if "lr" in overrides:
            return recipe
        if recipe.optimizer != self.optimizer:
            recipe = replace(recipe, lr=make_optimizer(recipe.optimizer).lr)
        is_steeper = self.activation == "sigmoid" and recipe.activation != "sigmoid"
        if is_steeper and recipe.optimizer == DEFAULT_RECIPE.optimizer:
            recipe = replace(recipe, lr=min(recipe.lr, STEEP_ACTIVATION_LR))
        return recipe

    @classmethod
    def from_dict(cls, data: object) -> "Recipe":
        """Rebuild a recipe from ``dataclasses.asdict``, by way of JSON, and check it."""
        if not isinstance(data, dict):
            raise InvalidInputError(f"the recipe {data!r:.80} is not an object of settings")
        if unknown := set(data) - {field.name for field in fields(cls)}:
            raise InvalidInputError(f"unknown settings: {', '.join(sorted(unknown))}")
        recipe = from_entries(cls, data)
        recipe.check()
        return recipe


DEFAULT_RECIPE: Final = Recipe()
"""Default of ``fusedmlp train``; on MNIST it reaches a test accuracy of 0.98."""

TABLE_RECIPE: Final = replace(
    DEFAULT_RECIPE,
    hidden=(100,),
    activation="relu",
    optimizer="adam",
    lr=0.001,
    schedule="constant",
    batch_size=128,
    epochs=200,
    l2=1e-4,
    patience=20,
)
"""Default for scaled tables: the network of scikit-learn's estimators, with early stopping."""
