"""One training of ``fusedmlp train``: data, model, files, and what is printed.

Progress goes to stderr. Options are read in train.py; the training loop is the library's Trainer.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fusedmlp.backend import Workload
from fusedmlp.cli import console
from fusedmlp.cli.backend_choice import BackendChoice
from fusedmlp.cli.interrupts import exit_code
from fusedmlp.cli.progress import duration, progress_view
from fusedmlp.cli.recipes import DEFAULT_RECIPE, TABLE_RECIPE
from fusedmlp.cli.scores import ADVICE, TABLE_ADVICE, Scores
from fusedmlp.datasets import DATASET_NAMES
from fusedmlp.errors import FusedMLPError, StorageError
from fusedmlp.preprocessing import TargetScale
from fusedmlp.training.callbacks import Callback, HistoryWriter
from fusedmlp.training.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fusedmlp.cli.outputs import OutputFolder
    from fusedmlp.cli.settings import Settings
    from fusedmlp.datasets import Dataset
    from fusedmlp.model import MLP
    from fusedmlp.training.callbacks import TrainingView
    from fusedmlp.training.history import History

_SHAPED_BY_EPOCHS = ("cosine", "one-cycle")
"""Schedules that depend on the number of epochs."""


@dataclass(frozen=True)
class Result:
    """Results of a training, under the names that ``--json`` prints."""

    backend: str
    dataset: str
    epochs: int
    train_loss: float
    train_accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    test_r2: float | None
    test_rmse: float | None
    test_rows: int
    best_epoch: int | None
    samples_per_s: float
    seconds: float
    compile_seconds: float
    model: str
    output: str
    seed: int

    def print(self, *, as_json: bool) -> None:
        """Write the results to stdout."""
        if as_json:
            console.print_json(asdict(self))
            return
        compiled = ""
        if self.compile_seconds >= 0.05:
            compiled = f", {duration(self.compile_seconds)} to compile"
        speed = f"{self.samples_per_s:,.0f} samples/s{compiled}"
        lines = [("trained", f"{_epochs(self.epochs)} in {duration(self.seconds)}, {speed}")]
        if self.best_epoch is not None:
            kept = f"the weights of epoch {self.best_epoch}, which has the best validation loss"
            lines.append(("kept", kept))
        if self.test_loss is not None:
            scores = Scores(self.test_loss, self.test_accuracy, self.test_r2, self.test_rmse, None)
            lines += scores.lines(self.test_rows, "test ")
        history = str(Path(self.output) / "history.csv")
        console.results([*lines, ("model", self.model), ("history", history)])
        folder = as_word(self.output)
        inputs = self.dataset if self.dataset in DATASET_NAMES else "ROWS.csv"
        console.note("next:")
        console.note(f"  fusedmlp evaluate {folder}")
        console.note(f"  fusedmlp predict {folder} {inputs}")


class SettingsWriter(Callback):
    """Writes ``settings.json`` when training begins; keeps the time that compilation took."""

    def __init__(self, settings: Settings, folder: OutputFolder) -> None:
        self._settings = settings
        self._folder = folder
        self.compile_seconds = 0.0

    def on_train_begin(self, run: TrainingView) -> None:
        """Write the settings: all checks have passed."""
        self._settings.save(self._folder.path)

    def on_train_end(self, run: TrainingView) -> None:
        """Read the engine's compilation time."""
        self.compile_seconds = run.engine.compile_seconds


