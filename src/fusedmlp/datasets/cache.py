"""The cache of published sets: raw IDX files on disk, written atomically, memory-mapped.

Only verified files are stored, so that two processes which fill the cache at the same time write
the same bytes. This module neither downloads nor decides where to download from.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from fusedmlp.datasets.file_errors import convert_read_errors
from fusedmlp.datasets.idx import read_raw
from fusedmlp.errors import DataUnavailableError
from fusedmlp.io.atomic import write_atomically
from fusedmlp.io.cache_folders import check_private, create_folder, temporary_cache_dir

if TYPE_CHECKING:
    from pathlib import Path

    from fusedmlp.datasets.published import PublishedSet, RawFiles


class NotPresentError(DataUnavailableError):
    """A source was not given or is empty: the next one is tried without a warning."""


def load(published: PublishedSet, cache_dir: Path) -> RawFiles:
    """Memory-map the files of ``published``.

    :func:`~fusedmlp.datasets.sources.fetch` checks the digests at every load. That takes some
    40 ms for the 55 MB of MNIST where the processor has SHA instructions, else 0.2 s. A stamp file
    would save this time and would miss a disk that returns other bytes than were written.

    Raises
    ------
    NotPresentError
        If a file is not in the cache.
    DataUnavailableError
        If a file is unreadable or empty, or in a folder that :func:`store` would not write to.
    """
    files: RawFiles = {}
    for file in published.files:
        path = cache_dir / published.name / file.name
        with convert_read_errors(path):
            if not path.exists():
                raise NotPresentError(f"{path} is not cached yet")
            _check_folder(cache_dir)
        files[file.name] = read_raw(path)
    return files


def store(published: PublishedSet, cache_dir: Path, files: RawFiles) -> None:
    """Write verified files, each completely or not at all.

    Raises
    ------
    StorageError
        If the folder cannot be written (read-only, full, missing rights). No partial file stays.
    """
    folder = cache_dir / published.name
    with contextlib.suppress(OSError):  # the first file has the same error, and names itself
        create_folder(folder)
    _check_folder(cache_dir)
    for name, content in files.items():
        write_atomically(folder / name, content.tobytes())


def _check_folder(cache_dir: Path) -> None:
    """Refuse a folder among the temporary files that another user has made in our place."""
    if cache_dir == temporary_cache_dir():
        check_private(cache_dir)
