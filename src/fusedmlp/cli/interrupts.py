"""Signals that end a command: Ctrl-C, SIGTERM and SIGHUP all become a KeyboardInterrupt.

So a training that is asked to end in any of these ways keeps its last finished epoch, and a command
leaves no half-made folder. SIGKILL cannot be answered; see :mod:`fusedmlp.io.atomic`.
"""

import signal
from types import FrameType
from typing import Final, NoReturn

from fusedmlp.errors import ExitCode

_REQUESTS: Final = ("SIGTERM", "SIGHUP")
"""Signals with which systems ask a process to end; Windows lacks the second."""


class EndRequestedError(KeyboardInterrupt):
    """The process was asked to end by ``signal_number``."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


def listen() -> None:
    """Raise an exception for each of the signals from now on; one that is ignored stays ignored."""
    for name in _REQUESTS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _request_end)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """Return the exit code after an interrupt: 128 and the signal's number, as in shells."""
    if isinstance(interrupt, EndRequestedError):
        return 128 + interrupt.signal_number
    return ExitCode.INTERRUPTED


def _request_end(number: int, _frame: FrameType | None) -> NoReturn:
    raise EndRequestedError(number)
