"""A user's rows and targets, as read, to a checked :class:`Dataset`.

Every loader of user files ends here: targets get their codes, a table gets a test part and
preprocessing that is fitted on the other rows. Pixels and images stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from fusedmlp.datasets.dataset import Dataset, Inputs
from fusedmlp.datasets.targets import RawTargets, TargetCoding
from fusedmlp.errors import InvalidInputError
from fusedmlp.preprocessing import Preprocessing, Table
from fusedmlp.validation import check_finite
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusedmlp.datasets.options import TableOptions
    from fusedmlp.types import IntArray

TEST_SHARE: Final = 0.2
"""Share of a table's rows that are kept for testing, if nothing else is asked for."""

FEWEST_ROWS: Final = 10
"""Rows from which a table gets a test part that was not asked for."""

MOST_MAPPED_BYTES: Final = 2**30
"""Size up to which memory-mapped rows are scaled and split, which copies them."""


@dataclass
class RawData:
    """The content of a file before it is interpreted.

    Parameters
    ----------
    name, source
        See :class:`~fusedmlp.datasets.dataset.Dataset`.
    x_train, x_test
        A table, or rows (N, D) of :func:`as_rows`.
    y_train, y_test
        Targets as in :meth:`fusedmlp.datasets.targets.TargetCoding.of`.
    target
        Name of the target column, or None.
    image_shape
        See :class:`~fusedmlp.datasets.dataset.Dataset`.
    """

    name: str
    source: str
    x_train: NDArray[Inputs] | Table
    y_train: RawTargets
    x_test: NDArray[Inputs] | Table | None = None
    y_test: RawTargets | None = None
    target: str | None = None
    image_shape: tuple[int, int] | None = None


def as_rows(x: NDArray[np.generic], where: str) -> tuple[NDArray[Inputs], tuple[int, int] | None]:
    """Bring inputs into shape (N, D) and one of the three input types.

    Parameters
    ----------
    x : ndarray, shape (N,), (N, D) or (N, rows, columns, …)
        uint8 stays (pixels), float32 and float64 stay, other numbers become float64, or float32
        where that holds them exactly. A memory map that needs no conversion stays one.
    where : str
        For messages.

    Returns
    -------
    rows : ndarray, shape (N, D)
    image_shape : (int, int) or None
        Set when ``x`` had exactly three dimensions.

    Raises
    ------
    InvalidInputError
        If ``x`` is empty or not numeric.
    """
    if x.ndim == 0 or x.size == 0:
        raise InvalidInputError(f"{where}: inputs have shape {x.shape}, expected at least one row")
    if x.dtype.kind not in "buif":
        raise InvalidInputError(f"{where}: inputs are {x.dtype}, expected numbers")
    image_shape = (int(x.shape[1]), int(x.shape[2])) if x.ndim == 3 else None
    rows = x.reshape(len(x), -1)
    if rows.dtype.isnative and rows.dtype.type in (np.uint8, np.float32, np.float64):
        return rows.view(rows.dtype.type), image_shape
    if np.can_cast(rows.dtype, np.float32):
        return rows.astype(np.float32), image_shape
    return rows.astype(np.float64), image_shape


def as_dataset(raw: RawData, options: TableOptions) -> Dataset:
    """Interpret the targets, split and scale a table, check everything, and build the data set.

    Raises
    ------
    InvalidInputError
        Inputs, targets and options do not fit together.
    """
    for part, x, y in (
        ("train", raw.x_train, raw.y_train),
        ("test", raw.x_test, raw.y_test),
    ):
        if x is not None and y is not None and y.values.shape[:1] != (_n_rows(x),):
            raise InvalidInputError(
                f"{raw.name}: {part} has {_n_rows(x)} rows of inputs and targets of shape "
                f"{y.values.shape}; expected as many targets as rows"
            )
    coding = _coding(raw, options)
    is_table = _is_table(raw, options)
    if raw.x_test is None and (is_table or options.test is not None):
        raw = _split(raw, coding, options)
    preprocessing = None
    if is_table:
        raw, preprocessing = _preprocessed(raw, options)
    return _checked(raw, coding, preprocessing)


def _n_rows(x: NDArray[Any] | Table) -> int:
    return x.n_rows if isinstance(x, Table) else len(x)


def _coding(raw: RawData, options: TableOptions) -> TargetCoding:
    if options.fitted is not None:
        return options.fitted.target
    targets = [raw.y_train] if raw.y_test is None else [raw.y_train, raw.y_test]
    shapes = [y.values.shape for y in targets]
    if len({shape[1:] for shape in shapes}) > 1:
        raise InvalidInputError(
            f"{raw.name}: targets have the shapes {' and '.join(map(str, shapes))}; expected the "
            "same columns"
        )
    return TargetCoding.of(targets, options.task, options.report)


