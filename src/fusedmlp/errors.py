"""Every error that fusedmlp raises on purpose, and the exit code that the command line gives it.

An error names the value, the expectation and the remedy. The command line prints the message,
without a traceback, and exits with the class's code; Python users catch :class:`FusedMLPError`
or, where one fits, the built-in exception that the class also derives from.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What a process exit status of the ``fusedmlp`` command means."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    BACKEND_UNAVAILABLE = 3
    BREACHED = 4  # a parity bound, a reproduction target or a regression threshold
    DATA_UNAVAILABLE = 5
    INTERRUPTED = 130  # 128 + SIGINT, the shells' convention


class FusedMLPError(Exception):
    """Base of every error below."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILURE


class InvalidInputError(FusedMLPError, ValueError):
    """An argument, array or option has a wrong value, shape, type or range."""

    exit_code = ExitCode.USAGE


class UnknownNameError(InvalidInputError):
    """A name (backend, activation, optimizer, data set, …) is not one of the known ones."""

    @classmethod
    def of(cls, kind: str, name: str, known: list[str] | tuple[str, ...]) -> UnknownNameError:
        """Build the one sentence that every unknown name gets: the name and the choices."""
        return cls(f"unknown {kind} {name!r}: choose one of {', '.join(known)}")


class BackendUnavailableError(FusedMLPError, RuntimeError):
    """A backend was asked for and cannot be used here."""

    exit_code = ExitCode.BACKEND_UNAVAILABLE


class MissingDependencyError(BackendUnavailableError):
    """The backend's library is not installed; the message holds the exact install line."""


class NoUsableDeviceError(BackendUnavailableError):
    """The backend's library is installed, but no device works; the driver's own words follow."""


class DeviceMemoryError(FusedMLPError, MemoryError):
    """The device has too little free memory; the message has the bytes asked for and free."""


class DataUnavailableError(FusedMLPError, OSError):
    """A data set could not be obtained, or a data file is truncated, foreign or corrupted."""

    exit_code = ExitCode.DATA_UNAVAILABLE


class FileFormatError(FusedMLPError, ValueError):
    """A model or checkpoint file is truncated, foreign, or of a version too new to read."""


class StorageError(FusedMLPError, OSError):
    """A file or folder could not be written: full disk, read-only target, missing rights."""


class DivergedError(FusedMLPError, ArithmeticError):
    """The loss became NaN or infinite during training."""


class BreachedError(FusedMLPError):
    """A measured figure is outside its stated bound."""

    exit_code = ExitCode.BREACHED
