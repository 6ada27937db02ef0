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


class EndRequests:
    """The handler of the signals that ask this process to end.

    Attributes
    ----------
    signal_number
        The last such signal; None before one arrives.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def listen(self) -> None:
        """Raise KeyboardInterrupt for each signal from now on; ignored ones stay ignored."""
        for number in _numbers():
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self._interrupt)

    def stop_listening(self) -> None:
        """Let the signals end the process at once, as before :meth:`listen`."""
        for number in _numbers():
            if signal.getsignal(number) == self._interrupt:
                signal.signal(number, signal.SIG_DFL)

    def exit_code(self, code: object) -> object:
        """Return the code of an interrupted command as shells write it: 128 and the signal.

        Only the handler knows the signal: Typer replaces the exception by one of its own.
        """
        if code == ExitCode.INTERRUPTED and self.signal_number is not None:
            return 128 + self.signal_number
        return code

    def _interrupt(self, number: int, _frame: FrameType | None) -> NoReturn:
        self.signal_number = number
        raise KeyboardInterrupt(signal.Signals(number).name)


def _numbers() -> list[signal.Signals]:
    return [getattr(signal, name) for name in _REQUESTS if hasattr(signal, name)]
