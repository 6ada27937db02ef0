"""The process's stdout and stderr, made so that writing to them never fails.

A stream may be closed, full, a pipe without a reader, or of an encoding that lacks a character.
What cannot be written to stderr is lost in silence: no training depends on its log. For stdout, the
first error is kept, and the command ends with it.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, BinaryIO, Final, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_PLAIN: Final = {
    "…": "...", "·": ".", "–": "-", "−": "-", "×": "x", "≤": "<=", "≥": ">=", "²": "^2",
    "’": "'", "λ": "lambda", "α": "alpha", "ᵀ": "T",
}  # fmt: skip
"""ASCII for signs in messages and tables; another character becomes its number, such as
``\\u732b``, so that two names stay two names."""

_ERRORS: Final = "fusedmlp-plain"


class UnfailingBytes(io.RawIOBase):
    """The bytes of a text stream, or of a closed one (None); what cannot be written is dropped.

    Attributes
    ----------
    error
        The first error; None as long as all bytes have been written.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream  # it would close the descriptor at its end
        buffer = None if stream is None else stream.buffer
        self._raw: BinaryIO | None = getattr(buffer, "raw", buffer)  # python -u has no buffer
        self.error: OSError | None = None

    def writable(self) -> bool:
        """Tell that bytes may be written."""
        return True

    def isatty(self) -> bool:
        """Tell whether the stream is a terminal."""
        return self._raw is not None and self._raw.isatty()

    def fileno(self) -> int:
        """Return the descriptor."""
        return super().fileno() if self._raw is None else self._raw.fileno()

    def write(self, content: ReadableBuffer) -> int:
        """Write some of the bytes; return how many are done with."""
        n_bytes = memoryview(content).nbytes
        if self._raw is None:
            self.error = OSError(errno.EBADF, "it is closed")
            return n_bytes
        try:
            while (written := self._raw.write(content)) is None:
                select.select((), (self._raw,), ())  # a full pipe that does not block
        except OSError as error:
            self.error = self.error or error
            return n_bytes
        return written


def protect() -> UnfailingBytes:
    """Replace ``sys.stdout`` and ``sys.stderr`` from now on; return the bytes of stdout."""
    _occupy_standard_descriptors()
    codecs.register_error(_ERRORS, _plain)
    stdout, sys.stdout = _unfailing(sys.stdout)
    _, sys.stderr = _unfailing(sys.stderr)
    return stdout


def _occupy_standard_descriptors() -> None:
    """Give closed standard descriptors to the null device.

    Otherwise the next file that is opened, a model perhaps, gets such a number, and a library that
    prints would write into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def _unfailing(stream: TextIO | None) -> tuple[UnfailingBytes, TextIO]:
    """Return a text stream in place of another one, which is None where it is closed."""
    unfailing = UnfailingBytes(stream)
    text = io.TextIOWrapper(
        io.BufferedWriter(unfailing),
        encoding="utf-8" if stream is None else stream.encoding,
        errors=_ERRORS,
        line_buffering=stream is not None and bool(stream.line_buffering),
        write_through=getattr(stream, "write_through", False),
    )
    return unfailing, text


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks; a handler of the ``codecs`` module."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or ascii(c)[1:-1] for c in text), error.end
