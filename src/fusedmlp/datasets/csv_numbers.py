"""``.csv`` files of numbers alone, read by ``numpy.loadtxt``, which is faster than cell by cell.

A file with text, a missing cell, quotes or a fault is not read here but in csv_file.py, whose
errors name the line. Each cell that is accepted here is the same number there.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, slots=True)
class NumberRows:
    """The content of a file whose rows are numbers, but perhaps for the first.

    Parameters
    ----------
    first, second
        Cells of the first two rows, without surrounding blanks.
    numbers
        (N, C) of the second row and all others.
    lines
        (N,) their lines in the file, from 1.
    """

    first: list[str]
    second: list[str]
    numbers: NDArray[np.float64]
    lines: NDArray[np.int64]


def read_numbers(file: Iterable[str]) -> NumberRows | None:
    """Read the lines of a file; None if they are not of this kind, or are fewer than two."""
    lines = iter(file)
    head = [next(lines, ""), next(lines, "")]
    if not all(line.strip() for line in head):
        return None
    delimiter = delimiter_of(head[0])
    numbers_of_lines = [2]

    def others() -> Iterator[str]:
        for number, line in enumerate(lines, start=3):
            if line.strip("\r\n"):
                numbers_of_lines.append(number)
                yield line

    try:
        numbers = np.loadtxt(
            chain(head[1:], others()), np.float64, comments=None, delimiter=delimiter, ndmin=2
        )
        first, second = csv.reader(head, delimiter=delimiter)
    except (ValueError, csv.Error):  # also undecodable bytes: the careful reader reports them
        return None
    if len(first) != numbers.shape[1]:
        return None
    found = np.array(numbers_of_lines, dtype=np.int64)
    first, second = ([cell.strip() for cell in cells] for cells in (first, second))
    return NumberRows(first, second, numbers, found)


def delimiter_of(line: str) -> str:
    """Return the separator of cells: a comma if the first line has one."""
    return next((sign for sign in (",", ";", "\t") if sign in line), ",")
