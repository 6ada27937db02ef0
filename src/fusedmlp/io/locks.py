"""Locks on open files, which the operating system releases when a process ends in whatever way.

They keep processes apart, not threads. Some network file systems have no locks.
"""

from __future__ import annotations

import sys

if sys.platform == "win32":
    import msvcrt

    def lock(descriptor: int) -> None:
        """Lock an open file, as on other systems; it must be open for writing."""
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(error.errno, error.strerror) from error

else:
    import fcntl

    def lock(descriptor: int) -> None:
        """Lock an open file until it is closed.

        Raises
        ------
        BlockingIOError
            Another open file, of this process or of another one, has the lock.
        OSError
            The file system has no locks.
        """
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