def _is_table(raw: RawData, options: TableOptions) -> bool:
    """Whether the columns are quantities of different kinds, and small enough to be copied."""
    x = raw.x_train
    if isinstance(x, Table):
        return True
    if options.fitted is not None:
        return options.fitted.preprocessing is not None
    if x.dtype == np.uint8 or raw.image_shape is not None:
        if options.scale not in (None, "none"):
            raise InvalidInputError(
                f"scale {options.scale!r} is for tables, and {raw.name} has images: leave it out"
            )
        return False
    if options.scale == "none":
        return False
    if options.scale is None and isinstance(x, np.memmap) and x.nbytes > MOST_MAPPED_BYTES:
        options.report(
            f"{raw.name}: {x.nbytes / 2**30:.1f} GiB are read from the file, neither scaled nor "
            "split (to copy them, --scale standard)"
        )
        return False
    return True


def _split(raw: RawData, coding: TargetCoding, options: TableOptions) -> RawData:
    """Keep a share of the rows for testing; of each class alike where that is possible."""
    assert not isinstance(options.test, str), "a test file has been read"
    n_rows = _n_rows(raw.x_train)
    if options.test is None and n_rows < FEWEST_ROWS:
        options.report(f"{raw.name}: {counted(n_rows, 'row')}: too few for a test part")
        return raw
    share = TEST_SHARE if options.test is None else cast("float", options.test)
    if not share:
        return raw
    n_test = round(share * n_rows)
    if not 0 < n_test < n_rows - 1:
        raise InvalidInputError(
            f"test {share:g}: {n_rows} rows have no such part; give a share or a file that leaves "
            "rows for both"
        )
    train, test = _parts(raw, coding, n_test, options.seed)
    return replace(
        raw,
        x_train=_take(raw.x_train, train),
        y_train=raw.y_train.take(train),
        x_test=_take(raw.x_train, test),
        y_test=raw.y_train.take(test),
    )


def _parts(raw: RawData, coding: TargetCoding, n_test: int, seed: int) -> tuple[IntArray, IntArray]:
    from sklearn.model_selection import train_test_split

    n_rows, classes = _n_rows(raw.x_train), None
    if coding.task == "classification":
        y = coding.encode(raw.y_train, np.float64)
        counts = np.bincount(y, minlength=coding.n_outputs)
        if counts.min() > 1 and min(n_test, n_rows - n_test) >= coding.n_outputs:
            classes = y
    train, test = train_test_split(
        np.arange(n_rows), test_size=n_test, random_state=seed, stratify=classes
    )
    return np.sort(train), np.sort(test)


def _take(x: NDArray[Inputs] | Table, rows: IntArray) -> NDArray[Inputs] | Table:
    return x.take(rows) if isinstance(x, Table) else x[rows]


def _preprocessed(raw: RawData, options: TableOptions) -> tuple[RawData, Preprocessing]:
    """Replace the columns of a table by inputs of a network."""
    train = Table.of(raw.x_train, where=raw.name)
    fitted = options.fitted
    if fitted is not None and fitted.preprocessing is not None:
        preprocessing = fitted.preprocessing
    else:
        preprocessing = Preprocessing.fit(train, options.scale or "standard", raw.target)
    # Arrays keep their type; a table of text and numbers is float64.
    dtype = np.float32 if train.numbers.dtype == np.float32 else np.float64

    def inputs(table: Table) -> NDArray[Inputs]:
        return preprocessing.transform(table).astype(dtype, copy=False)

    x_test = raw.x_test
    if x_test is not None:
        x_test = inputs(Table.of(x_test, where=f"{raw.name}: test"))
    return replace(raw, x_train=inputs(train), x_test=x_test), preprocessing


def _checked(raw: RawData, coding: TargetCoding, preprocessing: Preprocessing | None) -> Dataset:
    assert not isinstance(raw.x_train, Table)
    assert not isinstance(raw.x_test, Table)
    floats = np.float64 if raw.x_train.dtype == np.float64 else np.float32
    for part, x in (("x_train", raw.x_train), ("x_test", raw.x_test)):
        # A memory map may be larger than memory: it is scanned once, when an engine receives it.
        if x is not None and not isinstance(x, np.memmap):
            check_finite(f"{raw.name}: {part}: inputs", x)
    return Dataset(
        name=raw.name,
        x_train=raw.x_train,
        y_train=coding.encode(raw.y_train, floats),
        x_test=raw.x_test,
        y_test=None if raw.y_test is None else coding.encode(raw.y_test, floats),
        n_outputs=coding.n_outputs,
        task=coding.task,
        class_names=coding.class_names,
        source=raw.source,
        image_shape=raw.image_shape,
        labels=coding.labels,
        preprocessing=preprocessing,
    )
