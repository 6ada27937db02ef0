"""The data set record: arrays, the task, and a description of both.

It checks that the arrays fit together. It loads nothing, converts nothing and never scales pixels:
uint8 inputs are pixels, and engines read them as x/255.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, get_args

import numpy as np

from fusedmlp.errors import InvalidInputError
from fusedmlp.html_table import html_table
from fusedmlp.network import Task as Task
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusedmlp.class_labels import Label
    from fusedmlp.preprocessing import Preprocessing

TASKS: Final[tuple[str, ...]] = get_args(Task)
Inputs = np.uint8 | np.float32 | np.float64
Targets = np.int64 | np.float32 | np.float64

_DENSITY_ROWS = 2_000

_SHOWN_OUTPUTS = 20
"""Most classes or labels that have a column in the table of a notebook."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training rows, test rows where there are some, and their meaning.

    Attributes
    ----------
    name : str
        ``mnist``, ``moons``, … or the file's name.
    x_train : ndarray, shape (N, D), uint8 (pixels), float32 or float64
        May be memory-mapped and read-only.
    y_train : ndarray
        Classification: int64, shape (N,), values 0..K-1. Multilabel: float of zeros and ones,
        shape (N, K). Regression: float, shape (N, K).
    x_test, y_test : ndarray or None
        The same for the test part; both None where the source has no test part.
    n_outputs : int
        K: classes for classification, else target columns.
    task : {"classification", "multilabel", "regression"}
        Kind of the targets.
    class_names : tuple of str or None
        K names, or None if classes are plain numbers or there are none.
    source : str
        Origin, as text for messages.
    image_shape : (int, int) or None
        Rows and columns if each row is an image.
    labels : tuple of int or str, or None
        The K labels in the file, if they are not 0 to K-1; ``y_train`` and ``y_test`` index them.
    preprocessing : Preprocessing or None
        What made the inputs from the columns of a table; a model that is given it takes tables.
    """

    name: str
    x_train: NDArray[Inputs]
    y_train: NDArray[Targets]
    x_test: NDArray[Inputs] | None
    y_test: NDArray[Targets] | None
    n_outputs: int
    task: Task
    class_names: tuple[str, ...] | None
    source: str
    image_shape: tuple[int, int] | None
    labels: tuple[Label, ...] | None = None
    preprocessing: Preprocessing | None = None

    def __post_init__(self) -> None:
        """Check that the parts fit together; the loaders check values."""
        if (self.x_test is None) != (self.y_test is None):
            raise InvalidInputError(
                f"{self.name}: x_test and y_test must come together, found only one of them"
            )
        self._check_part("train", self.x_train, self.y_train)
        if self.x_test is not None and self.y_test is not None:
            self._check_part("test", self.x_test, self.y_test)
            if self.x_test.shape[1] != self.n_inputs or self.x_test.dtype != self.x_train.dtype:
                raise InvalidInputError(
                    f"{self.name}: x_test has {counted(self.x_test.shape[1], 'column')} of "
                    f"{self.x_test.dtype}, expected {self.n_inputs} of {self.x_train.dtype} "
                    "as in x_train"
                )
        if self.class_names is not None and len(self.class_names) != self.n_outputs:
            raise InvalidInputError(
                f"{self.name}: {counted(len(self.class_names), 'class name')} for "
                f"{counted(self.n_outputs, 'output')}"
            )

    def _check_part(self, part: str, x: NDArray[Inputs], y: NDArray[Targets]) -> None:
        where = f"{self.name}: x_{part}"
        if x.ndim != 2 or x.size == 0:
            raise InvalidInputError(f"{where} has shape {x.shape}, expected (N, D), not empty")
        if x.dtype not in (np.uint8, np.float32, np.float64):
            raise InvalidInputError(f"{where} is {x.dtype}, expected uint8, float32 or float64")
        where = f"{self.name}: y_{part}"
        if self.task == "classification":
            shape: tuple[int, ...] = (len(x),)
            kinds: tuple[type, ...] = (np.int64,)
        else:
            shape = (len(x), self.n_outputs)
            kinds = (np.float32, np.float64)
        if y.shape != shape:
            raise InvalidInputError(
                f"{where} has shape {y.shape}, expected {shape} for {counted(len(x), 'row')} and "
                f"{counted(self.n_outputs, 'output')} ({self.task})"
            )
        if y.dtype not in kinds:
            names = " or ".join(kind.__name__ for kind in kinds)
            raise InvalidInputError(f"{where} is {y.dtype}, expected {names} ({self.task})")

    def __repr__(self) -> str:
        """Describe the data set in one line, without its arrays."""
        rows = counted(len(self.x_train), "row")
        if self.x_test is not None:
            rows = f"{len(self.x_train):,} + {counted(len(self.x_test), 'row')}"
        outputs = counted(self.n_outputs, "class" if self.task == "classification" else "output")
        inputs = f"{counted(self.n_inputs, 'input')} of {self.x_train.dtype}"
        return f"Dataset({self.name!r}: {rows}, {inputs}, {outputs}, {self.task})"

    def _repr_html_(self) -> str:
        """Return what notebooks show: the parts, their rows and, of classes, the counts."""
        parts = {"train": self.y_train}
        if self.y_test is not None:
            parts["test"] = self.y_test
        names: list[str] = []
        if self.task != "regression" and self.n_outputs <= _SHOWN_OUTPUTS:
            names = list(self.class_names or map(str, range(self.n_outputs)))
        rows = []
        for part, y in parts.items():
            counts = (self._counts(y) or []) if names else []
            rows.append([part, f"{len(y):,}", *(f"{count:,}" for count in counts)])
        return html_table(repr(self), ["part", "rows", *names], rows)

    @property
    def n_inputs(self) -> int:
        """D, the number of input columns."""
        return int(self.x_train.shape[1])

    def summary(self) -> dict[str, object]:
        """Describe the data set as plain data, ready for JSON.

        Returns
        -------
        dict
            ``name``, ``task``, ``source``; ``rows`` with ``train`` and ``test`` (None without a
            test part); ``inputs`` D; ``outputs`` K; ``dtype``; ``image_shape``; ``class_names``;
            ``class_counts`` per part (None unless classification; rows with the label set per
            column for multilabel); ``density``, the share of nonzero inputs in a sample of at
            most 2,000 training rows; ``bytes`` of all arrays; ``memory_mapped``.
        """
        arrays = (self.x_train, self.y_train, self.x_test, self.y_test)
        step = -(-len(self.x_train) // _DENSITY_ROWS)
        sample = self.x_train[::step]
        return {
            "name": self.name,
            "task": self.task,
            "source": self.source,
            "rows": {
                "train": len(self.x_train),
                "test": None if self.x_test is None else len(self.x_test),
            },
            "inputs": self.n_inputs,
            "outputs": self.n_outputs,
            "dtype": str(self.x_train.dtype),
            "image_shape": None if self.image_shape is None else list(self.image_shape),
            "class_names": None if self.class_names is None else list(self.class_names),
            "class_counts": {
                "train": self._counts(self.y_train),
                "test": None if self.y_test is None else self._counts(self.y_test),
            },
            "density": float(np.count_nonzero(sample) / sample.size),
            "bytes": sum(array.nbytes for array in arrays if array is not None),
            "memory_mapped": isinstance(self.x_train, np.memmap),
        }

    def _counts(self, y: NDArray[Targets]) -> list[int] | None:
        match self.task:
            case "classification":
                counted = np.bincount(y.astype(np.int64, copy=False), minlength=self.n_outputs)
            case "multilabel":
                counted = np.count_nonzero(y, axis=0)
            case "regression":
                return None
        return [int(n) for n in counted]
