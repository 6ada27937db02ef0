"""Output of the commands: results to stdout, progress, notes and errors to stderr.

Rich honours ``NO_COLOR``, ``TERM=dumb`` and ``COLUMNS``. What is too wide for a narrow terminal is
written below each other. In a file or pipe tables keep to ``COLUMNS`` where it is set, and every
other line stays one line, so that programs can read it. Streams that fail are the matter of
streams.py.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import RenderableType

LABEL_WIDTH: Final = 16
"""Column in which the values of labelled lines start."""

NARROW: Final = 64
"""Terminals with fewer columns get lines in place of the table of a training and of columns."""

_PIPE_WIDTH: Final = 120
"""Width of tables that go to a file or pipe, where ``COLUMNS`` is not set."""


def stdout() -> Console:
    """Return a console for results."""
    return _console(stderr=False)


def stderr() -> Console:
    """Return a console for progress, notes and errors."""
    return _console(stderr=True)


def note(text: str, console: Console | None = None) -> None:
    """Write a line to stderr."""
    _print_line(Text(text), console or stderr())


def labelled(label: str, text: str, console: Console, indent: int = 0) -> None:
    """Write ``label`` and, in a column of its own, ``text``, which wraps inside the column."""
    head = Text(f"{' ' * indent}{label}", style="bold")
    if is_narrow(console):
        _print_line(Text.assemble(head, " ", text), console)
        return
    if not console.is_terminal or len(label) + indent >= LABEL_WIDTH:
        head.pad_right(max(1, LABEL_WIDTH - len(head)))
        _print_line(Text.assemble(head, text), console)
        return
    line = Table.grid()
    line.add_column(width=LABEL_WIDTH)
    line.add_column(overflow="fold")
    line.add_row(head, Text(text))
    console.print(line)


def results(lines: Iterable[tuple[str, str]], indent: int = 0) -> None:
    """Write labels and their texts to stdout."""
    for label, text in lines:
        labelled(label, text, stdout(), indent)


def error(text: str) -> None:
    """Write ``error: …`` to stderr."""
    _print_line(Text.assemble(("error: ", "bold red"), text), stderr())


def print_json(document: Mapping[str, object]) -> None:
    """Write one strictly valid JSON object to stdout; NaN and infinity become null."""
    sys.stdout.write(json.dumps(finite(document), indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def table() -> Table:
    """Return an empty table in the style of all commands."""
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))


def verdict(*, is_met: bool, met: str = "met", missed: str) -> Text:
    """Return a table cell that says whether a bound is met."""
    return Text(met, "green") if is_met else Text(missed, "bold red")


def show(renderable: RenderableType) -> None:
    """Write a table or the like to stdout; of a table that does not fit, each row's cells."""
    console = stdout()
    if isinstance(renderable, Table) and _needed_width(renderable, console) > console.width:
        _show_rows(renderable, console)
    else:
        console.print(renderable)


def is_narrow(console: Console) -> bool:
    """Tell whether a terminal is too narrow for columns."""
    return console.is_terminal and console.width < NARROW


def fits_panels() -> bool:
    """Tell whether the terminal, if there is one, can show a help text in panels."""
    is_dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return not is_dumb and shutil.get_terminal_size().columns >= NARROW


def finite(value: object) -> object:
    """Replace NaN and infinity, which strict JSON lacks, by None at any depth."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): finite(item) for key, item in value.items()}
        case list() | tuple():
            return [finite(item) for item in value]
        case _:
            return value


def _needed_width(table: Table, console: Console) -> int:
    """Return the columns of the terminal below which Rich would cut cells of a table."""
    unlimited = console.options.update(max_width=10_000)
    width = 0
    for column in table.columns:
        sizes = [Measurement.get(console, unlimited, c) for c in (column.header, *column.cells)]
        width += 1 + max(size.maximum if column.no_wrap else size.minimum for size in sizes)
    return width - 1


def _show_rows(table: Table, console: Console) -> None:
    """Write each cell of a table as a line, after its column's title, and rows with gaps."""
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        for column, cell in zip(table.columns, cells, strict=True):
            title = column.header if isinstance(column.header, Text) else Text(str(column.header))
            value = cell if isinstance(cell, Text) else Text(str(cell))
            if value.plain:
                head = Text(" ".join(title.plain.split()), style="bold")
                console.print(Text.assemble(head, " ", value))
        console.print()


def _print_line(line: Text, console: Console) -> None:
    """Wrap between words on a terminal; what goes to a file or pipe stays one line."""
    console.print(line, soft_wrap=not console.is_terminal)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    is_known = stream.isatty() or "COLUMNS" in os.environ
    width = None if is_known else _PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)
