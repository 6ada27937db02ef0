"""``fusedmlp evaluate``: a saved model's loss and accuracy on a data set, and where it errs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import typer

from fusedmlp.cli import console
from fusedmlp.cli.options import DATA, Json, Only, Overrides
from fusedmlp.cli.saved_model import ModelArgument, SavedModel
from fusedmlp.cli.scores import Scores
from fusedmlp.cli.settings import SETTINGS_NAME, DataOptions, RunOptions, Settings
from fusedmlp.datasets import DATASET_NAMES
from fusedmlp.errors import InvalidInputError, UnknownNameError
from fusedmlp.network import OUTPUT_OF_TASK
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    from rich.table import Table

    from fusedmlp.datasets import Dataset

PARTS = ("test", "train", "all")

WIDEST_MATRIX = 12
"""Classes of the largest confusion matrix that is printed; --json has all."""


@dataclass(frozen=True, slots=True)
class _ClassReport:
    """Accuracy of each class, or of each label where a row may have several.

    ``confusion`` counts rows by true class (rows) and predicted class (columns); None for labels.
    """

    kind: Literal["class", "label"]
    names: list[str]
    accuracy: list[float | None]
    confusion: list[list[int]] | None = None

    @classmethod
    def of(
        cls, model: SavedModel, y: "npt.NDArray[np.generic]", predicted: "npt.NDArray[np.generic]"
    ) -> "_ClassReport | None":
        """Compare targets and predictions; None for real targets."""
        network, names = model.mlp.network, model.output_names
        if network.output == "softmax":
            k = network.n_outputs
            pairs = y.astype(np.int64) * k + predicted.astype(np.int64)
            matrix = np.bincount(pairs, minlength=k**2).reshape(k, k)
            rows, right = matrix.sum(axis=1), matrix.diagonal()
            shares = [int(r) / int(n) if n else None for r, n in zip(right, rows, strict=True)]
            return cls("class", names, shares, matrix.tolist())
        if network.output == "sigmoid":
            is_right = y.reshape(len(y), -1) == predicted.reshape(len(y), -1)
            return cls("label", names, is_right.mean(axis=0).tolist())
        return None

    def document(self) -> dict[str, object]:
        """Return plain data for JSON."""
        found = {"class_names": self.names, f"{self.kind}_accuracy": self.accuracy}
        return found if self.confusion is None else {**found, "confusion": self.confusion}

    def _matrix_fits(self) -> bool:
        """Whether the confusion matrix fits into a line of the terminal."""
        names = max(map(len, self.names)) + len("accuracy") + sum(len(n) + 1 for n in self.names)
        return len(self.names) <= WIDEST_MATRIX and names + 2 <= console.stdout().width

    def table(self) -> "Table":
        """Return a table with a row for each class, and the confusion matrix if it fits."""
        table = console.table()
        table.add_column(self.kind, no_wrap=True)
        table.add_column("accuracy", justify="right")
        matrix = self.confusion if self._matrix_fits() else None
        if matrix is not None:
            for name in self.names:
                table.add_column(name, justify="right", no_wrap=True)
            table.caption = "columns: how often each class was predicted for the rows of a class"
        elif self.confusion is not None:
            table.caption = "the confusion matrix does not fit here: --json has it"
        table.caption_justify = "left"
        for index, (name, share) in enumerate(zip(self.names, self.accuracy, strict=True)):
            counts = [] if matrix is None else [str(n) if n else "·" for n in matrix[index]]
            table.add_row(name, "no rows" if share is None else f"{share:.4f}", *counts)
        return table


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
        str | None,
        typer.Option(
            metavar="NAME",
            help="Rows to use: test, train or all.",
            show_default="test; all rows of another file that has no test part",
            rich_help_panel=DATA,
        ),
    ] = None,
    *,
    data: Annotated[Overrides[DataOptions], Only("data_dir", "source", "split", "target")],
    run: Annotated[Overrides[RunOptions], Only("backend", "threads", "seed")],
    json_: Json = False,
) -> None:
    """Measure a saved model on labelled rows.

    Example: fusedmlp evaluate out --dataset new.csv
    """
    if part is not None and part not in PARTS:
        raise UnknownNameError.of("part", part, PARTS)
    saved = SavedModel.load(model, run.apply(RunOptions()))
    trained_on, seed = training_data(saved.path, dataset)
    seed = run.apply(RunOptions(seed=seed)).seed
    loaded = data.apply(trained_on).load(seed, console.note, saved.fitted())
    if part is None:
        part = "all" if loaded.x_test is None and trained_on.test == 0 else "test"
    x, y = _labelled_rows(loaded, part)
    check_fits(saved, loaded)
    saved.mlp.preprocessing = saved.mlp.labels = None  # these rows have been through both
    scores = Scores.of(saved.mlp, x, y)
    report = _ClassReport.of(saved, y, saved.mlp.predict(x))
    document = {
        "model": str(saved.path),
        "dataset": loaded.name,
        "part": part,
        "rows": len(x),
        "backend": saved.backend,
        "loss": scores.loss,
        "accuracy": scores.accuracy,
        "error_rate": None if scores.accuracy is None else 1.0 - scores.accuracy,
        "r2": scores.r2,
        "rmse": scores.rmse,
        **({} if report is None else report.document()),
    }
    if json_:
        console.print_json(document)
        return
    rows = f"{loaded.name}, {'all' if part == 'all' else f'{part} part,'} {counted(len(x), 'row')}"
    console.results([("data", rows), *scores.lines(len(x))])
    if report is not None:
        console.show("")
        console.show(report.table())


def training_data(model: "Path", dataset: str | None) -> tuple[DataOptions, int]:
    """Return the data to measure on, and the seed of their split.

    The settings beside the model name them; for another data set they give the seed alone.
    """
    if (model.parent / SETTINGS_NAME).exists():
        settings = Settings.load(model.parent)
        same = settings.data.dataset
        if dataset is None or same in (dataset, DataOptions(dataset).absolute().dataset):
            return settings.data, settings.run.seed
        return _other_data(dataset, settings.data), settings.run.seed
    if dataset is None:
        raise InvalidInputError(
            f"there is no {SETTINGS_NAME} beside {model} that names its data set: "
            "add --dataset NAME"
        )
    return _other_data(dataset), 0


def _other_data(dataset: str, trained_on: DataOptions | None = None) -> DataOptions:
    """Return the options for data that the model was not trained on: a file's rows are one part."""
    if dataset in DATASET_NAMES:
        return DataOptions(dataset)
    return DataOptions(dataset, test=0, drop=() if trained_on is None else trained_on.drop)


def _labelled_rows(
    data: "Dataset", part: str
) -> "tuple[npt.NDArray[np.uint8 | np.float32 | np.float64], npt.NDArray[np.generic]]":
    """Return one part's inputs and targets."""
    if part == "train" or (part == "all" and data.x_test is None):
        return data.x_train, data.y_train
    if data.x_test is None or data.y_test is None:
        raise InvalidInputError(f"{data.name} has no test part: use --part all")
    if part == "all":
        x, y = (data.x_train, data.x_test), (data.y_train, data.y_test)
        return np.concatenate(x), np.concatenate(y)
    return data.x_test, data.y_test


def check_fits(model: SavedModel, data: "Dataset") -> None:
    """Raise :class:`InvalidInputError` unless the model fits the data set."""
    network = model.mlp.network
    expected = (data.n_inputs, OUTPUT_OF_TASK[data.task], data.n_outputs)
    if (network.n_inputs, network.output, network.n_outputs) != expected:
        found = f"{counted(data.n_inputs, 'input')} and {counted(data.n_outputs, 'output')}"
        raise InvalidInputError(
            f"{model.path} is {network}, but {data.name} has {found} ({data.task}): name the "
            "data set it was trained for"
        )
