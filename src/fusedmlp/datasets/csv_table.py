"""Data sets from ``.csv`` files: which column is the target, which are inputs.

The text is read in csv_file.py; what inputs and targets mean is decided in raw_data.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fusedmlp.datasets.csv_file import read_csv
from fusedmlp.datasets.options import DEFAULTS, TableOptions
from fusedmlp.datasets.raw_data import RawData, as_dataset
from fusedmlp.datasets.targets import RawTargets
from fusedmlp.errors import InvalidInputError
from fusedmlp.io.paths import expanded
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from collections.abc import Collection

    from fusedmlp.datasets.dataset import Dataset
    from fusedmlp.preprocessing import Table


def load_csv(path: Path, options: TableOptions = DEFAULTS) -> Dataset:
    """Load a table; every column but the target is an input.

    Parameters
    ----------
    path
        See :func:`fusedmlp.datasets.csv_file.read_csv`.
    options
        All apply.

    Raises
    ------
    DataUnavailableError
        The file cannot be read or is not text.
    InvalidInputError
        Its content is not a table, or does not fit the options.
    """
    preprocessing = None if options.fitted is None else options.fitted.preprocessing
    texts: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    if preprocessing is not None:
        texts = preprocessing.text_columns
        names = preprocessing.expected_names
        if preprocessing.has_names:
            options = replace(options, drop=())  # columns are matched by name, others ignored
        if options.target is None:
            options = replace(options, target=preprocessing.target)
    x, y, target = _read(path, texts, names, options)
    shown = _target_column(x, target)
    raw = RawData(path.stem, f"{path} ({shown})", x, y, target=target)
    if isinstance(options.test, str | Path):
        texts |= {x.name(j) for j in x.texts}
        of_test_file = replace(options, target=target)
        raw.x_test, raw.y_test, _ = _read(
            expanded(options.test), texts, x.names or (), of_test_file
        )
    return as_dataset(raw, options)


def _read(
    path: Path, texts: Collection[str], names: Collection[str], options: TableOptions
) -> tuple[Table, RawTargets, str]:
    """Return the inputs, the target, and the name or number of its column."""
    table = read_csv(path, texts, options.report, names)
    dropped = {table.find(column) for column in options.drop}
    kept = [j for j in range(table.n_columns) if j not in dropped]
    if len(kept) < 2:
        raise InvalidInputError(
            f"{path}: {counted(len(kept), 'column')}, expected inputs and a target, "
            "separated by commas, semicolons or tabs"
        )
    target = kept[-1] if options.target is None else table.find(options.target)
    if target in dropped:
        raise InvalidInputError(f"{path}: {table.label(target)} is the target: do not drop it")
    y = table.texts[target] if target in table.texts else table.numbers[:, target]
    kept.remove(target)
    name = table.name(target)
    where = f"{path.name}, {_target_column(table, name)}"
    return table.select(kept), RawTargets(y, where, table.lines), name


def _target_column(table: Table, name: str) -> str:
    return f"target column {name}" if table.names is None else f"target column {name!r}"
