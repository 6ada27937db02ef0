"""Derive Typer commands from functions that take dataclasses of options.

See options.py for the declarations.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Final, get_args, get_origin

import typer

from fusedmlp.cli.options import (
    Only,
    OptionField,
    Overrides,
    as_typed,
    flag,
    number,
    option_fields,
    whole_number,
)
from fusedmlp.errors import InvalidInputError
from fusedmlp.io.paths import expanded

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_VALUE = re.compile(r"(\w+)[ =](?=['\"\d\[-]|nan|inf)")
"""Start of the library's messages about a value, such as ``batch_size 0 is not …``."""

_UNKNOWN = re.compile(r"unknown [\w ]+ '([^']*)'(?=: choose one of)")
"""Start of the library's messages about a name, such as ``unknown optimizer 'lion': choose …``."""


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter that is a dataclass of options by these options, for Typer.

    ``function`` receives the dataclass, built from what the user gave, or, where the annotation
    says so, the :class:`Overrides` alone. ``~`` in paths is expanded. Messages of its
    InvalidInputErrors name the option.
    """
    groups: dict[str, _OptionGroup] = {}
    parameters = [Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for name, parameter in signature(function).parameters.items():
        group = _OptionGroup.of(parameter.annotation)
        if group is None:
            parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))
        else:
            groups[name] = group
            parameters += group.parameters()

    @wraps(function)
    def run(context: typer.Context, **values: object) -> None:
        try:
            values |= _with_homes(context, values)
            for name, group in groups.items():
                given = {field: values.pop(field) for field in group.names}
                values[name] = group.value(context, given)
            function(**values)
        except InvalidInputError as error:
            error.args = (_with_option(str(error), context),)
            raise

    run.__signature__ = signature(function).replace(  # type: ignore[attr-defined]
        parameters=parameters
    )
    return run


def variables(function: Callable[..., None]) -> str | None:
    """Return the end of a command's help: the environment variables that stand in for options."""
    parameters = signature(function).parameters.values()
    groups = [group for each in parameters if (group := _OptionGroup.of(each.annotation))]
    found = [name for group in groups for name in group.variables()]
    return f"Environment variables: {', '.join(found)}." if found else None


@dataclass(frozen=True, slots=True)
class _OptionGroup:
    """A parameter of a command that is a dataclass of options.

    Parameters
    ----------
    cls
        The dataclass.
    names
        The fields that the command takes.
    as_overrides
        Whether the command receives :class:`Overrides` instead of the dataclass.
    """

    cls: "type[DataclassInstance]"
    names: tuple[str, ...]
    as_overrides: bool

    @classmethod
    def of(cls, annotation: object) -> "_OptionGroup | None":
        """Read the annotation of a parameter; None where the parameter is of another kind."""
        only = None
        if get_origin(annotation) is Annotated:
            annotation, *extras = get_args(annotation)
            only = next((extra for extra in extras if isinstance(extra, Only)), None)
        as_overrides = get_origin(annotation) is Overrides
        if as_overrides:
            (annotation,) = get_args(annotation)
        if not (isinstance(annotation, type) and is_dataclass(annotation)):
            return None
        names = tuple(option_fields(annotation)) if only is None else only.names
        return cls(annotation, names, as_overrides)

    def parameters(self) -> list[Parameter]:
        """Return the options as parameters that Typer reads."""
        declared = option_fields(self.cls)
        return [_parameter(name, declared[name]) for name in self.names]

    def variables(self) -> list[str]:
        """Return the environment variables of the options, for the help."""
        declared = option_fields(self.cls)
        found = []
        for name in self.names:
            variable = _variable(name, declared[name])
            if variable is not None:
                is_same = variable == f"FUSEDMLP_{name.upper()}"
                found.append(variable if is_same else f"{variable} ({flag(name)})")
        return found

    def value(self, context: typer.Context, given: Mapping[str, object]) -> object:
        """Build the dataclass, or the overrides, from the values of the options."""
        declared = option_fields(self.cls)
        values: dict[str, object] = {}
        typed: dict[str, object] = {}
        for name, value in given.items():
            option = declared[name].option
            # Click's enum has no public name in Typer: its members' names are compared.
            source = getattr(context.get_parameter_source(name), "name", None)
            if source == "ENVIRONMENT" and option.variable:
                continue  # the library reads this variable itself
            if source in ("COMMANDLINE", "ENVIRONMENT"):
                values[name] = option.parse(str(value)) if option.parse else value
            if source == "COMMANDLINE":
                typed[name] = values[name]
        return Overrides(values, typed) if self.as_overrides else self.cls(**values)


_PARSERS: Final = {int: whole_number, float: number}


def _variable(name: str, declared: OptionField) -> str | None:
    """Return the environment variable of an option."""
    variable = declared.option.variable
    return f"FUSEDMLP_{name.upper()}" if variable == "" else variable


def _parameter(name: str, declared: OptionField) -> Parameter:
    """Return an option as a parameter that Typer reads."""
    option, default = declared.option, declared.default
    kinds = [kind for kind in get_args(declared.type) or (declared.type,) if kind is not NoneType]
    is_read_by_typer = option.parse is None and kinds[0] in (int, float, bool, Path)
    kind: type = kinds[0] if is_read_by_typer else str
    described = typer.Option(
        default if is_read_by_typer or default is None else as_typed(default),
        flag(name),
        metavar=option.metavar,
        help=option.help,
        envvar=_variable(name, declared),
        show_envvar=False,  # the help has them all at its end
        parser=_PARSERS.get(kind),
        show_default=_shown_default(declared),
        rich_help_panel=option.panel,
    )
    annotation = bool if kind is bool else kind | None
    return Parameter(name, Parameter.KEYWORD_ONLY, default=described, annotation=annotation)


def _shown_default(declared: OptionField) -> str | bool:
    """Return the text of the default in the help; or whether to show it as it is."""
    note = declared.option.note
    if note and declared.default is not None:
        return f"{as_typed(declared.default)}; {note}"
    return note or declared.default is not None


def _with_homes(context: typer.Context, values: Mapping[str, object]) -> dict[str, Path]:
    """Return the values that are paths, with ``~`` expanded."""
    found = {}
    for name, value in values.items():
        if isinstance(value, Path):
            try:
                found[name] = expanded(value)
            except InvalidInputError as error:
                option = _flags(context).get(name)
                raise InvalidInputError(f"{option} {error}" if option else str(error)) from error
    return found


def _flags(context: typer.Context) -> dict[str, str]:
    """Return the options of the command by the names of their parameters."""
    return {
        each.name: each.opts[0]
        for each in context.command.params
        if each.name and each.param_type_name == "option"
    }


def _with_option(message: str, context: typer.Context) -> str:
    """Name the option in a message of the library about its value."""
    flags = _flags(context)
    if (found := _VALUE.match(message)) and found[1] in flags:
        return f"{flags[found[1]]} {message[found.end() :]}"
    if found := _UNKNOWN.match(message):
        for name in flags:
            if context.params.get(name) == found[1]:
                return f"{flags[name]} '{found[1]}' is unknown{message[found.end() :]}"
    for name, option in flags.items():
        value = context.params.get(name)  # Typer's own options have none
        if value is not None and message.startswith(f"{value}: "):
            return f"{option} {message}"
    return message
