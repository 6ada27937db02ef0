"""``fusedmlp train``: from options to a trained model in a folder.

This file turns options into settings, new or of a folder to resume; training.py trains.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fusedmlp.cli import console
from fusedmlp.cli.options import (
    RUNNING,
    Json,
    Overrides,
    T,
    as_typed,
    declared_options,
    flag,
    is_typed,
)
from fusedmlp.cli.outputs import OutputFolder
from fusedmlp.cli.recipes import DEFAULT_RECIPE, Recipe
from fusedmlp.cli.settings import DataOptions, RunOptions, Settings
from fusedmlp.errors import InvalidInputError


def train(
    context: typer.Context,
    data: Overrides[DataOptions],
    recipe: Overrides[Recipe],
    run: Overrides[RunOptions],
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="New folder for the model, its history, the checkpoint and the settings.",
            envvar="FUSEDMLP_OUTPUT",
            show_default="runs/DATASET-DATE-TIME",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Continue the training in this folder, with its settings. Only --epochs, "
            "--backend, --threads and --data-dir may differ.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Train a network, by default 784-256-10 on MNIST; save the model and its history.

    Ctrl-C keeps the last finished epoch; continue with --resume DIR.
    """
    from fusedmlp.cli.training import Training

    if resume is None:
        settings = Settings(
            data.apply(DataOptions()),
            run.apply(RunOptions()),
            DEFAULT_RECIPE.changed(recipe.values),
        )
        settings.recipe.check()
        folder = OutputFolder.new(output, settings.data.dataset)
        training = Training(settings, folder, recipe.values)
    else:
        if is_typed(context, "output"):
            raise InvalidInputError(
                f"--output {output} does not go with --resume {resume}, which continues in its own "
                "folder: leave --output out"
            )
        folder = OutputFolder.existing(resume)
        stored = Settings.load(folder.path)
        settings = Settings(
            _resumed(stored.data, data, resume),
            _resumed(stored.run, run, resume),
            _resumed(stored.recipe, recipe, resume),
        )
        settings.recipe.check()
        folder.prepare_to_resume()
        training = Training(settings, folder)
        training.note_changed_epochs(stored.recipe.epochs)
    result = training.run()
    if json_:
        console.print_json(result.document)
    else:
        result.print()


def _resumed(stored: T, overrides: Overrides[T], folder: Path) -> T:
    """Apply the options of the command line that may differ on a resume.

    Raises
    ------
    InvalidInputError
        Another option has a value that is not the folder's.
    """
    changed: object = replace(stored, **overrides.typed)
    if isinstance(changed, DataOptions):
        changed = changed.absolute()
    declared = declared_options(type(stored))
    allowed = {}
    for name, value in overrides.typed.items():
        kept = getattr(stored, name)
        if declared[name].may_change_on_resume:
            allowed[name] = value
        elif getattr(changed, name) != kept:
            raise InvalidInputError(
                f"{flag(name)} {as_typed(value)} does not fit --resume {folder}, whose training "
                f"has {as_typed(kept)}: leave the option out, or start a new training"
            )
    return replace(stored, **allowed)
