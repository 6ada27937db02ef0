"""Data sets from ``.csv`` files: which column is the target, which are inputs.

The text is read in csv_file.py; what inputs and targets mean is decided in raw_data.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusedmlp.datasets.csv_file import read_csv
from fusedmlp.datasets.options import DEFAULTS, TableOptions
from fusedmlp.datasets.raw_data import RawData, as_dataset
from fusedmlp.errors import InvalidInputError
from fusedmlp.io.paths import expanded
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

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
    shown = f"target column {target!r}" if x.names is not None else f"target column {target}"
    raw = RawData(
        path.stem, f"{path} ({shown})", x, y, where=f"{path.name}, {shown}", target=target
    )
    if isinstance(options.test, str | Path):
        texts |= {x.name(j) for j in x.texts}
        of_test_file = replace(options, target=target)
        raw.x_test, raw.y_test, _ = _read(
            expanded(options.test), texts, x.names or (), of_test_file
        )
    return as_dataset(raw, options)


def _read(
    path: Path, texts: Collection[str], names: Collection[str], options: TableOptions
) -> tuple[Table, NDArray[Any], str]:
    """Return the inputs, the target (N,), and the name or number of the target."""
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
    return table.select(kept), y, table.name(target)
