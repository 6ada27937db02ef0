"""The folder in which CuPy keeps compiled kernels: one where no other user can write.

CuPy loads what it finds there under the right name, and runs it on the device. Its own choice is
``CUPY_CACHE_DIR``, else ``~/.cupy/kernel_cache``; without a home folder it would create one named
``~`` in the working folder. Nothing is read or written here.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Final

from fusedmlp.io.cache_folders import create_folder, places

VARIABLE: Final = "CUPY_CACHE_DIR"
IN_MEMORY: Final = "CUPY_CACHE_IN_MEMORY"


def protect_kernel_cache() -> str:
    """Have CuPy use a folder of this user's own where its choice is open to others or not there.

    It is chosen by CuPy's own variables, before CuPy is imported; if it is imported already, it
    keeps its kernels in memory instead.

    Returns
    -------
    str
        What was changed and why, for a warning; empty where nothing was.
    """
    if os.environ.get(IN_MEMORY) == "1" and VARIABLE in os.environ:
        return ""
    found = places(VARIABLE, below="cupy", usual="~/.cupy/kernel_cache")
    kept, problems = found[-1].writable, [place.problem for place in found if place.problem]
    if not problems:
        return ""
    reasons = "; ".join(problems)
    if kept is None or "cupy" in sys.modules:
        os.environ[IN_MEMORY] = "1"
        # CuPy creates its folder when it is imported: this one is there, and remains unused.
        os.environ[VARIABLE] = Path.cwd().anchor
        return f"{reasons}: CuPy compiles its kernels again in each process"
    with contextlib.suppress(OSError):  # CuPy says so
        create_folder(kept)
    os.environ[VARIABLE] = str(kept)
    return f"{reasons}: CuPy keeps its kernels in {kept}"
