"""The ``fusedmlp`` command: its subcommands, and their errors as messages and exit codes.

An error that fusedmlp raises on purpose becomes one line ``error: …`` and the exit code of its
class. A malformed command line gets Typer's message and exit code 2. Any other exception is a bug
and keeps its traceback. Heavy libraries are imported inside the commands, so that help is quick.
"""

import warnings
from typing import Annotated

import typer
from typer.core import TyperGroup

from fusedmlp.cli import console
from fusedmlp.cli.backends import backends
from fusedmlp.cli.bench import bench
from fusedmlp.cli.command import command
from fusedmlp.cli.data import data
from fusedmlp.cli.doctor import doctor
from fusedmlp.cli.evaluate import evaluate
from fusedmlp.cli.parity import parity
from fusedmlp.cli.predict import predict
from fusedmlp.cli.reproduce import reproduce
from fusedmlp.cli.train import train
from fusedmlp.errors import ExitCode, FusedMLPError

HELP = """Train and use multilayer perceptrons on NumPy, Numba or CuPy.

Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 backend unavailable, \
4 a bound was missed, 5 data unavailable or a file damaged, 130 interrupted."""


class _Commands(TyperGroup):
    """Subcommands; an error becomes one message and an exit code."""

    # The supertype's Context is Typer's private copy of Click's, which has no public name.
    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except FusedMLPError as error:
            console.error(str(error))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            console.note("interrupted")
            raise typer.Exit(ExitCode.INTERRUPTED) from interrupt


def _print_version(*, is_given: bool) -> None:
    if is_given:
        from fusedmlp import __version__

        typer.echo(f"fusedmlp {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Take the options before a subcommand."""


def build() -> typer.Typer:
    """Put the subcommands together."""
    app = typer.Typer(
        cls=_Commands,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(help=HELP)(_root)
    for function in (train, evaluate, predict, reproduce, parity, bench, backends, doctor, data):
        app.command()(command(function))
    return app


def _show_warning(message: Warning | str, *_where: object, **_more: object) -> None:
    """Write a warning as one line, without its place in the sources."""
    console.note(f"warning: {' '.join(str(message).split())}")


def main() -> None:
    """Run the ``fusedmlp`` command with the process's arguments."""
    warnings.showwarning = _show_warning
    build()(prog_name="fusedmlp")
