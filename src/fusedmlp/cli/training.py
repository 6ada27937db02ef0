"""Running one training for ``fusedmlp train``: folder, data, model, files, and what to say.

Options are read in train.py. Everything said on the way goes to stderr.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import typer

from fusedmlp.backend import Workload
from fusedmlp.cli import console
from fusedmlp.cli.choosing import chosen_backend, describe, is_named
from fusedmlp.cli.outputs import OutputFolder, existing_folder, new_folder
from fusedmlp.cli.progress import duration, loss_text, view
from fusedmlp.cli.settings import Settings
from fusedmlp.errors import ExitCode, FusedMLPError, StorageError
from fusedmlp.io.atomic import check_writable, sweep
from fusedmlp.network import Network
from fusedmlp.recipes import MNIST_REPAIRED
from fusedmlp.training.callbacks import Callback, HistoryWriter
from fusedmlp.training.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from rich.console import Console

    from fusedmlp.backend import Backend
    from fusedmlp.datasets import Dataset
    from fusedmlp.model import MLP
    from fusedmlp.registry import Selection
    from fusedmlp.training.callbacks import TrainingView
    from fusedmlp.training.history import History


@dataclass(frozen=True)
class Result:
    """What a training came to: as data, and as lines for people."""

    document: Mapping[str, object]
    lines: tuple[tuple[str, str], ...]

    def print(self) -> None:
        """Write the lines to stdout."""
        out = console.stdout()
        for label, text in self.lines:
            console.labelled(label, text, out)


class Bookkeeper(Callback):
    """Keeps the settings beside the model from the moment that training begins."""

    def __init__(self, settings: Settings, folder: OutputFolder) -> None:
        self._settings = settings
        self._folder = folder
        self.compile_seconds = 0.0

    def on_train_begin(self, run: TrainingView) -> None:
        """Write the settings: all checks have passed."""
        self._settings.save(self._folder.path)

    def on_train_end(self, run: TrainingView) -> None:
        """Remember what only the engine knows."""
        self.compile_seconds = run.engine.compile_seconds


@dataclass
class Training:
    """A training whose settings are known and whose folder is ours.

    Parameters
    ----------
    changes
        What the user asked of a new training's recipe, the data decide the rest; None on a
        resume, where the recipe is final.
    checkpoint
        Where to go on from; None to start.
    """

    settings: Settings
    changes: Mapping[str, object] | None
    folder: OutputFolder
    checkpoint: Path | None

    def run(self) -> Result:
        """Train, save, measure.

        Raises
        ------
        FusedMLPError
            Something does not fit or failed; the last finished epoch, if any, is saved.
        typer.Exit
            Ctrl-C, with the code for it; likewise.
        """
        try:
            return self._run()
        finally:
            self.folder.remove_if_empty()

    def _run(self) -> Result:
        err = console.stderr()
        settings = self.settings
        named: tuple[Selection, Backend] | None = None
        if is_named(settings.backend):
            named = chosen_backend(
                settings.backend, settings.threads, _ANY_WORKLOAD, strict=settings.strict
            )

        dataset = settings.data.load(settings.seed, lambda text: console.note(text, err))
        if self.changes is not None:
            base = MNIST_REPAIRED.changed({"validation": self.changes["validation"]})
            suited = base.suited_to(len(dataset.x_train), dataset.task)
            settings = replace(settings, recipe=suited.changed(self.changes))
        recipe = settings.recipe
        workload = Workload(recipe.network(dataset), recipe.batch_size, len(dataset.x_train))
        selection, backend = named or chosen_backend(
            settings.backend, settings.threads, workload, strict=settings.strict
        )
        mlp = recipe.model(dataset, seed=settings.seed, backend=backend)
        self._announce(err, dataset, mlp, describe(selection, backend), settings)

        bookkeeper = Bookkeeper(replace(settings, data=settings.data.absolute()), self.folder)
        shown = view(err)
        callbacks = (bookkeeper, HistoryWriter(self.folder.path), shown)
        trainer = recipe.trainer(callbacks=callbacks, checkpoint=self.folder.checkpoint)
        try:
            with shown:
                history = trainer.fit(mlp, dataset.x_train, dataset.y_train, resume=self.checkpoint)
        except KeyboardInterrupt:
            if not self._save_what_there_is(mlp, err):
                console.note("interrupted before the first epoch ended: nothing to save", err)
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except FusedMLPError:
            with contextlib.suppress(StorageError):  # the first error is the one to tell
                self._save_what_there_is(mlp, err)
            raise
        mlp.save(self.folder.model)
        return self._result(dataset, mlp, history, selection, bookkeeper.compile_seconds)

    def _announce(
        self, err: Console, dataset: Dataset, mlp: MLP, backend: str, settings: Settings
    ) -> None:
        test = "no" if dataset.x_test is None else f"{len(dataset.x_test):,}"
        recipe = settings.recipe
        rows = f"{len(dataset.x_train):,} rows to train on, {test} to test on"
        console.labelled("data", f"{dataset.name}: {rows}; from {dataset.source}", err)
        parameters = f"{mlp.network.n_parameters:,} parameters, {mlp.dtype}"
        console.labelled("network", f"{mlp.network}, {parameters}", err)
        how = f"{recipe.optimizer}, learning rate {recipe.lr:g} ({recipe.schedule})"
        count = f"batches of {recipe.batch_size}, {_epochs(recipe.epochs)}, seed {settings.seed}"
        console.labelled("training", f"{how}, {count}", err)
        console.labelled("backend", backend, err)
        console.labelled("output", str(self.folder.path), err)
        if self.checkpoint is not None:
            done = len(load_checkpoint(self.checkpoint).history)
            left = f"{recipe.epochs - done} to go" if done < recipe.epochs else "nothing left to do"
            console.labelled("resumed", f"{_epochs(done)} of {recipe.epochs} finished, {left}", err)

    def _save_what_there_is(self, mlp: MLP, err: Console) -> bool:
        """Save the last finished epoch's model after a training that ended early."""
        if not mlp.history:
            return False
        mlp.save(self.folder.model)
        console.note(
            f"stopped after epoch {len(mlp.history)}; its model is {self.folder.model}. "
            f"Go on with: fusedmlp train --resume {self.folder.path}",
            err,
        )
        return True

    def _result(
        self,
        dataset: Dataset,
        mlp: MLP,
        history: History,
        selection: Selection,
        compile_seconds: float,
    ) -> Result:
        tested = None
        if dataset.x_test is not None and dataset.y_test is not None:
            tested = mlp.evaluate(dataset.x_test, dataset.y_test)
        last = history.last
        seconds = sum(record.seconds for record in history.records)
        trained_rows = sum(record.samples_per_s * record.seconds for record in history.records)
        document = {
            "backend": str(selection),
            "dataset": dataset.name,
            "epochs": last.epoch,
            "train_loss": last.train_loss,
            "train_accuracy": last.train_accuracy,
            "validation_loss": last.validation_loss,
            "validation_accuracy": last.validation_accuracy,
            "test_loss": tested and tested.loss,
            "test_accuracy": tested and tested.accuracy,
            "samples_per_s": trained_rows / seconds,
            "seconds": seconds,
            "compile_seconds": compile_seconds,
            "model": str(self.folder.model),
            "output": str(self.folder.path),
            "seed": mlp.seed,
        }
        pace = f"{trained_rows / seconds:,.0f} samples/s"
        compiled = f", {duration(compile_seconds)} to compile" if compile_seconds >= 0.05 else ""
        lines = [("trained", f"{_epochs(last.epoch)} in {duration(seconds)}, {pace}{compiled}")]
        if tested is not None:
            lines.append(("test loss", loss_text(tested.loss)))
        if tested is not None and tested.accuracy is not None:
            error_rate = f"error rate {100 * (1 - tested.accuracy):.2f} %"
            lines.append(("test accuracy", f"{tested.accuracy:.4f} ({error_rate})"))
        lines.append(("model", str(self.folder.model)))
        lines.append(("history", str(self.folder.path / "history.csv")))
        return Result(document, tuple(lines))


