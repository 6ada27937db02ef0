"""The ``fusedmlp`` command: its subcommands, and their errors as messages and exit codes.

An error becomes one line ``error: …``: one that fusedmlp raises on purpose with the exit code of
its class, a malformed command line with 2, and what the operating system refuses (a file, memory)
with 1. Any other exception is a bug and keeps its traceback. Heavy libraries are imported inside
the commands, so that help is quick.
"""

import signal
import sys
import warnings
from typing import Annotated, Final, NoReturn, cast

import typer
from typer.core import TyperGroup

from fusedmlp.cli import console, streams
from fusedmlp.cli.backends import backends
from fusedmlp.cli.bench import bench
from fusedmlp.cli.command import command, variables
from fusedmlp.cli.data import data
from fusedmlp.cli.demo import demo
from fusedmlp.cli.doctor import doctor
from fusedmlp.cli.evaluate import evaluate
from fusedmlp.cli.interrupts import EndRequests
from fusedmlp.cli.parity import parity
from fusedmlp.cli.predict import predict
from fusedmlp.cli.reproduce import reproduce
from fusedmlp.cli.train import train
from fusedmlp.errors import ExitCode, FusedMLPError

HELP = """Train and use multilayer perceptrons on NumPy, Numba or CuPy.

Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 backend unavailable, \
4 a bound was missed, 5 data unavailable or a file damaged, 130 interrupted, 143 by SIGTERM, \
129 by SIGHUP.

Example: fusedmlp train --dataset digits --output out"""


_UsageError: Final = cast("type[Exception]", typer.BadParameter.__bases__[0])
"""The error for a malformed command line, which has no public name in Typer."""


class _Commands(TyperGroup):
    """Subcommands; an error becomes one line and an exit code."""

    def main(self, *args: object, **settings: object) -> NoReturn:
        """Run the command line, and exit."""
        settings["standalone_mode"] = False
        try:
            result = super().main(*args, **settings)  # type: ignore[arg-type]
            code = result if isinstance(result, int) else ExitCode.OK  # an int is of typer.Exit
        except _UsageError as error:
            code = _report(_usage_message(error), ExitCode.USAGE)
        except typer.Abort:  # Ctrl-C while the command line is read, in older releases of Typer
            code = ExitCode.INTERRUPTED
        except FusedMLPError as error:
            code = _report(str(error), error.exit_code)
        except MemoryError as error:
            code = _report(
                f"out of memory: {error}; smaller layers or batches need less", ExitCode.FAILURE
            )
        except OSError as error:
            if error.errno is None:
                raise
            place = "" if error.filename is None else f"{error.filename}: "
            code = _report(f"{place}{error.strerror}", ExitCode.FAILURE)
        sys.exit(code)

    # The supertype's Context is Typer's private copy of Click's, which has no public name.
    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:  # here, since Typer's main has an answer of its own
            console.note("interrupted")
            raise typer.Exit(ExitCode.INTERRUPTED) from interrupt


def _usage_message(error: Exception) -> str:
    """Return Typer's message on a command line, which begins with the option, and the remedy."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    message = str(getattr(error, "message", ""))
    if parameter is not None and message:
        message = f"{parameter.opts[0]} {message}"
    else:
        message = error.format_message()  # type: ignore[attr-defined]
    command = "fusedmlp" if context is None else context.command_path
    return f"{message.rstrip('.')}: see {command} --help"


def _report(message: str, code: int) -> int:
    console.error(message)
    return code


def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Print the version, or the help where there is no subcommand."""
    if version:
        from fusedmlp import __version__

        typer.echo(f"fusedmlp {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(ExitCode.USAGE)


def build() -> typer.Typer:
    """Put the subcommands together."""
    app = typer.Typer(
        cls=_Commands,
        invoke_without_command=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich" if console.fits_panels() else None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(help=HELP)(_root)
    functions = (
        train, evaluate, predict, demo, reproduce, parity, bench, backends, doctor, data,
    )  # fmt: skip
    for function in functions:
        app.command(epilog=variables(function))(command(function))
    return app


def _show_warning(message: Warning | str, *_where: object, **_more: object) -> None:
    """Write a warning as one line, without its place in the sources."""
    console.note(f"warning: {' '.join(str(message).split())}")


def run(*, answers_ctrl_c: bool) -> NoReturn:
    """Run the command with the process's arguments.

    Parameters
    ----------
    answers_ctrl_c
        Whether Ctrl-C interrupts; a shell's background jobs ignore it.
    """
    warnings.showwarning = _show_warning
    stdout, requests = streams.protect(), EndRequests()
    try:
        if answers_ctrl_c:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        requests.listen()
        build()(prog_name="fusedmlp")
        code: object = ExitCode.OK
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:  # before or after the command itself
        code = ExitCode.INTERRUPTED
    if answers_ctrl_c:  # while Python shuts down, an exception would only print a traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    requests.stop_listening()
    sys.stdout.flush()
    if stdout.error is not None:
        code = code or ExitCode.FAILURE
        console.error(f"cannot write to stdout: {stdout.error.strerror}")
    sys.exit(requests.exit_code(code))  # type: ignore[arg-type]
