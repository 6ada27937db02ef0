"""``fusedmlp predict``: a saved model's predictions for rows without targets.

They are written as CSV, .npy or JSON.
"""

import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from fusedmlp.cli import console
from fusedmlp.cli.options import Json, Only
from fusedmlp.cli.saved_model import ModelArgument, SavedModel
from fusedmlp.cli.settings import DataOptions, RunOptions
from fusedmlp.errors import InvalidInputError
from fusedmlp.wording import counted

if TYPE_CHECKING:
    import numpy.typing as npt

OUTPUT_SUFFIXES = (".csv", ".npy")


def predict(
    model: ModelArgument,
    inputs: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Rows: a .csv, .npy, .npz (x_test, x or x_train) or IDX file, or a data set's "
            "name for its test part.",
            show_default=False,
        ),
    ],
    proba: Annotated[
        bool, typer.Option("--proba", help="Give probabilities instead of the likeliest class.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="New .csv or .npy file (class numbers or probabilities).",
            show_default="CSV on stdout",
        ),
    ] = None,
    *,
    data: Annotated[DataOptions, Only("data_dir", "drop")],
    run: Annotated[RunOptions, Only("backend", "threads")],
    json_: Json = False,
) -> None:
    """Predict with a saved model.

    Example: fusedmlp predict out rows.csv --proba --output probabilities.csv
    """
    from fusedmlp.cli.inputs import load_inputs

    if output is not None:
        _check_output(output)
    saved = SavedModel.load(model, run)
    x = load_inputs(inputs, saved.mlp, drop=data.drop, data_dir=data.data_dir)
    predicted = saved.mlp.predict_proba(x) if proba else saved.mlp.predict(x)
    if output is not None:
        _write(output, saved, predicted, proba=proba)
        console.note(f"{counted(len(predicted), 'prediction')} written to {output}")
    if json_:
        console.print_json(
            {
                "model": str(saved.path),
                "input": inputs,
                "rows": len(predicted),
                "backend": saved.backend,
                "class_names": saved.mlp.class_names,
                "output": None if output is None else str(output),
                "probabilities" if proba else "predictions": predicted.tolist(),
            }
        )
    elif output is None:
        sys.stdout.write(as_csv(saved, predicted, proba=proba))


def as_csv(model: SavedModel, predicted: "npt.NDArray[np.generic]", *, proba: bool) -> str:
    """Return a header and one line for each row; classes are named."""
    names = model.output_names
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if predicted.ndim == 2:
        # A float's shortest text that reads back to the same float.
        writer.writerow(names)
        writer.writerows([str(value) for value in row] for row in predicted)
        return text.getvalue()
    writer.writerow(["prediction"])
    is_index = model.mlp.network.output == "softmax" and model.mlp.labels is None and not proba
    writer.writerows([names[int(value)] if is_index else str(value)] for value in predicted)
    return text.getvalue()


def _check_output(output: Path) -> None:
    if output.suffix.lower() not in OUTPUT_SUFFIXES:
        raise InvalidInputError(
            f"--output {output}: its name must end in {' or '.join(OUTPUT_SUFFIXES)}"
        )
    from fusedmlp.io.atomic import check_writable, storage_errors

    with storage_errors(f"cannot write {output}", "name another file"):
        exists = output.exists()
    if exists:
        raise InvalidInputError(f"--output {output} exists: remove it, or name another file")
    check_writable(output.parent)


def _write(
    output: Path, model: SavedModel, predicted: "npt.NDArray[np.generic]", *, proba: bool
) -> None:
    from fusedmlp.io.atomic import write_atomically

    if output.suffix.lower() == ".csv":
        content = as_csv(model, predicted, proba=proba).encode()
    else:
        buffer = io.BytesIO()
        np.save(buffer, predicted, allow_pickle=False)
        content = buffer.getvalue()
    write_atomically(output, content)