def fresh(settings: Settings, changes: Mapping[str, object], output: Path | None) -> Training:
    """Prepare a new training in a folder of its own."""
    folder = new_folder(output, settings.data.dataset)
    return Training(settings, changes, folder, None)


def resumed(asked: Path, change: Callable[[Settings], Settings]) -> Training:
    """Prepare to go on with the training in a folder.

    Raises
    ------
    StorageError, FileFormatError
        The folder is not a training's, or its files are damaged.
    InvalidInputError
        ``change`` refused.
    """
    folder = existing_folder(asked)
    before = Settings.load(folder.path)
    settings = change(before)
    check_writable(folder.path)
    sweep(folder.path)
    # A training that was killed before its first checkpoint starts again, to the same end.
    checkpoint = folder.checkpoint if folder.checkpoint.exists() else None
    if settings.recipe.epochs != before.recipe.epochs and settings.recipe.schedule in _SHAPED:
        console.note(
            f"the {settings.recipe.schedule} schedule is shaped to the number of epochs: the "
            f"learning rate now follows that of {settings.recipe.epochs} epochs"
        )
    return Training(settings, None, folder, checkpoint)


_SHAPED = ("cosine", "one-cycle")

_ANY_WORKLOAD = Workload(Network((1, 1), output="identity"), 1)
"""For a backend that was named: what it will run does not matter to the choice."""


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count:,} epochs"
