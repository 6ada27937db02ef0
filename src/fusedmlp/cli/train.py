"""``fusedmlp train``: from options to a trained model in a folder.

This file turns options into settings, new or of a folder to resume; training.py trains.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from fusedmlp.cli.options import (
    RUNNING,
    Json,
    Option,
    Overrides,
    T,
    as_typed,
    flag,
    option_fields,
)
from fusedmlp.cli.outputs import OutputFolder
from fusedmlp.cli.recipes import DEFAULT_RECIPE, Recipe
from fusedmlp.cli.settings import DataOptions, RunOptions, Settings
from fusedmlp.errors import InvalidInputError
from fusedmlp.plot.style import check_matplotlib_installed

_MAY_CHANGE = [
    flag(name)
    for cls in (Recipe, RunOptions, DataOptions)
    for name, each in option_fields(cls).items()
    if each.option.may_change_on_resume
]


@dataclass(frozen=True, slots=True)
class FolderOptions:
    """The folder that a training writes, and whether pictures belong to it."""

    output: Annotated[
        Path | None,
        Option(
            "New folder for the model, its history, the checkpoint and the settings.",
            "DIR",
            RUNNING,
            note="runs/DATASET-DATE-TIME",
        ),
    ] = None
    resume: Annotated[
        Path | None,
        Option(
            "Continue the training in this folder, with its settings. Only "
            f"{', '.join(_MAY_CHANGE[:-1])} and {_MAY_CHANGE[-1]} may differ.",
            "DIR",
            RUNNING,
            variable=None,
        ),
    ] = None
    plot: Annotated[
        bool,
        Option(
            "Also draw pictures that suit the data into the folder, as PNG files; needs "
            "fusedmlp[plot].",
            " ",
            RUNNING,
        ),
    ] = False


def train(
    data: Overrides[DataOptions],
    recipe: Overrides[Recipe],
    run: Overrides[RunOptions],
    folders: Overrides[FolderOptions],
    json_: Json = False,
) -> None:
    """Train a network, by default 784-256-10 on MNIST; save the model and its history.

    Ctrl-C keeps the last finished epoch; continue with --resume DIR.

    Example: fusedmlp train --dataset digits --hidden 64,32 --output out
    """
    from fusedmlp.cli.training import Training

    given = folders.apply(FolderOptions())
    if given.plot:
        check_matplotlib_installed()
    if given.resume is None:
        settings = Settings(
            data=data.apply(DataOptions()),
            run=run.apply(RunOptions()),
            recipe=DEFAULT_RECIPE.changed(recipe.values),
        )
        settings.recipe.check()
        with OutputFolder.new(given.output, settings.data.dataset) as folder:
            training = Training(settings, folder, recipe.values)
            training.run(plot=given.plot).print(as_json=json_)
        return
    if "output" in folders.typed:
        raise InvalidInputError(
            f"--output {given.output} does not go with --resume {given.resume}, which "
            "continues in its own folder: leave --output out"
        )
    with OutputFolder.existing(given.resume) as folder:
        stored = Settings.load(folder.path)
        settings = Settings(
            data=_resumed(stored.data, data, given.resume),
            run=_resumed(stored.run, run, given.resume),
            recipe=_resumed(stored.recipe, recipe, given.resume),
        )
        settings.recipe.check()
        training = Training(settings, folder)
        training.note_changed_epochs(stored.recipe.epochs)
        training.run(plot=given.plot).print(as_json=json_)


def _resumed(stored: T, overrides: Overrides[T], folder: Path) -> T:
    """Apply the options that may differ on a resume; refuse others that differ."""
    changed: object = replace(stored, **overrides.typed)
    if isinstance(changed, DataOptions):
        changed = changed.absolute()
    declared = option_fields(type(stored))
    allowed = {}
    for name, value in overrides.typed.items():
        kept = getattr(stored, name)
        if declared[name].option.may_change_on_resume:
            allowed[name] = value
        elif getattr(changed, name) != kept:
            raise InvalidInputError(
                f"{flag(name)} {as_typed(value)} does not fit --resume {folder}, whose training "
                f"has {as_typed(kept)}: leave the option out, or start a new training"
            )
    return replace(stored, **allowed)
