"""Options of the commands: each is declared once, as a field of a dataclass.

To add an option to ``train``, add a field to one of three dataclasses: ``DataOptions`` or
``RunOptions`` in settings.py, or ``Recipe`` in recipes.py. For example::

    patience: Annotated[
        int,
        Option("Epochs without progress before training stops; 0: never.", "N", TRAINING,
               is_new=True),
    ] = 0

The option ``--patience``, its help, the variable ``FUSEDMLP_PATIENCE``, the entry in
``settings.json`` and the check by ``--resume`` follow from that field. Other commands take the same
dataclasses, or some of their fields::

    def predict(data: Annotated[DataOptions, Only("data_dir")], …)

An option of one command that is not a setting of a training, such as ``--output``, is an ordinary
Typer parameter of that command.

Values are checked by the library, which knows the choices and ranges; its messages name the option
when they reach the user.
"""

# No postponed annotations here and in the command files: they are read at run time.

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass, replace
from functools import wraps
from inspect import Parameter, signature
from types import NoneType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Generic,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import typer

from fusedmlp.errors import InvalidInputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

DATA, NETWORK, TRAINING, RUNNING = "Data", "Network", "Training", "Running"
"""Panels of the help."""


@dataclass(frozen=True, slots=True)
class Option:
    """How a field of a dataclass is offered on the command line and kept in ``settings.json``.

    Parameters
    ----------
    help, metavar, panel
        Text of the help, name of the value in it, and title of the panel.
    variable
        Environment variable: default ``FUSEDMLP_`` and the name of the field; None for none.
    library_reads_variable
        True where the library reads ``variable`` itself: the command line then ignores it.
    default_note
        Text for the help that follows the field's default, or stands for a default of None.
    parse
        Reads the text of an option that is not one number, one name or a flag.
    may_change_on_resume
        True where a resumed training may have another value.
    is_new
        True where ``settings.json`` may lack the entry because an older release wrote it; the
        field's default is then used.
    """

    help: str
    metavar: str
    panel: str
    variable: str | None = ""
    library_reads_variable: bool = False
    default_note: str = ""
    parse: Callable[[str], object] | None = None
    may_change_on_resume: bool = False
    is_new: bool = False


def declared_options(cls: "type[DataclassInstance]") -> dict[str, Option]:
    """Return the options that a dataclass declares, by the names of their fields."""
    return {name: option for name, (_, option) in _annotated_options(cls).items()}


@dataclass(frozen=True, slots=True)
class Overrides(Generic[T]):
    """Values that the user gave to some fields of a dataclass of options.

    Parameters
    ----------
    values
        From the command line and from environment variables, by field.
    typed
        From the command line alone.
    """

    values: Mapping[str, object]
    typed: Mapping[str, object]

    def apply(self, base: T) -> T:
        """Return a copy of ``base`` with the values replaced."""
        return replace(base, **self.values)


class Only:
    """Marks the fields of a dataclass of options that a command takes."""

    def __init__(self, *names: str) -> None:
        self.names = names


Backends = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,…",
        help="Backends to compare; the first is the reference.",
        show_default="all that are usable here",
        rich_help_panel=RUNNING,
    ),
]

Json = Annotated[
    bool,
    typer.Option(
        "--json",
        metavar=" ",
        help="Print one JSON object on stdout; progress and notes stay on stderr.",
        rich_help_panel=RUNNING,
    ),
]


