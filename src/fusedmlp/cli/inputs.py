"""Rows to predict, from a file or a data set: inputs only, no targets."""

from __future__ import annotations

import csv
import zipfile
from typing import TYPE_CHECKING, cast

import numpy as np

from fusedmlp.datasets import DATASET_NAMES, load_dataset
from fusedmlp.datasets.file_errors import convert_read_errors
from fusedmlp.datasets.idx import read_idx
from fusedmlp.datasets.labels import as_rows
from fusedmlp.errors import DataUnavailableError, InvalidInputError
from fusedmlp.io.paths import expanded

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from fusedmlp.types import DenseInputs

_NPZ_KEYS = ("x_test", "x", "x_train")


def load_inputs(source: str, *, skip_column: str | None, data_dir: str | None) -> DenseInputs:
    """Read rows (N, D).

    Parameters
    ----------
    source
        A data set's name (its test part), or the path of a ``.csv``, ``.npy`` or ``.npz`` file or
        of an IDX file of images, plain or ``.gz``.
    skip_column
        A ``.csv`` file's column to leave out: its name, or its number from 0.

    Raises
    ------
    InvalidInputError, DataUnavailableError
        The content is not rows of finite numbers; the file is missing, truncated or of another
        format.
    """
    path = expanded(source)
    is_csv = path.suffix.lower() == ".csv"
    if skip_column is not None and not is_csv:
        raise InvalidInputError(f"--skip-column {skip_column} is for .csv files, not for {source}")
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
        array = _read_csv(path, skip_column)
    elif path.suffix.lower() in (".npy", ".npz"):
        array = _read_numpy(path)
    else:
        array = read_idx(path)
    rows, _ = as_rows(array, str(path))
    return cast("DenseInputs", rows)


def _read_numpy(path: Path) -> npt.NDArray[np.generic]:
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            for key in _NPZ_KEYS:
                if key in content:
                    return cast("npt.NDArray[np.generic]", content[key])
            found = ", ".join(content.files) or "nothing"
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise DataUnavailableError(
            f"{path}: truncated or not a {path.suffix} file of numbers: {error}"
        ) from error
    raise InvalidInputError(f"{path} holds {found}: expected one of {', '.join(_NPZ_KEYS)}")


def _read_csv(path: Path, skip_column: str | None) -> npt.NDArray[np.generic]:
    try:
        with convert_read_errors(path), path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except UnicodeDecodeError as error:
        raise DataUnavailableError(f"{path}: not UTF-8 text: {error.reason}") from error
    has_header = bool(lines) and not any(map(_is_number, lines[0][1]))
    rows = lines[has_header:]
    if not rows:
        raise InvalidInputError(f"{path}: no rows: expected at least one row of numbers")
    n_columns, skipped = len(rows[0][1]), None
    if skip_column is not None:
        skipped = _find_column(path, skip_column, lines[0][1] if has_header else [], n_columns)
    table = []
    for line, cells in rows:
        if len(cells) != n_columns:
            raise InvalidInputError(
                f"{path}: line {line} has {len(cells)} cells, expected {n_columns} as in the first"
            )
        kept = [cell for column, cell in enumerate(cells) if column != skipped]
        texts = [cell for cell in kept if not _is_number(cell)]
        if texts:
            raise InvalidInputError(
                f"{path}: line {line}: {texts[0]!r} is not a number (leave a column of text out "
                "with --skip-column)"
            )
        table.append([float(cell) for cell in kept])
    return np.array(table)


def _find_column(path: Path, name: str, header: list[str], n_columns: int) -> int:
    names = [cell.strip() for cell in header]
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < n_columns:
        return int(name)
    known = f" or one of {', '.join(names[:20])}" if names else ""
    raise InvalidInputError(
        f"{path}: no column {name!r}: expected a number below {n_columns}{known}"
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
