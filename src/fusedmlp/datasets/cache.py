"""The cache: raw IDX files on disk, written atomically, checked at every load.

It stores what the digests prove and nothing else, so two processes that fill it at once write the
same bytes. It neither downloads nor decides where to download from.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.datasets.reading import reading
from fusedmlp.errors import DataUnavailableError
from fusedmlp.io.atomic import sweep, write_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusedmlp.datasets.checksums import Corpus

Payloads = dict[str, "NDArray[np.uint8]"]
"""Raw IDX files, header included, by their usual name."""

_STALE_S = 3600.0
"""Younger temporary files may belong to a process that fills the cache at this moment."""


class NotThereError(DataUnavailableError):
    """A place was not set or holds nothing: a reason to look elsewhere, and no fault."""


def default_cache_dir() -> Path:
    """Return ``FUSEDMLP_CACHE`` or, without it, the user's cache folder of this platform."""
    chosen = os.environ.get("FUSEDMLP_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("fusedmlp", appauthor=False))


def load(corpus: Corpus, cache_dir: Path) -> Payloads:
    """Memory-map the files of ``corpus`` from the cache; sizes are checked here, digests are not.

    :func:`~fusedmlp.datasets.obtain.obtain` checks the digests, at every load: some 40 ms for the
    55 MB of MNIST where the processor has SHA instructions, 0.2 s where it has not. A stamp file
    would save that time and would miss a disk that returns other bytes than were written.

    Raises
    ------
    NotThereError
        If it is not in the cache.
    DataUnavailableError
        If a file is missing or unreadable, or has the wrong length.
    """
    folder = cache_dir / corpus.name
    payloads: Payloads = {}
    for file in corpus.files:
        path = folder / file.name
        with reading(path):
            if not folder.exists():
                raise NotThereError(f"nothing cached yet in {folder}")
            if not path.exists():  # another process may be writing it at this moment
                raise NotThereError(f"{path} is not there")
            n_bytes = path.stat().st_size
            if n_bytes != file.n_bytes:
                raise DataUnavailableError(
                    f"{path}: truncated or another file: {n_bytes:,} bytes, "
                    f"expected {file.n_bytes:,}"
                )
            payloads[file.name] = np.memmap(path, np.uint8, "r")
    return payloads


def store(corpus: Corpus, cache_dir: Path, payloads: Payloads) -> None:
    """Write the verified ``payloads`` of ``corpus``, each file all or not at all.

    Raises
    ------
    StorageError
        If the folder cannot be written (read-only, full, missing rights). No partial file stays.
    """
    folder = cache_dir / corpus.name
    sweep(folder, _STALE_S)
    for file in corpus.files:
        write_atomically(folder / file.name, payloads[file.name].tobytes())
