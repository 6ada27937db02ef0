"""Options of the commands: each is declared once, as a field of a dataclass.

To add an option to ``train``, add a field to one of three dataclasses: ``DataOptions`` or
``RunOptions`` in settings.py, or ``Recipe`` in recipes.py. For example::

    patience: Annotated[
        int, Option("Stop after N epochs without progress; 0: never.", "N", TRAINING, is_new=True)
    ] = 0

The option ``--patience``, its help, the variable ``FUSEDMLP_PATIENCE``, the entry in
``settings.json`` and the check by ``--resume`` follow from that field. Other commands take the same
dataclasses, or some of their fields::

    def predict(data: Annotated[DataOptions, Only("data_dir")], …)

An option of one command that is no setting of a training, such as ``--part`` of ``evaluate``, is an
ordinary Typer parameter of that command.

Values are checked by the library, which knows the choices and ranges. command.py derives the
parameters that Typer reads.
"""

# No postponed annotations in this folder where options are declared: they are read at run time.

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Generic,
    Literal,
    TypeVar,
    Union,
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
    note
        Text of the help after the default, or in place of a default of None.
    variable
        Environment variable: empty for ``FUSEDMLP_`` and the field's name, None for none. A name
        is a variable that the library reads itself; the command line only shows it.
    parse
        Reads the text of an option that is not one number, one name or a flag.
    may_change_on_resume
        Whether a resumed training may have another value.
    is_new
        Whether ``settings.json`` of an older release may lack the entry; the field's default is
        then used.
    """

    help: str
    metavar: str
    panel: str
    note: str = ""
    variable: str | None = ""
    parse: Callable[[str], object] | None = None
    may_change_on_resume: bool = False
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class OptionField:
    """A field that is an option, with its type and default."""

    option: Option
    type: object
    default: object


def option_fields(cls: "type[DataclassInstance]") -> dict[str, OptionField]:
    """Return the fields of a dataclass that are options, by name."""
    types = get_type_hints(cls, include_extras=True)
    found = {}
    for each in fields(cls):
        if get_origin(types[each.name]) is Annotated:
            kind, option = get_args(types[each.name])
            found[each.name] = OptionField(option, kind, each.default)
    return found


def from_entries(cls: type[T], entries: Mapping[str, object]) -> T:
    """Build a dataclass of options from its entries in a JSON document, checked for their types.

    Entries that are no field are left alone: dataclasses may share a document.

    Raises
    ------
    InvalidInputError
        An entry is missing or of another type than its field.
    """
    declared = option_fields(cls)
    values: dict[str, object] = {}
    for name, kind in get_type_hints(cls).items():
        if name in entries:
            values[name] = _as_type(name, entries[name], kind)
        elif name not in declared or not declared[name].option.is_new:
            raise InvalidInputError(f"it has no {name}")
    return cls(**values)


def _as_type(name: str, value: object, kind: object) -> object:
    """Return the value of a JSON document as a field's type; no text is read as a number."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if value is None and NoneType in kinds:
        return None
    if type(value) in kinds:
        return value
    expected = kinds[0]
    if get_origin(expected) is Literal:
        expected = str  # the library knows the choices
    if get_origin(expected) is tuple and isinstance(value, list | tuple):
        return tuple(_as_type(name, each, get_args(expected)[0]) for each in value)
    if expected is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not expected:
        wanted = getattr(expected, "__name__", expected)
        raise InvalidInputError(f"{name} {value!r:.80} is not of type {wanted}")
    return value


@dataclass(frozen=True, slots=True)
class Overrides(Generic[T]):
    """Values that the user gave to fields of a dataclass of options.

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
        metavar="A,B,...",
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


def whole_number(text: str) -> int:
    """Read a whole number, as Typer's ``parser`` of an option."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def number(text: str) -> float:
    """Read a number, as Typer's ``parser`` of an option."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


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
