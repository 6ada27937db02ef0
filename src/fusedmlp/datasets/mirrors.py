"""The source ``mirror``: the four IDX files of a published set behind a URL, as ``.gz``."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from fusedmlp.datasets.download import Timeouts, check_reachable, download
from fusedmlp.datasets.idx import GZIP_MAGIC, gunzip
from fusedmlp.errors import DataUnavailableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusedmlp.datasets.published import IdxFile, PublishedSet, RawFiles


def from_mirrors(published: PublishedSet, timeouts: Timeouts) -> RawFiles:
    """Download the four files, each from the first mirror that has the right one.

    Each file is verified at once, because another mirror may have the right one.

    Raises
    ------
    DataUnavailableError
        If a file is on no mirror; the message has each mirror's reason.
    """
    files: RawFiles = {}
    reasons: list[str] = []
    for mirror in published.mirrors:
        try:
            check_reachable(mirror, timeouts)
            for file in published.files:
                if file.name not in files:
                    files[file.name] = _fetch(file, mirror, timeouts)
        except DataUnavailableError as error:
            reasons.append(str(error))
        else:
            return files
    raise DataUnavailableError("; ".join(reasons))


def _fetch(file: IdxFile, mirror: str, timeouts: Timeouts) -> NDArray[np.uint8]:
    host = urlsplit(mirror).hostname or mirror
    # Deflate adds five bytes a block to what it cannot compress; one block holds at least 4 KiB
    # in practice. The rest is for the gzip header with its name.
    max_bytes = file.n_bytes + file.n_bytes // 512 + 512
    content = download(f"{mirror}{file.name}.gz", max_bytes, timeouts)
    # Object stores decompress on the way where the file is marked as encoded.
    if content.startswith(GZIP_MAGIC):
        content = gunzip(io.BytesIO(content), len(content), f"{host}: {file.name}.gz")
    elif not content.startswith(b"\0\0"):
        raise DataUnavailableError(
            f"{host}: {file.name}.gz is no gzip file, it starts with {content[:20]!r}"
        )
    raw = np.frombuffer(content, np.uint8)
    file.verify(raw, f"{host}: ")
    return raw
