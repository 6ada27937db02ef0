"""Options as fields of a dataclass: what one declaration gives a command."""

# No postponed annotations: Typer reads those of the commands below.

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from fusedmlp.cli.command import command, variables
from fusedmlp.cli.options import RUNNING, Only, Option, Overrides
from fusedmlp.errors import InvalidInputError


def parse_pair(text):
    return tuple(map(int, text.split(",")))


@dataclass(frozen=True)
class Options:
    size: Annotated[float, Option("Size of a step.", "S", RUNNING, note="or less")] = 0.5
    pair: Annotated[tuple[int, ...], Option("Two numbers.", "A,B", RUNNING, parse=parse_pair)] = ()
    place: Annotated[str | None, Option("A place.", "P", RUNNING, variable="PLACE")] = None
    is_fast: Annotated[bool, Option("Fast.", " ", RUNNING, variable=None)] = False
    fixed: int = 3


def takes_options(options: Options) -> None:
    pass


@pytest.fixture
def run():
    """Run a function as a command; return its argument and the result."""

    def call(annotation, *arguments, **variables):
        received = []

        def function(options: annotation) -> None:
            received.append(options)
            raise InvalidInputError("size -1 is too small")

        app = typer.Typer()
        app.command()(command(function))
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"} | variables)
        return (received or [None])[0], result

    return call


def test_the_dataclass_is_built_from_options_variables_and_defaults(run):
    assert run(Options)[0] == Options()
    assert run(Options, "--size", "2", "--pair", "1,2", "--place", "x", "--is-fast")[0] == (
        Options(2.0, (1, 2), "x", is_fast=True)
    )
    assert run(Options, FUSEDMLP_SIZE="3", FUSEDMLP_PAIR="4,5")[0] == Options(3.0, (4, 5))
    assert run(Options, "--size", "2", FUSEDMLP_SIZE="3")[0].size == 2


def test_a_variable_that_the_library_reads_and_one_that_does_not_exist_change_nothing(run):
    assert run(Options, PLACE="x", FUSEDMLP_IS_FAST="1")[0] == Options()


def test_overrides_hold_what_was_given_and_what_was_typed(run):
    found, _ = run(Overrides[Options], "--size", "0.5", FUSEDMLP_PAIR="4,5")
    assert found.values == {"size": 0.5, "pair": (4, 5)}
    assert found.typed == {"size": 0.5}
    assert found.apply(Options(place="x")) == Options(pair=(4, 5), place="x")


def test_a_command_may_take_some_of_the_options(run):
    annotation = Annotated[Options, Only("size")]
    assert run(annotation, "--size", "1")[0] == Options(1.0)
    assert run(annotation, "--pair", "1,2")[1].exit_code == 2


def test_help_and_messages_name_the_option(run):
    text = run(Options, "--help")[1].stdout
    for words in ("--size", "[default: (0.5; or less)]"):
        assert words in text
    assert (
        variables(takes_options)
        == "Environment variables: FUSEDMLP_SIZE, FUSEDMLP_PAIR, PLACE (--place)."
    )
    assert str(run(Options)[1].exception) == "--size -1 is too small"
    assert str(run(Annotated[Options, Only("pair")])[1].exception) == "size -1 is too small"
