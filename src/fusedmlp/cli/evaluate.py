"""``fusedmlp evaluate``: a saved model's loss and accuracy on a data set, and where it errs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from fusedmlp.cli import console, options
from fusedmlp.cli.settings import SETTINGS_NAME, DataRequest, Settings
from fusedmlp.errors import InvalidInputError, UnknownNameError
from fusedmlp.recipes import OUTPUT_OF_TASK

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.datasets import Dataset
    from fusedmlp.model import MLP, Metrics

PARTS = ("test", "train")

WIDEST_MATRIX = 12
"""Confusion matrices of more classes than this are for --json only."""

ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A model.safetensors, or the folder of a training.",
        show_default=False,
    ),
]


def evaluate(
    ctx: typer.Context,
    model: ModelArgument,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH",
            help="As for train.",
            show_default="what the model was trained on",
            rich_help_panel="Data",
        ),
    ] = None,
    part: Annotated[
        str,
        typer.Option(metavar="NAME", help="Rows to use: test or train.", rich_help_panel="Data"),
    ] = PARTS[0],
    data_dir: options.DataDir = None,
    source: options.Source = None,
    split: options.Split = None,
    target: options.Target = None,
    backend: options.Backend = None,
    threads: options.Threads = None,
    seed: options.Seed = None,
    json_: options.Json = False,
) -> None:
    """Measure a saved model on labelled rows."""
    from fusedmlp.cli.outputs import model_path
    from fusedmlp.model import MLP

    if part not in PARTS:
        raise UnknownNameError.of("part", part, PARTS)
    typed = options.given_on_command_line(ctx)
    path = model_path(model)
    mlp = MLP.load(path, backend=backend if "backend" in typed else None, threads=threads)
    chosen, backend_built = mlp.select_backend()
    mlp.backend = backend_built
    changes = {
        "data_dir": str(data_dir) if data_dir is not None and "data_dir" in typed else None,
        "source": source,
        "split": split,
        "target": target,
    }
    request, trained_seed = request_for(path, dataset, changes)
    data = request.load(trained_seed if seed is None else seed, console.note)
    x, y = labelled_rows(data, part)
    check_fits(mlp, data, path)
    metrics = mlp.evaluate(x, y)
    predicted = mlp.predict(x)
    document = {
        "model": str(path),
        "dataset": data.name,
        "part": part,
        "rows": len(x),
        "backend": str(chosen),
        "loss": metrics.loss,
        "accuracy": metrics.accuracy,
        "error_rate": None if metrics.accuracy is None else 1.0 - metrics.accuracy,
        **details(mlp, y, predicted),
    }
    if json_:
        console.print_json(document)
        return
    _print_figures(data, part, len(x), metrics)
    _print_classes(mlp, document)


def request_for(
    model: Path, dataset: str | None, changes: dict[str, str | None]
) -> tuple[DataRequest, int]:
    """Return the data to measure on, and the seed of their split.

    Without a name they are those of the training whose settings lie beside the model.
    """
    chosen = {name: value for name, value in changes.items() if value is not None}
    has_settings = (model.parent / SETTINGS_NAME).exists()
    if dataset is None and not has_settings:
        raise InvalidInputError(
            f"there is no {SETTINGS_NAME} beside {model} that would name its data set: "
            "add --dataset NAME"
        )
    if not has_settings:
        return DataRequest(str(dataset), **chosen), 0
    settings = Settings.load(model.parent)
    before = settings.data
    if dataset in (None, before.dataset):
        kept = {name: getattr(before, name) for name in ("data_dir", "source", "split", "target")}
        return DataRequest(before.dataset, **{**kept, **chosen}), settings.seed
    return DataRequest(str(dataset), **chosen), settings.seed


def labelled_rows(
    data: "Dataset", part: str
) -> "tuple[npt.NDArray[np.uint8 | np.float32 | np.float64], npt.NDArray[np.generic]]":
    """Return one part's inputs and targets."""
    if part == "train":
        return data.x_train, data.y_train
    if data.x_test is None or data.y_test is None:
        raise InvalidInputError(f"{data.name} has no test part: use --part train")
    return data.x_test, data.y_test


def check_fits(mlp: "MLP", data: "Dataset", path: Path) -> None:
    """Raise :class:`InvalidInputError` unless the model is of the data set's kind."""
    network = mlp.network
    expected = (data.n_inputs, OUTPUT_OF_TASK[data.task], data.n_outputs)
    if (network.n_inputs, network.output, network.n_outputs) != expected:
        raise InvalidInputError(
            f"{path} is {network}, but {data.name} has {data.n_inputs} inputs and "
            f"{data.n_outputs} outputs ({data.task}): name the data set it was trained for"
        )


def details(
    mlp: "MLP", y: "npt.NDArray[np.generic]", predicted: "npt.NDArray[np.generic]"
) -> dict[str, object]:
    """Where the model is right: by class, with the confusion matrix; by label for several."""
    n_outputs = mlp.network.n_outputs
    if mlp.network.output == "softmax":
        pairs = y.astype(np.int64) * n_outputs + predicted.astype(np.int64)
        matrix = np.bincount(pairs, minlength=n_outputs**2).reshape(n_outputs, n_outputs)
        rows, right = matrix.sum(axis=1), matrix.diagonal()
        shares = [int(r) / int(n) if n else None for r, n in zip(right, rows, strict=True)]
        return {
            "class_names": _names(mlp),
            "class_accuracy": shares,
            "confusion": matrix.tolist(),  # rows: true class, columns: predicted class
        }
    if mlp.network.output == "sigmoid":
        right = (y.reshape(len(y), -1) == predicted.reshape(len(y), -1)).mean(axis=0)
        return {"class_names": _names(mlp), "label_accuracy": right.tolist()}
    return {}


def _names(mlp: "MLP") -> list[str]:
    return list(mlp.class_names or map(str, range(mlp.network.n_outputs)))


def _print_figures(data: "Dataset", part: str, n_rows: int, metrics: "Metrics") -> None:
    from fusedmlp.cli.progress import loss_text

    out = console.stdout()
    console.labelled("data", f"{data.name}, {part} part, {n_rows:,} rows", out)
    console.labelled("loss", loss_text(metrics.loss), out)
    if metrics.accuracy is not None:
        wrong = round((1 - metrics.accuracy) * n_rows)
        console.labelled("accuracy", f"{metrics.accuracy:.4f}", out)
        error_rate = f"{100 * (1 - metrics.accuracy):.2f} % ({wrong:,} of {n_rows:,} rows wrong)"
        console.labelled("error rate", error_rate, out)


def _print_classes(mlp: "MLP", document: dict[str, object]) -> None:
    from rich import box
    from rich.table import Table

    names = _names(mlp)
    shares = document.get("class_accuracy") or document.get("label_accuracy")
    matrix = document.get("confusion")
    if not isinstance(shares, list):
        return
    has_matrix = isinstance(matrix, list) and len(names) <= WIDEST_MATRIX
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("class" if mlp.network.output == "softmax" else "label", no_wrap=True)
    table.add_column("accuracy", justify="right")
    for name in names if has_matrix else ():
        table.add_column(name, justify="right", no_wrap=True)
    for index, (name, share) in enumerate(zip(names, shares, strict=True)):
        cells = [name, "no rows" if share is None else f"{share:.4f}"]
        if isinstance(matrix, list) and has_matrix:
            cells += [str(count) if count else "·" for count in matrix[index]]
        table.add_row(*cells)
    if has_matrix:
        table.caption = "columns: how often each class was predicted for the rows of a class"
        table.caption_justify = "left"
    console.show("")
    console.show(table)
