"""Reading a file that may be damaged, crafted or no file: whatever goes wrong is one error.

The error is a :class:`DataUnavailableError` that names the file and the cause. The functions that
check sizes come before any allocation. No format is known here.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Final

import numpy as np

from fusedmlp.errors import DataUnavailableError, FusedMLPError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_MOST_DIMENSIONS: Final = 64
"""Dimensions of a NumPy array at most."""

_DEFLATE_RATIO: Final = 1032
"""Bytes at most that one byte of a Deflate stream expands to (zlib's technical details)."""


@contextmanager
def convert_read_errors(path: Path) -> Iterator[None]:
    """Convert an ``OSError`` inside the block into a DataUnavailableError that names ``path``.

    So is a lack of memory for the content. A :class:`DataUnavailableError`, which is an ``OSError``
    too, passes unchanged.
    """
    try:
        yield
    except DataUnavailableError:
        raise
    except OSError as error:
        raise DataUnavailableError(f"{path}: cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise DataUnavailableError(f"{path}: its content does not fit into memory") from error


@contextmanager
def open_regular(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file for reading; errors inside the block are converted.

    Folders, pipes and devices are refused: to open a pipe without a writer would wait for ever.
    """
    with convert_read_errors(path):
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a pipe or a device"
            raise DataUnavailableError(f"{path}: cannot be read: it is {kind}, expected a file")
        with path.open("rb") as file:
            yield file


@contextmanager
def decoding(where: str) -> Iterator[None]:
    """Convert every exception that a library raises on bytes which it cannot decode.

    Python's ``zipfile`` and NumPy's header parser raise a dozen classes on damaged files, most of
    them undocumented. Only calls of libraries belong inside the block: a mistake of this package
    must keep its traceback. ``where`` is the file, and the place in it.
    """
    try:
        yield
    except FusedMLPError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise DataUnavailableError(
            f"{where}: truncated, damaged or of another format: {reason:.200}"
        ) from error


def check_shape(shape: Sequence[int], dtype: np.dtype[np.generic], where: str) -> None:
    """Raise DataUnavailableError unless NumPy has arrays of this shape, whatever the memory."""
    n_bytes = math.prod(max(n, 1) for n in shape) * dtype.itemsize  # as NumPy counts
    most = np.iinfo(np.intp).max
    if len(shape) > _MOST_DIMENSIONS or min(shape, default=0) < 0 or n_bytes > most:
        dimensions = " x ".join(f"{n}" for n in shape)
        raise DataUnavailableError(
            f"{where}: damaged: {len(shape)} dimensions, {dimensions:.80} of {dtype}; expected "
            f"{_MOST_DIMENSIONS} at most, none negative, and less than 2**63 bytes"
        )


def check_inflated_size(n_bytes: int, compressed: int, where: str) -> None:
    """Raise DataUnavailableError if ``compressed`` bytes of Deflate cannot hold ``n_bytes``."""
    if n_bytes > compressed * _DEFLATE_RATIO:
        raise DataUnavailableError(
            f"{where}: damaged: it promises {n_bytes:,} bytes, more than its {compressed:,} "
            "compressed bytes can hold"
        )