@dataclass
class Training:
    """A training with complete settings and an existing folder.

    Parameters
    ----------
    recipe_overrides
        Of a new training: values that the user gave to the recipe; the data decide the others.
        None on a resume, where the recipe is final.
    """

    settings: Settings
    folder: OutputFolder
    recipe_overrides: Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        resumes = self.recipe_overrides is None
        # A training that was killed before its first checkpoint starts again, to the same end.
        has_checkpoint = resumes and self.folder.checkpoint.exists()
        self._checkpoint = self.folder.checkpoint if has_checkpoint else None
        self._target_scale: TargetScale | None = None

    def note_changed_epochs(self, before: int) -> None:
        """Print a note if a resume changes the number of epochs and thereby the schedule."""
        recipe = self.settings.recipe
        if recipe.epochs != before and recipe.schedule in _SHAPED_BY_EPOCHS:
            console.note(
                f"the {recipe.schedule} schedule depends on the number of epochs: the learning "
                f"rate now follows that of {recipe.epochs} epochs"
            )

    def run(self, *, plot: bool) -> Result:
        """Train, save, measure; after an error or an interrupt, save the last finished epoch.

        With ``plot``, draw pictures of a training that has reached its end.
        """
        run = self.settings.run
        named = BackendChoice.if_named(run)  # fails before the data are read
        dataset = self.settings.data.load(run.seed, console.note)
        if self.recipe_overrides is not None:
            self.settings = _completed(self.settings, self.recipe_overrides, dataset)
        recipe = self.settings.recipe
        workload = Workload(recipe.network(dataset), recipe.batch_size, len(dataset.x_train))
        choice = named or BackendChoice.make(run, workload)
        mlp = recipe.model(dataset, seed=run.seed, backend=choice.backend)
        self._announce(dataset, mlp, choice)
        compile_seconds = self._fit(mlp, dataset)
        self._save(mlp, dataset)
        result = self._result(dataset, mlp, str(choice.selection), compile_seconds)
        if plot:
            from fusedmlp.cli.pictures import draw_pictures

            draw_pictures(mlp, dataset, self.folder.path)
        return result

    def _announce(self, dataset: Dataset, mlp: MLP, choice: BackendChoice) -> None:
        test = "no" if dataset.x_test is None else f"{len(dataset.x_test):,}"
        recipe, seed = self.settings.recipe, self.settings.run.seed
        rows = f"{len(dataset.x_train):,} rows to train on, {test} to test on"
        rate = f"learning rate {recipe.lr:g} ({recipe.schedule})"
        count = f"batches of {recipe.batch_size}, {_epochs(recipe.epochs)}, seed {seed}"
        lines = {
            "data": f"{dataset.name}: {rows}; from {dataset.source}",
            "network": f"{mlp.network}, {mlp.network.n_parameters:,} parameters, {mlp.dtype}",
            "training": f"{recipe.optimizer}, {rate}, {count}",
            "backend": str(choice),
            "output": str(self.folder.path),
        }
        if self._checkpoint is not None:
            done = len(load_checkpoint(self._checkpoint).history)
            left = f"{recipe.epochs - done} to go" if done < recipe.epochs else "nothing left to do"
            lines["resumed"] = f"{_epochs(done)} of {recipe.epochs} finished, {left}"
        for label, text in lines.items():
            console.labelled(label, text, console.stderr())

    def _fit(self, mlp: MLP, dataset: Dataset) -> float:
        """Train; return the seconds of compilation."""
        settings = replace(self.settings, data=self.settings.data.absolute())
        settings_writer = SettingsWriter(settings, self.folder)
        try:
            with progress_view(console.stderr()) as view:
                trainer = settings.recipe.trainer(
                    callbacks=(settings_writer, HistoryWriter(self.folder.path), view),
                    checkpoint=self.folder.checkpoint,
                )
                trainer.fit(mlp, dataset.x_train, self._targets(dataset), resume=self._checkpoint)
        except KeyboardInterrupt as interrupt:
            if not self._save_last_epoch(mlp, dataset):
                console.note("interrupted before the first epoch ended: nothing to save")
            raise typer.Exit(exit_code(interrupt)) from None
        except FusedMLPError:
            with contextlib.suppress(StorageError):  # the first error is reported
                self._save_last_epoch(mlp, dataset)
            raise
        return settings_writer.compile_seconds

    def _targets(self, dataset: Dataset) -> NDArray[Any]:
        """Return the targets to train on: quantities of a scaled table are scaled too."""
        is_scaled = dataset.preprocessing is not None and self.settings.data.scale != "none"
        if dataset.task != "regression" or not is_scaled:
            return dataset.y_train
        self._target_scale = TargetScale.fit(dataset.y_train)
        return self._target_scale.apply(dataset.y_train)

    def _save(self, mlp: MLP, dataset: Dataset) -> None:
        """Save the model as users apply it: on tables, with outputs in the target's unit."""
        if self._target_scale is not None:
            mlp.parameters = self._target_scale.fold(mlp.parameters)
        mlp.preprocessing, mlp.labels = dataset.preprocessing, dataset.labels
        mlp.save(self.folder.model)
        mlp.preprocessing = mlp.labels = None  # this data set's arrays have been through both

    def _save_last_epoch(self, mlp: MLP, dataset: Dataset) -> bool:
        """Save the last finished epoch's model of a training that ended early, if there is one."""
        if not mlp.history:
            return False
        self._save(mlp, dataset)
        console.note(
            f"stopped after epoch {len(mlp.history)}; its model is {self.folder.model}. "
            f"Continue with: fusedmlp train --resume {as_word(self.folder.path)}"
        )
        return True

    def _result(self, dataset: Dataset, mlp: MLP, backend: str, compile_seconds: float) -> Result:
        tested = None
        if dataset.x_test is not None and dataset.y_test is not None:
            tested = Scores.of(mlp, dataset.x_test, dataset.y_test)
            if (found := tested.advice()) is not None:
                more = "" if dataset.preprocessing is None else TABLE_ADVICE
                console.note(f"{found}: {ADVICE}{more}")
        assert mlp.history is not None
        records, last = mlp.history.records, mlp.history.last
        seconds = sum(record.seconds for record in records)
        rows = sum(record.samples_per_s * record.seconds for record in records)
        return Result(
            backend=backend,
            dataset=dataset.name,
            epochs=last.epoch,
            train_loss=last.train_loss,
            train_accuracy=last.train_accuracy,
            validation_loss=last.validation_loss,
            validation_accuracy=last.validation_accuracy,
            test_loss=None if tested is None else tested.loss,
            test_accuracy=None if tested is None else tested.accuracy,
            test_r2=None if tested is None else tested.r2,
            test_rmse=None if tested is None else tested.rmse,
            test_rows=0 if dataset.x_test is None else len(dataset.x_test),
            best_epoch=self._best_epoch(mlp.history),
            samples_per_s=rows / seconds,
            seconds=seconds,
            compile_seconds=compile_seconds,
            model=str(self.folder.model),
            output=str(self.folder.path),
            seed=mlp.seed,
        )

    def _best_epoch(self, history: History) -> int | None:
        """Return the epoch whose weights early stopping has kept."""
        stopping = self.settings.recipe.trainer().early_stopping
        if stopping is None:
            return None
        return stopping.best_epoch(history, validated=history.last.validation_loss is not None)


def _completed(settings: Settings, overrides: Mapping[str, object], dataset: Dataset) -> Settings:
    """Return the settings with the recipe's defaults for this data set."""
    base = DEFAULT_RECIPE if dataset.preprocessing is None else TABLE_RECIPE
    if "validation" in overrides:
        base = base.changed({"validation": overrides["validation"]})
    suited = base.suited_to(len(dataset.x_train), dataset.task)
    return replace(settings, recipe=suited.changed(overrides))


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count:,} epochs"


def as_word(path: str | Path) -> str:
    """Write a path as one word of a command line."""
    return subprocess.list2cmdline([str(path)]) if os.name == "nt" else shlex.quote(str(path))
