"""Atomic writes: a crash at any moment leaves either the old file or the new one, complete."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import time
from pathlib import Path

from fusedmlp.errors import StorageError


def write_atomically(path: Path, content: bytes, *, private: bool = False) -> None:
    """Replace ``path`` by ``content``; on failure the old file stays and no other is left.

    The bytes are written to a temporary file in the same folder and reach the disk before the
    rename, so that SIGKILL or a power cut cannot leave half a file.

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
    # The name is unique: two processes that write the same file cannot mix their bytes.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = 0o644 if private else 0o666
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; choose another place or free space"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Create ``folder`` and check, before long work starts, that a file can be written there.

    Raises
    ------
    StorageError
        No file can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe."):
            pass
    except OSError as error:
        raise StorageError(
            f"cannot write to {folder}: {error.strerror or error}; choose another folder"
        ) from error


def sweep(folder: Path, older_than_s: float = 0.0) -> None:
    """Remove the temporary files that killed processes left in ``folder``.

    Parameters
    ----------
    older_than_s
        Least age in seconds of a file that is removed; a younger one may be in use.
    """
    oldest = time.time() - older_than_s
    for path in folder.glob(".*.tmp"):
        # Another process may do the same at the same time; a file that stays does no harm.
        with contextlib.suppress(OSError):
            if path.stat().st_mtime <= oldest:
                path.unlink()


def _sync_folder(folder: Path) -> None:
    """Write the rename to the disk, where folders can be opened (not on Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
