"""The cache of published sets: raw IDX files on disk, written atomically, memory-mapped.

Only verified files are stored, so that two processes which fill the cache at the same time write
the same bytes. This module neither downloads nor decides where to download from.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fusedmlp.datasets.file_errors import convert_read_errors
from fusedmlp.datasets.idx import read_raw
from fusedmlp.errors import DataUnavailableError
from fusedmlp.io.atomic import write_atomically
from fusedmlp.io.paths import expanded

if TYPE_CHECKING:
    from fusedmlp.datasets.published import PublishedSet, RawFiles


class NotPresentError(DataUnavailableError):
    """A source was not given or is empty: the next one is tried without a warning."""


def default_cache_dir() -> Path:
    """Return ``FUSEDMLP_CACHE`` or, without it, the user's cache folder of this platform."""
    chosen = os.environ.get("FUSEDMLP_CACHE")
    if chosen:
        return expanded(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("fusedmlp", appauthor=False))


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
        If a file is unreadable or empty.
    """
    files: RawFiles = {}
    for file in published.files:
        path = cache_dir / published.name / file.name
        with convert_read_errors(path):
            if not path.exists():
                raise NotPresentError(f"{path} is not cached yet")
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
    for name, content in files.items():
        write_atomically(folder / name, content.tobytes())
