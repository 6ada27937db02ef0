"""Conversion of the operating system's errors on a user's file into one error of this package."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from fusedmlp.errors import DataUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def convert_read_errors(path: Path) -> Iterator[None]:
    """Convert an ``OSError`` inside the block into a DataUnavailableError that names ``path``.

    A :class:`DataUnavailableError`, which is an ``OSError`` too, passes unchanged.

    Raises
    ------
    DataUnavailableError
        Instead of any other ``OSError``.
    """
    try:
        yield
    except DataUnavailableError:
        raise
    except OSError as error:
        raise DataUnavailableError(f"{path}: cannot be read: {error.strerror or error}") from error
