"""``fusedmlp evaluate``: a saved model's loss and accuracy on a data set, and where it errs."""

from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from fusedmlp.cli import console
from fusedmlp.cli.options import DATA, Json, Only, Overrides
from fusedmlp.cli.saved_model import ModelArgument, SavedModel
from fusedmlp.cli.settings import SETTINGS_NAME, DataOptions, RunOptions, Settings
from fusedmlp.errors import InvalidInputError, UnknownNameError
from fusedmlp.network import OUTPUT_OF_TASK

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from fusedmlp.datasets import Dataset
    from fusedmlp.model import Metrics

PARTS = ("test", "train")

WIDEST_MATRIX = 12
"""Classes of the largest confusion matrix that is printed; --json has all."""


def evaluate(
    model: ModelArgument,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH",
            help="As for train.",
            show_default="what the model was trained on",
            rich_help_panel=DATA,
        ),
    ] = None,
    part: Annotated[
        str, typer.Option(metavar="NAME", help="Rows to use: test or train.", rich_help_panel=DATA)
    ] = PARTS[0],
    *,
    data: Annotated[Overrides[DataOptions], Only("data_dir", "source", "split", "target")],
    run: Annotated[Overrides[RunOptions], Only("backend", "threads", "seed")],
    json_: Json = False,
) -> None:
    """Measure a saved model on labelled rows."""
    if part not in PARTS:
        raise UnknownNameError.of("part", part, PARTS)
    saved = SavedModel.load(model, run.apply(RunOptions()))
    trained_on, seed = _training_data(saved.path, dataset)
    seed = run.apply(RunOptions(seed=seed)).seed
    loaded = data.apply(trained_on).load(seed, console.note)
    x, y = _labelled_rows(loaded, part)
    _check_fits(saved, loaded)
    metrics = saved.mlp.evaluate(x, y)
    document = {
        "model": str(saved.path),
        "dataset": loaded.name,
        "part": part,
        "rows": len(x),
        "backend": saved.backend,
        "loss": metrics.loss,
        "accuracy": metrics.accuracy,
        "error_rate": None if metrics.accuracy is None else 1.0 - metrics.accuracy,
        **_details(saved, y, saved.mlp.predict(x)),
    }
    if json_:
        console.print_json(document)
        return
    _print_figures(loaded, part, len(x), metrics)
    _print_classes(saved, document)


def _training_data(model: "Path", dataset: str | None) -> tuple[DataOptions, int]:
    """Return the data to measure on, and the seed of their split.

    The settings beside the model name them; for another data set they give the seed alone.
    """
    if (model.parent / SETTINGS_NAME).exists():
        settings = Settings.load(model.parent)
        is_same = dataset in (None, settings.data.dataset)
        return settings.data if is_same else DataOptions(str(dataset)), settings.run.seed
    if dataset is None:
        raise InvalidInputError(
            f"there is no {SETTINGS_NAME} beside {model} that names its data set: "
            "add --dataset NAME"
        )
    return DataOptions(dataset), 0


def _labelled_rows(
    data: "Dataset", part: str
) -> "tuple[npt.NDArray[np.uint8 | np.float32 | np.float64], npt.NDArray[np.generic]]":
    """Return one part's inputs and targets."""
    if part == "train":
        return data.x_train, data.y_train
    if data.x_test is None or data.y_test is None:
        raise InvalidInputError(f"{data.name} has no test part: use --part train")
    return data.x_test, data.y_test


def _check_fits(model: SavedModel, data: "Dataset") -> None:
    """Raise :class:`InvalidInputError` unless the model fits the data set."""
    network = model.mlp.network
    expected = (data.n_inputs, OUTPUT_OF_TASK[data.task], data.n_outputs)
    if (network.n_inputs, network.output, network.n_outputs) != expected:
        raise InvalidInputError(
            f"{model.path} is {network}, but {data.name} has {data.n_inputs} inputs and "
            f"{data.n_outputs} outputs ({data.task}): name the data set it was trained for"
        )


def _details(
    model: SavedModel, y: "npt.NDArray[np.generic]", predicted: "npt.NDArray[np.generic]"
) -> dict[str, object]:
    """Measure each class, with the confusion matrix, or each label where there are several."""
    network = model.mlp.network
    n_outputs = network.n_outputs
    if network.output == "softmax":
        pairs = y.astype(np.int64) * n_outputs + predicted.astype(np.int64)
        matrix = np.bincount(pairs, minlength=n_outputs**2).reshape(n_outputs, n_outputs)
        rows, right = matrix.sum(axis=1), matrix.diagonal()
        shares = [int(r) / int(n) if n else None for r, n in zip(right, rows, strict=True)]
        return {
            "class_names": model.output_names,
            "class_accuracy": shares,
            "confusion": matrix.tolist(),  # rows: true class, columns: predicted class
        }
    if network.output == "sigmoid":
        right = (y.reshape(len(y), -1) == predicted.reshape(len(y), -1)).mean(axis=0)
        return {"class_names": model.output_names, "label_accuracy": right.tolist()}
    return {}


def _print_figures(data: "Dataset", part: str, n_rows: int, metrics: "Metrics") -> None:
    from fusedmlp.cli.progress import loss_text

    lines = [
        ("data", f"{data.name}, {part} part, {n_rows:,} rows"),
        ("loss", loss_text(metrics.loss)),
    ]
    if metrics.accuracy is not None:
        wrong = round((1 - metrics.accuracy) * n_rows)
        error_rate = f"{100 * (1 - metrics.accuracy):.2f} % ({wrong:,} of {n_rows:,} rows wrong)"
        lines += [("accuracy", f"{metrics.accuracy:.4f}"), ("error rate", error_rate)]
    console.results(lines)


def _print_classes(model: SavedModel, document: dict[str, object]) -> None:
    names = model.output_names
    shares = document.get("class_accuracy") or document.get("label_accuracy")
    matrix = document.get("confusion")
    if not isinstance(shares, list):
        return
    has_matrix = isinstance(matrix, list) and len(names) <= WIDEST_MATRIX
    table = console.table()
    table.add_column("class" if model.mlp.network.output == "softmax" else "label", no_wrap=True)
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