def choices(names: tuple[str, ...]) -> str:
    """Write choices for a help text."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


def as_typed(value: object) -> str:
    """Write a value as a user would type it."""
    match value:
        case bool():
            return "on" if value else "off"
        case float():
            return f"{value:g}"
        case tuple():
            return ",".join(map(str, value)) or "none"
        case None:
            return "none"
        case _:
            return str(value)


def flag(name: str) -> str:
    """Return the option of a field: ``--batch-size`` of ``batch_size``."""
    return f"--{name.replace('_', '-')}"


def is_typed(context: typer.Context, name: str) -> bool:
    """Tell whether a parameter's value is from the command line, not a variable or default."""
    return _source(context, name) == "COMMANDLINE"


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter that is a dataclass of options by these options, for Typer.

    ``function`` receives such a dataclass, built from what the user gave, or, where it is annotated
    so, the :class:`Overrides` alone. Its errors of class InvalidInputError name the options.
    """
    groups: dict[str, _Group] = {}
    parameters = []
    for name, parameter in signature(function).parameters.items():
        group = _Group.of(parameter.annotation)
        if group is None:
            parameters.append(parameter)
        else:
            groups[name] = group
            parameters += group.parameters()
    wants_context = any(parameter.name == "context" for parameter in parameters)
    if not wants_context:
        parameters.insert(0, Parameter("context", _KIND, annotation=typer.Context))

    @wraps(function)
    def run(context: typer.Context, **values: object) -> None:
        for name, group in groups.items():
            values[name] = group.value(context, {field: values.pop(field) for field in group.names})
        if wants_context:
            values["context"] = context
        try:
            function(**values)
        except InvalidInputError as error:
            error.args = (_with_option(str(error), context),)
            raise

    keyword_only = [parameter.replace(kind=_KIND) for parameter in parameters]
    run.__signature__ = signature(function).replace(  # type: ignore[attr-defined]
        parameters=keyword_only
    )
    return run


_KIND = Parameter.KEYWORD_ONLY

_VALUE = re.compile(r"(\w+)[ =](?=['\"\d\[-]|nan|inf)")
"""Start of the library's messages about a value, such as ``batch_size 0 is not …``."""

_UNKNOWN = re.compile(r"unknown [\w ]+ '([^']*)'(?=: choose one of)")
"""Start of the library's messages about a name, such as ``unknown optimizer 'lion': choose …``."""


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


@dataclass(frozen=True, slots=True)
class _Group:
    """A parameter of a command that is a dataclass of options."""

    cls: "type[DataclassInstance]"
    names: tuple[str, ...]
    as_overrides: bool

    @classmethod
    def of(cls, annotation: object) -> "_Group | None":
        """Read a parameter's annotation; None where it is another kind of parameter."""
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
        """Return one parameter, as Typer reads it, for each option."""
        declared = _annotated_options(self.cls)
        base = self.cls()
        return [_parameter(name, *declared[name], getattr(base, name)) for name in self.names]

    def value(self, context: typer.Context, given: Mapping[str, object]) -> object:
        """Build the dataclass, or the overrides, from the values of the options."""
        declared = declared_options(self.cls)
        values: dict[str, object] = {}
        typed: dict[str, object] = {}
        for name, value in given.items():
            source, option = _source(context, name), declared[name]
            if source == "ENVIRONMENT" and option.library_reads_variable:
                continue
            if source in ("COMMANDLINE", "ENVIRONMENT"):
                values[name] = option.parse(str(value)) if option.parse else value
            if source == "COMMANDLINE":
                typed[name] = values[name]
        return Overrides(values, typed) if self.as_overrides else self.cls(**values)


def _source(context: typer.Context, name: str) -> str | None:
    source = context.get_parameter_source(name)
    return source and source.name


def _annotated_options(cls: "type[DataclassInstance]") -> dict[str, tuple[object, Option]]:
    """Return type and option of every field that has an option."""
    found: dict[str, tuple[object, Option]] = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        if get_origin(hint) is Annotated:
            kind, *extras = get_args(hint)
            found.update((name, (kind, each)) for each in extras if isinstance(each, Option))
    return found


def _parameter(name: str, kind: object, option: Option, default: object) -> Parameter:
    """Return an option as a parameter that Typer reads."""
    accepted = [part for part in get_args(kind) or (kind,) if part is not NoneType]
    is_plain = option.parse is None and accepted[0] in (int, float, bool)
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
    return Parameter(name, _KIND, default=described, annotation=annotation)
