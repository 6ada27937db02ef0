"""Rows to predict, from a file or a data set: inputs, no targets needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from fusedmlp.cli import console
from fusedmlp.datasets import DATASET_NAMES, load_dataset
from fusedmlp.datasets.csv_file import read_csv
from fusedmlp.datasets.file_errors import convert_read_errors, open_regular
from fusedmlp.datasets.idx import read_idx
from fusedmlp.datasets.npz import read_npy, read_npz
from fusedmlp.datasets.raw_data import as_rows
from fusedmlp.errors import DataUnavailableError, InvalidInputError
from fusedmlp.io.paths import expanded
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from fusedmlp.model import MLP
    from fusedmlp.preprocessing import Table
    from fusedmlp.types import DenseInputs

_NPZ_KEYS = ("x_test", "x", "x_train")


def load_inputs(
    source: str, mlp: MLP, *, drop: tuple[str, ...], data_dir: str | None
) -> DenseInputs | Table:
    """Read rows (N, D), or the columns of a table for a model that has a preprocessing.

    Parameters
    ----------
    source
        A data set's name (its test part), or the path of a ``.csv``, ``.npy`` or ``.npz`` file or
        of an IDX file of images, plain or ``.gz``.
    drop
        Columns of a ``.csv`` file to leave out: names, or numbers from 0.

    Raises
    ------
    InvalidInputError, DataUnavailableError
        The content does not fit the model; the file is missing, truncated or of another format.
    """
    path = expanded(source)
    is_csv = path.suffix.lower() == ".csv"
    if drop and not is_csv:
        raise InvalidInputError(f"--drop {','.join(drop)} is for .csv files, not for {source}")
    if source in DATASET_NAMES:
        dataset = load_dataset(source, data_dir=data_dir)
        inputs = dataset.x_train if dataset.x_test is None else dataset.x_test
        return cast("DenseInputs", inputs)
    with convert_read_errors(path):
        is_file = path.is_file()
    if not is_file:
        raise DataUnavailableError(
            f"{source} is neither a file nor a data set: give a .csv, .npy, .npz or IDX file, "
            f"or one of {', '.join(DATASET_NAMES)}"
        )
    if is_csv:
        return _read_table(path, mlp, drop)
    array = _read_numpy(path) if path.suffix.lower() in (".npy", ".npz") else read_idx(path)
    rows, _ = as_rows(array, str(path))
    return cast("DenseInputs", rows)


def _read_table(path: Path, mlp: MLP, drop: tuple[str, ...]) -> DenseInputs | Table:
    preprocessing = mlp.preprocessing
    texts: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    if preprocessing is not None:
        texts, names = preprocessing.text_columns, preprocessing.expected_names
    table = read_csv(path, texts, console.note, names)
    dropped = {table.find(column) for column in drop}
    table = table.select([j for j in range(table.n_columns) if j not in dropped])
    if preprocessing is not None:
        if preprocessing.has_names and table.names is None:
            console.note(f"{path.name} has no header: its columns are taken in training's order")
        ignored = preprocessing.ignored(table)
        if ignored:
            console.note(f"{path.name}: columns that the model does not use: {', '.join(ignored)}")
        return table
    if table.texts:
        column = next(iter(table.texts))
        text = next(text for text in table.texts[column] if text is not None)
        raise InvalidInputError(
            f"{path}: {table.label(column)} holds text ({text!r}), and the model takes numbers: "
            "leave the column out with --drop"
        )
    if table.n_columns != mlp.network.n_inputs:
        raise InvalidInputError(
            f"{path}: {counted(table.n_columns, 'column')}, and the model has "
            f"{counted(mlp.network.n_inputs, 'input')}: leave other columns out with --drop"
        )
    rows, columns = np.nonzero(np.isnan(table.numbers))
    if rows.size:
        raise InvalidInputError(
            f"{path}: {table.label(int(columns[0]))} has no value in row {rows[0]}, and the model "
            "was trained without missing values: fill it, or leave the row out"
        )
    return cast("DenseInputs", table.numbers)


def _read_numpy(path: Path) -> npt.NDArray[np.generic]:
    """Read the array of an ``.npy`` file or the rows to predict of an ``.npz``, by its content."""
    with open_regular(path) as file:
        is_archive = file.read(2) == b"PK"
    if path.suffix.lower() == ".npy" and not is_archive:
        return read_npy(path)

    def choose(found: list[str]) -> dict[str, str] | None:
        return next(({"x": key} for key in _NPZ_KEYS if key in found), None)

    return read_npz(path, choose, " or ".join(_NPZ_KEYS))["x"]
