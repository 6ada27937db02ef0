"""Typer commands from functions whose parameters are dataclasses of options.

See options.py for the declarations.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, get_args, get_origin

import typer

from fusedmlp.cli.options import (
    Only,
    Option,
    Overrides,
    as_typed,
    declared_options,
    flag,
    typed_options,
)
from fusedmlp.errors import InvalidInputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_VALUE = re.compile(r"(\w+)[ =](?=['\"\d\[-]|nan|inf)")
"""Start of the library's messages about a value, such as ``batch_size 0 is not …``."""

_UNKNOWN = re.compile(r"unknown [\w ]+ '([^']*)'(?=: choose one of)")
"""Start of the library's messages about a name, such as ``unknown optimizer 'lion': choose …``."""


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter that is a dataclass of options by these options, for Typer.

    ``function`` receives the dataclass, built from what the user gave, or, where the annotation
    says so, the :class:`Overrides` alone. Messages of its InvalidInputErrors name the option.
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
        for name, group in groups.items():
            values[name] = group.value(context, {field: values.pop(field) for field in group.names})
        try:
            function(**values)
        except InvalidInputError as error:
            error.args = (_with_option(str(error), context),)
            raise

    run.__signature__ = signature(function).replace(  # type: ignore[attr-defined]
        parameters=parameters
    )
    return run


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
        names = tuple(declared_options(annotation)) if only is None else only.names
        return cls(annotation, names, as_overrides)

    def parameters(self) -> list[Parameter]:
        """Return the options as parameters that Typer reads."""
        typed, defaults = typed_options(self.cls), self.cls()
        return [_parameter(name, *typed[name], getattr(defaults, name)) for name in self.names]

    def value(self, context: typer.Context, given: Mapping[str, object]) -> object:
        """Build the dataclass, or the overrides, from the values of the options."""
        declared = declared_options(self.cls)
        values: dict[str, object] = {}
        typed: dict[str, object] = {}
        for name, value in given.items():
            # Of Click's enum, which has no public name in Typer, the names are compared.
            source = getattr(context.get_parameter_source(name), "name", None)
            is_typed = source == "COMMANDLINE"
            if is_typed or (source == "ENVIRONMENT" and not declared[name].library_reads_variable):
                parse = declared[name].parse
                values[name] = value if parse is None else parse(str(value))
            if is_typed:
                typed[name] = values[name]
        return Overrides(values, typed) if self.as_overrides else self.cls(**values)


def _parameter(name: str, kind: object, option: Option, default: object) -> Parameter:
    """Return an option as a parameter that Typer reads."""
    accepted = [part for part in get_args(kind) or (kind,) if part is not NoneType]
    is_plain = option.parse is None and accepted[0] in (int, float, bool, Path)
    read_as: type = accepted[0] if is_plain else str
    shown = [] if default is None else [as_typed(default)]
    described = typer.Option(
        default if is_plain or default is None else as_typed(default),
        flag(name),
        metavar=option.metavar,
        help=option.help,
        envvar=f"FUSEDMLP_{name.upper()}" if option.variable == "" else option.variable,
        show_default="; ".join([*shown, option.default_note]) if option.default_note else True,
        rich_help_panel=option.panel,
    )
    annotation = bool if read_as is bool else read_as | None
    return Parameter(name, Parameter.KEYWORD_ONLY, default=described, annotation=annotation)


def _with_option(message: str, context: typer.Context) -> str:
    """Name the option in a message of the library about its value."""
    flags = {
        each.name: each.opts[0]
        for each in context.command.params
        if each.name and each.param_type_name == "option"
    }
    if (found := _VALUE.match(message)) and found[1] in flags:
        return f"{flags[found[1]]} {message[found.end() :]}"
    if found := _UNKNOWN.match(message):
        for name in flags:
            if context.params[name] == found[1]:
                return f"{flags[name]} '{found[1]}' is unknown{message[found.end() :]}"
    return message
