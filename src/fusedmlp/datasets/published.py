"""The sources ``dir`` and ``mirror``: the IDX files as published, in a folder or behind a URL.

Both return raw files and leave the digests to the caller, except that a mirror's file is checked
at once, because the next mirror may have the right one.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from fusedmlp.datasets.cache import NotThereError
from fusedmlp.datasets.idx import GZIP_MAGIC, find_idx_files, gunzip, gunzip_file
from fusedmlp.datasets.reading import reading
from fusedmlp.datasets.transfer import Limits, download, require_reachable
from fusedmlp.errors import DataUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from fusedmlp.datasets.cache import Payloads
    from fusedmlp.datasets.checksums import Corpus, IdxFile


def from_folder(corpus: Corpus, data_dir: Path | None) -> Payloads:
    """Read the four files of ``corpus`` from a folder, plain (memory-mapped) or ``.gz``.

    Raises
    ------
    NotThereError
        If no folder is set.
    DataUnavailableError
        If the folder or one of the files is missing, unreadable or damaged.
    """
    if data_dir is None:
        raise NotThereError("no folder given (--data-dir, data_dir= or FUSEDMLP_DATA)")
    if not data_dir.is_dir():
        raise DataUnavailableError(f"{data_dir} is not a folder")
    keys = {file.name: file.name.split("-idx")[0] for file in corpus.files}
    missing = ""
    for below in corpus.folders:
        folder = data_dir / below
        with reading(folder):
            found = find_idx_files(folder) if folder.is_dir() else {}
        absent = [name for name, key in keys.items() if key not in found]
        if not absent:
            return {name: _read_raw(found[key]) for name, key in keys.items()}
        if found:
            missing = f"{folder} lacks {', '.join(absent)}"
    raise DataUnavailableError(missing or f"no IDX files in {data_dir}")


def _read_raw(path: Path) -> NDArray[np.uint8]:
    """Return a whole raw IDX file, header included: mapped if plain, loaded if compressed."""
    with reading(path):
        with path.open("rb") as file:
            magic = file.read(2)
        if magic == GZIP_MAGIC:
            return np.frombuffer(gunzip_file(path), np.uint8)
        if not magic:  # numpy cannot map an empty file
            raise DataUnavailableError(f"{path} is empty")
        return np.memmap(path, np.uint8, "r")


def from_mirrors(corpus: Corpus, limits: Limits) -> Payloads:
    """Download the four files of ``corpus``, each from the first mirror that has the right one.

    Raises
    ------
    DataUnavailableError
        If some file is to be had from no mirror; it gives each mirror's reason.
    """
    payloads: Payloads = {}
    reasons: list[str] = []
    for mirror in corpus.mirrors:
        try:
            require_reachable(mirror, limits)
            for file in corpus.files:
                if file.name not in payloads:
                    payloads[file.name] = _fetch(file, mirror, limits)
        except DataUnavailableError as error:
            reasons.append(str(error))
        else:
            return payloads
    raise DataUnavailableError("; ".join(reasons))


def _fetch(file: IdxFile, mirror: str, limits: Limits) -> NDArray[np.uint8]:
    # Deflate adds five bytes a block to what it cannot compress; one block holds at least 4 KiB
    # in practice. The rest is for the gzip header with its name.
    content = download(f"{mirror}{file.name}.gz", file.n_bytes + file.n_bytes // 512 + 512, limits)
    host = urlsplit(mirror).hostname or mirror
    # Object stores undo gzip on the way where the file is marked as encoded.
    if content.startswith(GZIP_MAGIC):
        content = gunzip(io.BytesIO(content), f"{host}: {file.name}.gz")
    elif not content.startswith(b"\0\0"):
        raise DataUnavailableError(
            f"{host}: {file.name}.gz is no gzip file, it starts with {content[:20]!r}"
        )
    return file.verify(np.frombuffer(content, np.uint8), f"{host}: ")
