"""``fusedmlp train``: from options to a trained model in a folder.

What can fail does so before the work: settings, a backend named outright, the folder, the data,
and only then the training. The training itself is the library's Trainer.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import typer

from fusedmlp.cli import console, options
from fusedmlp.cli.settings import DataRequest, Settings
from fusedmlp.errors import InvalidInputError
from fusedmlp.recipes import MNIST_REPAIRED

_RECIPE_OPTIONS = (
    "hidden", "activation", "optimizer", "lr", "batch_size", "epochs", "dropout", "l2",
    "schedule", "validation", "dtype",
)  # fmt: skip
_MAY_DIFFER_ON_RESUME = {"epochs", "backend", "threads", "data_dir"}
_NOT_SETTINGS = {"resume", "output", "json_"}


@dataclass(frozen=True)
class Given:
    """What the user asked for.

    Parameters
    ----------
    values
        Every option by its parameter's name; None where nothing was said.
    typed
        Names of those that are on the command line, not in the environment.
    """

    values: dict[str, object]
    typed: frozenset[str]

    def changes(self) -> dict[str, object]:
        """Return the recipe's fields that were asked for."""
        return {name: self.values[name] for name in _RECIPE_OPTIONS}


def train(
    ctx: typer.Context,
    dataset: options.Dataset = None,
    data_dir: options.DataDir = None,
    source: options.Source = None,
    split: options.Split = None,
    target: options.Target = None,
    hidden: options.Hidden = None,
    activation: options.Activation = None,
    dropout: options.Dropout = None,
    dtype: options.Dtype = None,
    optimizer: options.Optimizer = None,
    lr: options.LearningRate = None,
    schedule: options.Schedule = None,
    batch_size: options.BatchSize = None,
    epochs: options.Epochs = None,
    l2: options.L2 = None,
    validation: options.Validation = None,
    backend: options.Backend = None,
    threads: options.Threads = None,
    strict: options.Strict = False,
    seed: options.Seed = None,
    output: options.Output = None,
    resume: options.Resume = None,
    json_: options.Json = False,
) -> None:
    """Train a network, by default 784-256-10 on MNIST; save the model and its history.

    Ctrl-C keeps the last finished epoch; go on with --resume DIR.
    """
    from fusedmlp.cli import training

    values: dict[str, object] = {
        "dataset": dataset,
        "data_dir": None if data_dir is None else str(data_dir),
        "source": source,
        "split": split,
        "target": target,
        "hidden": None if hidden is None else parse_hidden(hidden),
        "activation": activation,
        "dropout": dropout,
        "dtype": dtype,
        "optimizer": optimizer,
        "lr": lr,
        "schedule": schedule,
        "batch_size": batch_size,
        "epochs": epochs,
        "l2": l2,
        "validation": validation,
        "backend": backend,
        "threads": threads,
        "strict": strict,
        "seed": seed,
    }
    given = Given(values, options.given_on_command_line(ctx))
    if resume is None:
        task = training.fresh(fresh_settings(given), given.changes(), output)
    else:
        if "output" in given.typed:
            raise InvalidInputError(
                f"--output {output} and --resume {resume} were both given: a resumed training "
                "goes on in its own folder, leave --output out"
            )
        task = training.resumed(resume, lambda settings: resumed_settings(settings, given, resume))
    result = task.run()
    if json_:
        console.print_json(result.document)
    else:
        result.print()


def fresh_settings(given: Given) -> Settings:
    """Check the options against the library and complete them, as far as no data is needed."""
    recipe = MNIST_REPAIRED.changed(given.changes())
    recipe.check()
    values = given.values
    dataset = values["dataset"] or "mnist"
    # FUSEDMLP_DATA is the library's own variable: it applies to the sets that ask for it and is
    # no mistake for the others, as a --data-dir on the command line would be.
    data = DataRequest(
        dataset=str(dataset),
        data_dir=_text(values["data_dir"]) if "data_dir" in given.typed else None,
        source=_text(values["source"]),
        split=_text(values["split"]),
        target=_text(values["target"]),
    )
    return Settings(
        data=data,
        seed=_number(values["seed"]) or 0,
        # Left to the registry, which reads the variable itself and says that it did.
        backend=_text(values["backend"]) if "backend" in given.typed else None,
        threads=_number(values["threads"]),
        strict=bool(values["strict"]),
        recipe=recipe,
    )


def resumed_settings(before: Settings, given: Given, folder: Path) -> Settings:
    """Take a folder's settings, with the few changes that a resume allows.

    Raises
    ------
    InvalidInputError
        Another option was typed whose value is not the folder's.
    """
    wanted = dict(given.values)
    if wanted["dataset"] is not None:
        wanted["dataset"] = DataRequest(str(wanted["dataset"])).absolute().dataset
    stored = {
        **before.recipe.to_dict(),
        **{name: getattr(before.data, name) for name in DataRequest.__slots__},
        "hidden": before.recipe.hidden,
        "seed": before.seed,
        "strict": before.strict,
    }
    for name in sorted(given.typed - _MAY_DIFFER_ON_RESUME - _NOT_SETTINGS):
        if wanted[name] != stored[name]:
            raise InvalidInputError(
                f"--{name.replace('_', '-')} {_as_typed(wanted[name])} does not fit "
                f"--resume {folder}, whose training has {_as_typed(stored[name])}: leave the "
                "option out, or start a new training"
            )
    typed = {name: wanted[name] for name in _MAY_DIFFER_ON_RESUME & given.typed}
    data, recipe = before.data, before.recipe
    if "data_dir" in typed:
        data = replace(data, data_dir=_text(typed["data_dir"]))
    if "epochs" in typed:
        recipe = recipe.changed({"epochs": typed["epochs"]})
        recipe.check()
    return replace(
        before,
        data=data,
        recipe=recipe,
        backend=_text(typed.get("backend", before.backend)),
        threads=_number(typed.get("threads", before.threads)),
    )


def parse_hidden(text: str) -> tuple[int, ...]:
    """Read ``256,128``, or ``none`` for no hidden layer.

    Raises
    ------
    InvalidInputError
        It is neither.
    """
    if text.strip().lower() == "none":
        return ()
    widths = text.split(",")
    if not all(width.strip().isdecimal() and int(width) for width in widths):
        raise InvalidInputError(
            f"--hidden {text!r}: give widths of at least 1 such as 256 or 256,128, or 'none'"
        )
    return tuple(int(width) for width in widths)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _as_typed(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
