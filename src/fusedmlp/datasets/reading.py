"""One guard around everything that reads a user's file: the system's errors become ours."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from fusedmlp.errors import DataUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` inside the block into a DataUnavailableError that names ``path``.

    A :class:`DataUnavailableError`, which is an ``OSError`` too, passes as it is.

    Raises
    ------
    DataUnavailableError
        Instead of any ``OSError``.
    """
    try:
        yield
    except DataUnavailableError:
        raise
    except OSError as error:
        raise DataUnavailableError(f"{path}: cannot be read: {error.strerror or error}") from error
