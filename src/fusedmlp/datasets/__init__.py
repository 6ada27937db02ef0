"""Data sets by name or by path: one function, :func:`load_dataset`, for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedmlp.datasets.builtin import load_digits as load_digits
from fusedmlp.datasets.builtin import load_moons as load_moons
from fusedmlp.datasets.cache import default_cache_dir as default_cache_dir
from fusedmlp.datasets.csv_table import load_csv as load_csv
from fusedmlp.datasets.dataset import Dataset as Dataset
from fusedmlp.datasets.dataset import Task as Task
from fusedmlp.datasets.file_errors import convert_read_errors
from fusedmlp.datasets.folder import load_idx_folder as load_idx_folder
from fusedmlp.datasets.images import SPLITS as SPLITS
from fusedmlp.datasets.images import load_published
from fusedmlp.datasets.npz import load_npz as load_npz
from fusedmlp.datasets.published import FASHION_MNIST, MNIST
from fusedmlp.datasets.sources import SOURCES as SOURCES
from fusedmlp.datasets.sources import Locations, default_data_dir
from fusedmlp.errors import DataUnavailableError, InvalidInputError, UnknownNameError
from fusedmlp.io.paths import expanded

__all__ = [
    "DATASET_NAMES",
    "SOURCES",
    "SPLITS",
    "Dataset",
    "Task",
    "default_cache_dir",
    "load_csv",
    "load_dataset",
    "load_digits",
    "load_idx_folder",
    "load_moons",
    "load_npz",
]

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PUBLISHED = {published.name: published for published in (MNIST, FASHION_MNIST)}

DATASET_NAMES = (*_PUBLISHED, "digits", "moons")
"""The names that :func:`load_dataset` takes; everything else is a path."""


def load_dataset(
    name_or_path: str | Path,
    *,
    data_dir: str | Path | None = None,
    source: str | None = None,
    split: str | None = None,
    cache_dir: str | Path | None = None,
    seed: int = 0,
    test_size: float = 0.2,
    report: Callable[[str], None] | None = None,
    target: str | int | None = None,
    task: Task | None = None,
) -> Dataset:
    """Load a data set by its name or from the user's own files.

    Parameters
    ----------
    name_or_path : str or Path
        ``mnist``, ``fashion-mnist``, ``digits``, ``moons``; or the path of a folder of IDX files,
        an ``.npz`` file or a ``.csv`` file. A name wins over a file of that name: write
        ``./mnist`` for the file. Files without a test part give one without ``x_test``.
    data_dir : str, Path or None
        ``mnist`` and ``fashion-mnist``: a folder with the IDX files, tried first. Default: the
        variable ``FUSEDMLP_DATA``.
    source : str or None
        The same sets: one of ``dir``, ``cache``, ``mirror``, ``openml``, ``pypi`` alone, instead
        of all in that order.
    split : str or None
        The same sets: ``canonical`` (60,000 and 10,000 rows, the default) or ``workshop`` (56,000
        and 14,000, scikit-learn's ``train_test_split(test_size=0.2, random_state=42)``).
    cache_dir : str, Path or None
        The same sets: default ``FUSEDMLP_CACHE``, else the user's cache folder.
    seed : int
        ``moons``: the points. ``digits``: the split.
    test_size : float
        ``digits``: share of the rows to test on.
    report : callable or None
        Receives a line of text before each slow step and about each remedy.
    target : str, int or None
        ``.csv``: name or number of the target column, default the last.
    task : {"classification", "multilabel", "regression"} or None
        The user's files: overrules the task that the targets suggest.

    Returns
    -------
    Dataset
        uint8 inputs are pixels, to be read as x/255; others are float32 or float64.

    Raises
    ------
    UnknownNameError
        If it is neither a known name nor an existing path, or an option's value is unknown.
    InvalidInputError
        If an option does not apply to this data set, or the file's content does not fit.
    DataUnavailableError
        If no source has the data, or a file is damaged.
    """
    name = str(name_or_path)
    published = _PUBLISHED.get(name)
    if published is not None:
        _refuse(name, target=target, task=task)
        locations = Locations(
            cache_dir=default_cache_dir() if cache_dir is None else expanded(cache_dir),
            data_dir=default_data_dir() if data_dir is None else expanded(data_dir),
        )
        return load_published(
            published,
            locations,
            source=source,
            split=split,
            report=report or (lambda _line: None),
        )
    _refuse(name, data_dir=data_dir, source=source, split=split)
    if name in ("digits", "moons"):
        _refuse(name, target=target, task=task)
        return load_digits(seed, test_size) if name == "digits" else load_moons(seed=seed)
    path = expanded(name_or_path)
    with convert_read_errors(path):
        return _load_path(path, target, task)


def _load_path(path: Path, target: str | int | None, task: Task | None) -> Dataset:
    suffix = path.suffix.lower()
    if suffix != ".csv":
        _refuse(str(path), target=target)
    if path.is_dir():
        return load_idx_folder(path, task)
    if not path.exists():
        if path.name == str(path) and not suffix:
            known = (*DATASET_NAMES, "the path of a folder of IDX files, an .npz or a .csv file")
            raise UnknownNameError.of("data set", str(path), known)
        raise DataUnavailableError(f"{path}: no such file or folder")
    if suffix == ".npz":
        return load_npz(path, task)
    if suffix == ".csv":
        return load_csv(path, target, task)
    raise InvalidInputError(f"{path}: expected a folder of IDX files, an .npz or a .csv file")


def _refuse(name: str, **options: object) -> None:
    """Refuse options that were given and do not apply."""
    for option, value in options.items():
        if value is not None:
            raise InvalidInputError(
                f"{option}={str(value)!r} does not apply to the data set {name}: leave it out"
            )
