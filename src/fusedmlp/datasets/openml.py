"""The source ``openml``: through scikit-learn's ``fetch_openml``, in a process of its own.

Of its own, because ``fetch_openml`` has no timeout and takes a gigabyte while it parses: there, a
default socket timeout disturbs nobody, the whole can be stopped, and the memory goes back. The
digests are checked by the caller; here the raw IDX files are rebuilt from the table.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.datasets.idx import encode_idx
from fusedmlp.datasets.transfer import download, require_reachable
from fusedmlp.errors import DataUnavailableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusedmlp.datasets.cache import Payloads
    from fusedmlp.datasets.checksums import Corpus
    from fusedmlp.datasets.transfer import Limits

_DESCRIPTION_BYTES = 1 << 20  # a few KB in fact
_LABELS_HEADER = 8  # bytes before the labels of a one-dimensional IDX file


def from_openml(corpus: Corpus, limits: Limits, host: str) -> Payloads:
    """Fetch ``corpus`` from OpenML and rebuild its four raw IDX files.

    Raises
    ------
    DataUnavailableError
        If OpenML is out of reach, too slow, fails, or holds another table.
    """
    # What an earlier fetch_openml left on disk is used without any network. Otherwise its first
    # question is asked here: fetch_openml would repeat it, and wait four times as long.
    question = f"api/v1/json/data/{corpus.openml_id}"
    if not _sklearn_answer(question).is_file():
        require_reachable(host, limits)
        download(f"{host}{question}", _DESCRIPTION_BYTES, limits)
    with tempfile.TemporaryDirectory(prefix="fusedmlp-openml-") as folder:
        _run_child(corpus.openml_id, Path(folder), limits)
        pixels = np.load(Path(folder) / "pixels.npy", allow_pickle=False)
        labels = np.load(Path(folder) / "labels.npy", allow_pickle=False)
    return _rebuild(corpus, pixels, labels)


def _sklearn_answer(question: str) -> Path:
    """Return where scikit-learn keeps an answer of OpenML, without importing scikit-learn."""
    home = os.environ.get("SCIKIT_LEARN_DATA") or "~/scikit_learn_data"
    return Path(home).expanduser() / "openml" / "openml.org" / f"{question}.gz"


def _run_child(openml_id: int, folder: Path, limits: Limits) -> None:
    script = Path(__file__).with_name("openml_child.py")
    # -P: the script's folder must not come first on the path, it would shadow other modules.
    command = [sys.executable, "-P", str(script), str(openml_id), str(folder), str(limits.silence)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limits.openml, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DataUnavailableError(f"not finished within {limits.openml:g} s") from error
    except OSError as error:
        raise DataUnavailableError(f"cannot start {sys.executable}: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise DataUnavailableError(lines[-1])


def _rebuild(corpus: Corpus, pixels: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Payloads:
    """Cut the table into the raw files; OpenML keeps the order, train rows before test rows."""
    n_rows, n_inputs = pixels.shape
    side = round(n_inputs**0.5)
    if side * side != n_inputs or labels.shape != (n_rows,):
        raise DataUnavailableError(
            f"OpenML data set {corpus.openml_id} is another table: inputs {pixels.shape}, "
            f"labels {labels.shape}"
        )
    n_train = corpus.files[1].n_bytes - _LABELS_HEADER
    images = pixels.reshape(n_rows, side, side)
    parts = (images[:n_train], labels[:n_train], images[n_train:], labels[n_train:])
    return {
        file.name: np.frombuffer(encode_idx(part), np.uint8)
        for file, part in zip(corpus.files, parts, strict=True)
    }
