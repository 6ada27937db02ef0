"""The ``fusedmlp`` command: one file per subcommand, put together in app.py."""

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType


def main() -> None:
    """Run the ``fusedmlp`` command with the process's arguments.

    Until the command's modules are imported, Ctrl-C ends the process at once: an exception inside
    an import would print a traceback, or be lost. SIGTERM and SIGHUP do so by themselves, as
    long as they have no handler. The code that runs before this function (Python's own start, and
    these few lines) cannot be protected: Ctrl-C within the first hundredths of a second may still
    end with Python's traceback.
    """
    answers_ctrl_c = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if answers_ctrl_c:
        signal.signal(signal.SIGINT, _leave)
    from fusedmlp.cli.app import run

    run(answers_ctrl_c=answers_ctrl_c)


def _leave(_signal: int, _frame: "FrameType | None") -> None:
    os._exit(128 + signal.SIGINT)
