"""The options that several commands share, and the text that all options have in common.

Values are checked by the library, which knows the choices and the ranges; an option only names
them. Options that are left out stay None, so that what was given can be told from a default.
"""

# No postponed annotations here and in the command files: Typer reads these types at run time.

from pathlib import Path
from typing import Annotated

import typer

from fusedmlp.datasets import DATASET_NAMES, SOURCES
from fusedmlp.model import DTYPES
from fusedmlp.network import HIDDEN_ACTIVATIONS
from fusedmlp.optimizers import OPTIMIZERS
from fusedmlp.recipes import MNIST_REPAIRED, SPLITS
from fusedmlp.registry import AUTO, ENVIRONMENT_VARIABLE
from fusedmlp.training.schedules import SCHEDULES

DATA_VARIABLE = "FUSEDMLP_DATA"

_NETWORK, _TRAINING, _DATA, _RUNNING = "Network", "Training", "Data", "Running"


def choices(names: tuple[str, ...]) -> str:
    """Write choices for a help text."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


def given_on_command_line(ctx: typer.Context) -> frozenset[str]:
    """Names of the parameters that the user typed, not taken from variables or defaults."""
    sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
    return frozenset(
        name for name, source in sources.items() if source and source.name == "COMMANDLINE"
    )


Backend = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="numpy, numba, cupy, cupy:1 (device 1), cupy+tf32 or auto; 'fusedmlp backends' says "
        "which work.",
        envvar=ENVIRONMENT_VARIABLE,
        show_default=AUTO,
        rich_help_panel=_RUNNING,
    ),
]

Backends = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,…",
        help="Backends to compare; the first is the reference.",
        show_default="all that are usable here",
        rich_help_panel=_RUNNING,
    ),
]

Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="CPU threads at most.",
        envvar="FUSEDMLP_THREADS",
        show_default="all that this process may use",
        rich_help_panel=_RUNNING,
    ),
]

Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        metavar=" ",
        help="The same bits on numpy, numba and cupy, and far slower.",
        envvar="FUSEDMLP_STRICT",
        rich_help_panel=_RUNNING,
    ),
]

Seed = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Decides weights, shuffles, dropout, and the split or points of a built-in set.",
        envvar="FUSEDMLP_SEED",
        show_default="0",
        rich_help_panel=_RUNNING,
    ),
]

Json = Annotated[
    bool,
    typer.Option(
        "--json",
        metavar=" ",
        help="Print one JSON object on stdout; progress and notes stay on stderr.",
        rich_help_panel=_RUNNING,
    ),
]

Dataset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|PATH",
        help=f"{', '.join(DATASET_NAMES)}, or a folder of IDX files, an .npz or a .csv file.",
        envvar="FUSEDMLP_DATASET",
        show_default="mnist",
        rich_help_panel=_DATA,
    ),
]

DataDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder with the IDX files of mnist or fashion-mnist, asked before any download.",
        envvar=DATA_VARIABLE,
        rich_help_panel=_DATA,
    ),
]

Source = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Get mnist or fashion-mnist from here alone: {choices(SOURCES)}.",
        envvar="FUSEDMLP_SOURCE",
        show_default="all, in this order",
        rich_help_panel=_DATA,
    ),
]

Split = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="mnist and fashion-mnist: canonical (60,000 rows to train on and 10,000 to test on) "
        "or workshop (56,000 and 14,000).",
        envvar="FUSEDMLP_SPLIT",
        show_default=SPLITS[0],
        rich_help_panel=_DATA,
    ),
]

Target = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Target column of a .csv file: its name, or its number from 0.",
        show_default="the last",
        rich_help_panel=_DATA,
    ),
]

Hidden = Annotated[
    str | None,
    typer.Option(
        metavar="H1,H2,…",
        help="Widths of the hidden layers, such as 256,128; 'none' for a single layer.",
        envvar="FUSEDMLP_HIDDEN",
        show_default=",".join(map(str, MNIST_REPAIRED.hidden)),
        rich_help_panel=_NETWORK,
    ),
]

Activation = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Of the hidden layers: {choices(HIDDEN_ACTIVATIONS)}.",
        envvar="FUSEDMLP_ACTIVATION",
        show_default=MNIST_REPAIRED.activation,
        rich_help_panel=_NETWORK,
    ),
]

Dropout = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Share of hidden units to silence in each training step, in [0, 1).",
        envvar="FUSEDMLP_DROPOUT",
        show_default=f"{MNIST_REPAIRED.dropout:g}",
        rich_help_panel=_NETWORK,
    ),
]

Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Numbers to compute with: {choices(DTYPES)}.",
        envvar="FUSEDMLP_DTYPE",
        show_default=MNIST_REPAIRED.dtype,
        rich_help_panel=_NETWORK,
    ),
]

Optimizer = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"{choices(OPTIMIZERS)}.",
        envvar="FUSEDMLP_OPTIMIZER",
        show_default=f"{MNIST_REPAIRED.optimizer}; adam for real targets",
        rich_help_panel=_TRAINING,
    ),
]

LearningRate = Annotated[
    float | None,
    typer.Option(
        "--lr",
        metavar="RATE",
        help="Learning rate, the highest one where a schedule moves it.",
        envvar="FUSEDMLP_LR",
        show_default=f"{MNIST_REPAIRED.lr:g}; with another activation or optimizer 0.1, "
        "for adam 0.001",
        rich_help_panel=_TRAINING,
    ),
]

Schedule = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"How the learning rate moves: {choices(SCHEDULES)}.",
        envvar="FUSEDMLP_SCHEDULE",
        show_default=MNIST_REPAIRED.schedule,
        rich_help_panel=_TRAINING,
    ),
]

BatchSize = Annotated[
    int | None,
    typer.Option(
        metavar="ROWS",
        help="Rows in each step.",
        envvar="FUSEDMLP_BATCH_SIZE",
        show_default=f"{MNIST_REPAIRED.batch_size}; fewer for small sets",
        rich_help_panel=_TRAINING,
    ),
]

Epochs = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Passes over the training rows, those before a resume included.",
        envvar="FUSEDMLP_EPOCHS",
        show_default=f"{MNIST_REPAIRED.epochs}; more for small sets",
        rich_help_panel=_TRAINING,
    ),
]

L2 = Annotated[
    float | None,
    typer.Option(
        metavar="LAMBDA",
        help="Strength of the penalty on large weights, half of it times the sum of squares.",
        envvar="FUSEDMLP_L2",
        show_default=f"{MNIST_REPAIRED.l2:g}",
        rich_help_panel=_TRAINING,
    ),
]

Validation = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Share of the training rows to hold out and measure after each epoch; 0 for none.",
        envvar="FUSEDMLP_VALIDATION",
        show_default=f"{MNIST_REPAIRED.validation:g}",
        rich_help_panel=_TRAINING,
    ),
]

Output = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="New folder for the model, its history, the checkpoint and the settings.",
        envvar="FUSEDMLP_OUTPUT",
        show_default="runs/DATASET-DATE-TIME",
        rich_help_panel=_RUNNING,
    ),
]

Resume = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Go on with the training in this folder, with its settings. Only --epochs, "
        "--backend, --threads and --data-dir may differ.",
        rich_help_panel=_RUNNING,
    ),
]
