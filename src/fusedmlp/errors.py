"""The exceptions of fusedmlp, and their exit codes for the command line.

A message names the value, the expectation and the remedy. The command line prints the message
without a traceback and exits with the class's code. In Python, catch :class:`FusedMLPError` or the
built-in exception that the class also derives from.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit codes of the ``fusedmlp`` command."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    BACKEND_UNAVAILABLE = 3
    BREACHED = 4  # a parity bound, a reproduction target or a regression threshold
    DATA_UNAVAILABLE = 5  # or a file of any kind is damaged
    INTERRUPTED = 130  # 128 + SIGINT, the shells' convention


class FusedMLPError(Exception):
    """Base class of all errors of this package."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILURE


class InvalidInputError(FusedMLPError, ValueError):
    """An argument, array or option has a wrong value, shape, type or range."""

    exit_code = ExitCode.USAGE


class UnknownNameError(InvalidInputError):
    """A name (backend, activation, optimizer, data set, …) is not one of the known ones."""

    @classmethod
    def of(cls, kind: str, name: str, known: list[str] | tuple[str, ...]) -> UnknownNameError:
        """Return the error whose message has the unknown name and the valid choices."""
        return cls(f"unknown {kind} {name!r}: choose one of {', '.join(known)}")


class BackendUnavailableError(FusedMLPError, RuntimeError):
    """A requested backend cannot be used on this machine."""

    exit_code = ExitCode.BACKEND_UNAVAILABLE


class MissingDependencyError(FusedMLPError, ImportError):
    """An optional library is not installed; the message has the install command."""


class BackendNotInstalledError(BackendUnavailableError, MissingDependencyError):
    """The requested backend's library is not installed; the message has the install command."""


class NoUsableDeviceError(BackendUnavailableError):
    """The backend's library is installed, but no device works; the message quotes the driver."""


class DeviceMemoryError(FusedMLPError, MemoryError):
    """The device has too little free memory; the message has the bytes required and free."""


class DataUnavailableError(FusedMLPError, OSError):
    """A data set could not be obtained, or a data file is truncated, unknown or corrupted."""

    exit_code = ExitCode.DATA_UNAVAILABLE


class FileFormatError(FusedMLPError, ValueError):
    """A model, checkpoint or settings file is damaged, of another format, or of a newer version."""

    exit_code = ExitCode.DATA_UNAVAILABLE


class StorageError(FusedMLPError, OSError):
    """A file or folder could not be read or written: full disk, read-only, no permission."""


class DivergedError(FusedMLPError, ArithmeticError):
    """The loss became NaN or infinite during training."""


class BreachedError(FusedMLPError):
    """A measured value is outside its stated bound."""

    exit_code = ExitCode.BREACHED
