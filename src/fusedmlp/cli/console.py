"""Where text goes: results to stdout, everything else to stderr.

Nothing here decides what to say. Rich honours ``NO_COLOR``, ``TERM=dumb`` and ``COLUMNS``.
"""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

LABEL_WIDTH: Final = 14
"""Column in which the values of labelled lines start."""

_PIPE_WIDTH: Final = 120
"""Tables that no terminal limits may be this wide."""


def stdout() -> Console:
    """Return a console for results."""
    return _console(stderr=False)


def stderr() -> Console:
    """Return a console for progress, notes and errors."""
    return _console(stderr=True)


def note(text: str, console: Console | None = None) -> None:
    """Write one line to stderr, left to the terminal to wrap."""
    (console or stderr()).print(Text(text), soft_wrap=True)


def labelled(label: str, text: str, console: Console) -> None:
    """Write ``label`` and, in a column of its own, ``text``."""
    line = Text.assemble((f"{label:<{LABEL_WIDTH}}", "bold"), text)
    console.print(line, soft_wrap=True)


def error(text: str) -> None:
    """Write ``error: …`` to stderr."""
    stderr().print(Text.assemble(("error: ", "bold red"), text), soft_wrap=True)


def print_json(document: Mapping[str, object]) -> None:
    """Write one strictly valid JSON object to stdout; NaN and infinity become null."""
    sys.stdout.write(json.dumps(finite(document), indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def show(renderable: RenderableType) -> None:
    """Write a table or the like to stdout."""
    stdout().print(renderable)


def finite(value: object) -> object:
    """Replace what strict JSON cannot say by None, at any depth."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): finite(item) for key, item in value.items()}
        case list() | tuple():
            return [finite(item) for item in value]
        case _:
            return value


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)
