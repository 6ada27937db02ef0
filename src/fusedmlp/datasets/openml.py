"""The source ``openml``: scikit-learn's ``fetch_openml``, in a child process.

``fetch_openml`` has no timeout and takes a gigabyte while it parses. In a child process a default
socket timeout affects no other code, the whole can be stopped, and the memory is released. Run as
``python -m``, this module is the child, which writes the table; imported, it rebuilds the raw IDX
files from the table. The caller checks the digests.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.datasets.download import check_reachable, download, run_process
from fusedmlp.datasets.idx import encode_idx
from fusedmlp.errors import DataUnavailableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusedmlp.datasets.download import Timeouts
    from fusedmlp.datasets.published import PublishedSet, RawFiles

_DESCRIPTION_BYTES = 1 << 20  # a few KB in fact
_LABELS_HEADER = 8  # bytes before the labels of a one-dimensional IDX file


def from_openml(published: PublishedSet, timeouts: Timeouts, url: str) -> RawFiles:
    """Fetch a published set from OpenML at ``url`` and rebuild its four raw IDX files.

    Raises
    ------
    DataUnavailableError
        If OpenML is out of reach, too slow, fails, or holds another table.
    """
    # Answers that an earlier fetch_openml left on disk need no network. Otherwise its first request
    # is sent here: fetch_openml would repeat a failing one, and wait four times as long.
    request = f"api/v1/json/data/{published.openml_id}"
    if not _sklearn_cache(request).is_file():
        check_reachable(url, timeouts)
        download(f"{url}{request}", _DESCRIPTION_BYTES, timeouts)
    with tempfile.TemporaryDirectory(prefix="fusedmlp-openml-") as folder:
        # -P: the working folder must not come first on the path, it would shadow other modules.
        command = [sys.executable, "-P", "-m", __name__, str(published.openml_id), folder]
        run_process([*command, str(timeouts.read)], "OpenML", timeouts.openml)
        pixels = np.load(Path(folder) / "pixels.npy", allow_pickle=False)
        labels = np.load(Path(folder) / "labels.npy", allow_pickle=False)
    return _rebuild(published, pixels, labels)


def _sklearn_cache(request: str) -> Path:
    """Return where scikit-learn keeps an answer of OpenML, without importing scikit-learn."""
    home = os.environ.get("SCIKIT_LEARN_DATA") or "~/scikit_learn_data"
    return Path(home).expanduser() / "openml" / "openml.org" / f"{request}.gz"


def _rebuild(
    published: PublishedSet, pixels: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> RawFiles:
    """Cut the table, pixels (N, D) and labels (N,), into raw files: train rows, then test rows."""
    n_rows, n_inputs = pixels.shape
    side = round(n_inputs**0.5)
    if side * side != n_inputs or labels.shape != (n_rows,):
        raise DataUnavailableError(
            f"OpenML data set {published.openml_id} is another table: inputs {pixels.shape}, "
            f"labels {labels.shape}"
        )
    n_train = published.files[1].n_bytes - _LABELS_HEADER
    images = pixels.reshape(n_rows, side, side)
    parts = (images[:n_train], labels[:n_train], images[n_train:], labels[n_train:])
    return {
        file.name: np.frombuffer(encode_idx(part), np.uint8)
        for file, part in zip(published.files, parts, strict=True)
    }


def write_table(data_id: int, folder: Path, read_timeout: float) -> None:
    """Write ``pixels.npy`` (N, D) and ``labels.npy`` (N,), both uint8, into ``folder``."""
    from sklearn.datasets import fetch_openml

    socket.setdefaulttimeout(read_timeout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the retry warning repeats the error
        # liac-arff: the other parser needs pandas. One retry is the fewest that it accepts.
        table = fetch_openml(
            data_id=data_id, as_frame=False, parser="liac-arff", n_retries=1, delay=0.5
        )
    np.save(folder / "pixels.npy", np.asarray(table.data).astype(np.uint8))
    np.save(folder / "labels.npy", np.asarray(table.target).astype(np.uint8))


if __name__ == "__main__":
    write_table(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
