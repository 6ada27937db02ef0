"""A script, not a module: fetch one OpenML table and write it as two ``.npy`` files.

:mod:`fusedmlp.datasets.openml` runs it as ``python -P openml_child.py DATA_ID FOLDER READ_S``.
It imports nothing of fusedmlp, so that it runs wherever scikit-learn does. After a failure, the
last line of the traceback becomes the message.
"""

from __future__ import annotations

import socket
import sys
import warnings
from pathlib import Path


def main(data_id: int, folder: Path, read_timeout: float) -> None:
    """Write ``pixels.npy`` (N, D) and ``labels.npy`` (N,), both uint8, into ``folder``."""
    import numpy as np
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
    main(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
