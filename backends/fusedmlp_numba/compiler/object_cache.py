"""Object files of compiled code: their names, their folder, reading, writing and pruning.

A file's name has a hash of all sources of this package and of fusedmlp.reference.arithmetic, and a
hash of the processor, of the compiler's version and of its settings. Releases that share a folder
therefore keep their files apart. Loading them into the process is elsewhere (cached_function.py).

A process runs the code in such a file, so another user's file would run that user's code. Files are
therefore read and written only where no other user can: in ``NUMBA_CACHE_DIR``, else in the
user's cache, else in a folder of the user's own among the temporary files. The digest in a file
shows damage, and protects from nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from fusedmlp.backend import MAX_ROW_LOSS
from fusedmlp.io.atomic import write_atomically
from fusedmlp.io.cache_folders import (
    check_private,
    create_folder,
    places,
    read_private,
)
from fusedmlp.reference import arithmetic as strict
from fusedmlp_numba.compiler import llvm
from fusedmlp_numba.compiler.host import VECTOR_BYTES, cpu_features, cpu_name

if TYPE_CHECKING:
    from fusedmlp.io.cache_folders import Place

SETTINGS: Final = ("NUMBA_OPT", "NUMBA_LOOP_VECTORIZE", "NUMBA_SLP_VECTORIZE", "NUMBA_BOUNDSCHECK")
"""Numba's variables that change what it compiles, beside those of host.py."""

PACKAGE: Final = Path(__file__).parents[1]

DIGITS: Final = 16
"""Hexadecimal digits of each hash in a file's name."""

KEPT: Final = 32
"""Most files that are kept of one function; each belongs to a release, environment or processor."""

USED_S: Final = 86_400.0
"""Seconds after which the use of a file is noted again, by its time of modification."""

STALE_S: Final = 3600.0
"""Age in seconds of temporary files to remove; a younger one may be in use by another process."""


class ObjectCode(NamedTuple):
    """An object file, and the name of the function in it."""

    symbol: str
    binary: bytes


def read(name: str) -> ObjectCode | None:
    """Return a function's code for this machine and these sources; None where there is none."""
    sources = source_hash()
    if sources is None:
        return None
    for folder, _ in _places():
        if folder is None:
            continue
        path = folder / _file_name(name, sources)
        with contextlib.suppress(OSError):
            code = _decode(read_private(path))
            if code is not None:
                _note_use(path)
                return code
    return None


def write(name: str, code: ObjectCode) -> None:
    """Keep a function's code, where that is possible; warns where it is not."""
    sources, found = source_hash(), _places()
    folder, problems = found[-1].writable, [place.problem for place in found]
    if sources is None:
        folder, problems = None, [f"the sources in {PACKAGE} cannot be read"]
    elif folder is not None:
        try:
            create_folder(folder)
            path = check_private(folder) / _file_name(name, sources)
            write_atomically(path, _encode(code), private=True)
            _prune(name, path)
        except OSError as error:
            folder, problems = None, [*problems, str(error)]
    _warn(problems, folder)


def warn_of_other_users() -> None:
    """Warn where code is not looked for in a folder because others can write there."""
    found = _places()
    _warn([place.problem for place in found if place.folder is None], found[-1].writable)


def _places() -> list[Place]:
    return places("NUMBA_CACHE_DIR", below="compiled")


def _warn(problems: list[str], kept: Path | None) -> None:
    """Say why code is not kept where it was meant to be, and where it is kept instead."""
    reasons = "; ".join(dict.fromkeys(filter(None, problems)))
    if reasons:
        where = f"is kept in {kept}" if kept else "is compiled again in each process"
        # Python shows the same text from the same line, this one, once.
        warnings.warn(f"{reasons}: the numba backend's code {where}", stacklevel=1)


@functools.cache
def source_hash() -> str | None:
    """Hash of all sources that compiled code is made of; None where there are none to read."""
    digest = hashlib.sha256(repr(MAX_ROW_LOSS).encode())
    own, shared = sorted(PACKAGE.rglob("*.py")), Path(strict.__file__)
    try:
        for source in (*own, shared):
            digest.update(source.read_bytes())
    except OSError:
        return None
    return digest.hexdigest()


def _machine() -> str:
    """Hash of what else compiled code depends on."""
    versions = [metadata.version(name) for name in ("numba", "llvmlite")]
    host = llvm.host().triple, cpu_name(), cpu_features(), str(VECTOR_BYTES)
    settings = [os.environ.get(name, "") for name in SETTINGS]
    return hashlib.sha256("\n".join([*versions, *host, *settings]).encode()).hexdigest()


def _file_name(name: str, sources: str) -> str:
    return f"{name}-{_machine()[:DIGITS]}-{sources[:DIGITS]}.o"


def _encode(code: ObjectCode) -> bytes:
    content = code.symbol.encode() + b"\n" + code.binary
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def _decode(content: bytes) -> ObjectCode | None:
    digest, _, rest = content.partition(b"\n")
    if hashlib.sha256(rest).hexdigest().encode() != digest:
        return None
    symbol, _, binary = rest.partition(b"\n")
    return ObjectCode(symbol.decode(), binary)


def _note_use(path: Path) -> None:
    """Have a file that is in use outlive others; a folder that is read only is never pruned."""
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > USED_S:
            os.utime(path)


def _prune(name: str, written: Path) -> None:
    """Remove a function's files that were unused for longest, and what killed processes left.

    Another process may do the same at the same time. A file that stays takes room and does no harm.
    """
    ages = {}
    for path in (*written.parent.glob(f"{name}-*.o"), *written.parent.glob(f".{name}-*.o.*.tmp")):
        with contextlib.suppress(OSError):
            ages[path] = time.time() - path.stat().st_mtime
    temporary = {path for path in ages if path.suffix == ".tmp"}
    newest = sorted(ages.keys() - temporary - {written}, key=ages.__getitem__)
    for path in (*newest[KEPT - 1 :], *(each for each in temporary if ages[each] > STALE_S)):
        with contextlib.suppress(OSError):
            path.unlink()
