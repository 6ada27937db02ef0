"""Atomic writes: a crash at any moment leaves either the old file or the new one, complete."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from fusedmlp.errors import StorageError
from fusedmlp.io.locks import lock

if TYPE_CHECKING:
    from collections.abc import Iterator

_IS_POSIX: Final = os.name == "posix"
"""Whether open files can be renamed and removed, and folders be opened; not on Windows."""


def write_atomically(path: Path, content: bytes, *, private: bool = False) -> None:
    """Replace ``path`` by ``content``; on failure the old file stays and no other is left.

    The bytes are written to a temporary file in the same folder and reach the disk before the
    rename, so that SIGKILL or a power cut cannot leave half a file. Temporary files that killed
    processes left of the same file are removed.

    Parameters
    ----------
    private
        Whether no other user may write to the file, whatever the process's umask.

    Raises
    ------
    StorageError
        The folder or file cannot be written (full disk, read-only, missing rights).
    """
    path = Path(path)
    with storage_errors(f"cannot write {path}", "choose another place or free space"):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        stream = _temporary_file(path, private=private)
        try:
            with stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
                if _IS_POSIX:  # with its lock, so that no other process takes it for abandoned
                    Path(stream.name).replace(path)
            if not _IS_POSIX:
                Path(stream.name).replace(path)
        finally:
            with contextlib.suppress(OSError):
                Path(stream.name).unlink(missing_ok=True)
        _sync_folder(path.parent)


def check_writable(folder: Path) -> None:
    """Create ``folder`` and check, before long work starts, that a file can be written there.

    Raises
    ------
    StorageError
        No file can be written there.
    """
    with storage_errors(f"cannot write to {folder}", "choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe."):
            pass


@contextlib.contextmanager
def storage_errors(action: str, remedy: str) -> Iterator[None]:
    """Convert an ``OSError`` inside the block into a StorageError: the action, why not, a remedy.

    Raises
    ------
    StorageError
        Instead of any other ``OSError``.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{action}: {error.strerror or error}; {remedy}") from error


def _temporary_file(path: Path, *, private: bool) -> BinaryIO:
    """Open a new file beside ``path``; its lock shows other processes that it is in use."""
    while True:
        # The name is unique: two processes that write the same file cannot mix their bytes.
        name = f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
        stream = path.with_name(name).open("xb")
        if private and _IS_POSIX:
            os.fchmod(stream.fileno(), 0o644)
        try:
            lock(stream.fileno())
        except BlockingIOError:  # another process is about to remove it: it had no lock yet
            stream.close()
            continue
        except OSError:  # a file system without locks, where nothing is taken for abandoned
            return stream
        if not _IS_POSIX or os.fstat(stream.fileno()).st_nlink:
            return stream
        stream.close()


def _remove_abandoned(path: Path) -> None:
    """Remove temporary files of ``path`` that no process is writing any more."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.[0-9]*-*.tmp"):
        # Another process may do the same at the same time; a file that stays does no harm.
        with contextlib.suppress(OSError):
            if _IS_POSIX:
                with temporary.open("r+b") as stream:
                    lock(stream.fileno())
                    temporary.unlink()
            else:
                temporary.unlink()  # Windows refuses while the file is open


def _sync_folder(folder: Path) -> None:
    """Write the rename to the disk, where folders can be opened."""
    if not _IS_POSIX:
        return
    with contextlib.suppress(PermissionError):  # one may write to some folders and not read them
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
