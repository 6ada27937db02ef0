"""Folders of IDX files: of a published set (the source ``dir``), or of the user's own data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedmlp.datasets.cache import NotPresentError
from fusedmlp.datasets.idx import find_idx_files, read_idx, read_raw
from fusedmlp.datasets.options import AS_STORED, TableOptions
from fusedmlp.datasets.raw_data import RawData, as_dataset, as_rows
from fusedmlp.datasets.targets import RawTargets
from fusedmlp.errors import DataUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from fusedmlp.datasets.dataset import Dataset
    from fusedmlp.datasets.published import PublishedSet, RawFiles


def from_folder(published: PublishedSet, data_dir: Path | None) -> RawFiles:
    """Read the four files of a published set, plain (memory-mapped) or ``.gz``.

    Raises
    ------
    NotPresentError
        If no folder is given.
    DataUnavailableError
        If the folder or one of the files is missing, unreadable or damaged.
    """
    if data_dir is None:
        raise NotPresentError("no folder given (--data-dir, data_dir= or FUSEDMLP_DATA)")
    if not data_dir.is_dir():
        raise DataUnavailableError(f"{data_dir} is not a folder")
    keys = {file.name: file.name.split("-idx")[0] for file in published.files}
    missing = ""
    for below in published.folders:
        folder = data_dir / below
        found = find_idx_files(folder) if folder.is_dir() else {}
        absent = [name for name, key in keys.items() if key not in found]
        if not absent:
            return {name: read_raw(found[key]) for name, key in keys.items()}
        if found:
            missing = f"{folder} lacks {', '.join(absent)}"
    raise DataUnavailableError(missing or f"no IDX files in {data_dir}")


def load_idx_folder(folder: Path, options: TableOptions = AS_STORED) -> Dataset:
    """Load a folder of IDX files: train-images, train-labels and, both or neither, t10k-.

    Plain files are memory-mapped, ``.gz`` files are loaded.

    Parameters
    ----------
    folder
        Where the files are.
    options
        The task and the test part; the others are for tables.

    Raises
    ------
    DataUnavailableError
        If a file is missing or damaged.
    InvalidInputError
        If images and labels do not fit together.
    """
    found = find_idx_files(folder)
    parts = ("train", "t10k") if any(key.startswith("t10k") for key in found) else ("train",)
    wanted = [f"{part}-{kind}" for part in parts for kind in ("images", "labels")]
    absent = [key for key in wanted if key not in found]
    if absent:
        raise DataUnavailableError(
            f"{folder}: no {' and no '.join(absent)} file; expected names such as "
            "train-images-idx3-ubyte and train-labels-idx1-ubyte, plain or .gz"
        )
    name = folder.resolve().name
    x_train, image_shape = as_rows(read_idx(found["train-images"]), f"{name}: train")
    raw = RawData(name, str(folder), x_train, RawTargets(read_idx(found["train-labels"]), name))
    raw.image_shape = image_shape
    if "t10k" in parts:
        raw.x_test, _ = as_rows(read_idx(found["t10k-images"]), f"{name}: t10k")
        raw.y_test = RawTargets(read_idx(found["t10k-labels"]), f"{name}: t10k")
    return as_dataset(raw, options)
