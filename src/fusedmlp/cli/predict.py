"""``fusedmlp predict``: a saved model's answers for rows without targets, as CSV, .npy or JSON."""

import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from fusedmlp.cli import console, options
from fusedmlp.cli.evaluate import ModelArgument
from fusedmlp.errors import InvalidInputError

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.model import MLP

OUTPUT_SUFFIXES = (".csv", ".npy")


def predict(
    ctx: typer.Context,
    model: ModelArgument,
    inputs: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Rows: a .csv, .npy, .npz (x_test, x or x_train) or IDX file, or a data set's "
            "name, whose test part is taken.",
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
    skip_column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="A .csv file's column to leave out, such as a target: its name "
            "or its number from 0.",
        ),
    ] = None,
    data_dir: options.DataDir = None,
    backend: options.Backend = None,
    threads: options.Threads = None,
    json_: options.Json = False,
) -> None:
    """Predict with a saved model."""
    from fusedmlp.cli.inputs import load_inputs
    from fusedmlp.cli.outputs import model_path
    from fusedmlp.model import MLP

    typed = options.given_on_command_line(ctx)
    if output is not None:
        _check_output(output)
    path = model_path(model)
    mlp = MLP.load(path, backend=backend if "backend" in typed else None, threads=threads)
    chosen, mlp.backend = mlp.select_backend()
    folder = data_dir if "data_dir" in typed else None
    x = load_inputs(inputs, skip_column=skip_column, data_dir=folder)
    answers = mlp.predict_proba(x) if proba else mlp.predict(x)
    if output is not None:
        _write(output, mlp, answers, proba=proba)
        console.note(f"{len(x):,} predictions written to {output}")
    if json_:
        console.print_json(
            {
                "model": str(path),
                "input": inputs,
                "rows": len(x),
                "backend": str(chosen),
                "class_names": mlp.class_names,
                "output": None if output is None else str(output),
                "probabilities" if proba else "predictions": answers.tolist(),
            }
        )
    elif output is None:
        sys.stdout.write(as_csv(mlp, answers, proba=proba))


def as_csv(mlp: "MLP", answers: "npt.NDArray[np.generic]", *, proba: bool) -> str:
    """Write one line a row under a header; classes by their names."""
    names = list(mlp.class_names or map(str, range(mlp.network.n_outputs)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if answers.ndim == 2:
        # A float's shortest text that reads back to the same float.
        writer.writerow(names)
        writer.writerows([str(value) for value in row] for row in answers)
        return text.getvalue()
    writer.writerow(["prediction"])
    is_class = mlp.network.output == "softmax" and not proba
    writer.writerows([names[int(value)] if is_class else str(value)] for value in answers)
    return text.getvalue()


def _check_output(output: Path) -> None:
    if output.suffix.lower() not in OUTPUT_SUFFIXES:
        raise InvalidInputError(
            f"--output {output}: its name must end in {' or '.join(OUTPUT_SUFFIXES)}"
        )
    if output.exists():
        raise InvalidInputError(f"--output {output} exists: remove it, or name another file")
    from fusedmlp.io.atomic import check_writable

    check_writable(output.parent)


def _write(output: Path, mlp: "MLP", answers: "npt.NDArray[np.generic]", *, proba: bool) -> None:
    from fusedmlp.io.atomic import write_atomically

    if output.suffix.lower() == ".csv":
        content = as_csv(mlp, answers, proba=proba).encode()
    else:
        buffer = io.BytesIO()
        np.save(buffer, answers, allow_pickle=False)
        content = buffer.getvalue()
    write_atomically(output, content)
