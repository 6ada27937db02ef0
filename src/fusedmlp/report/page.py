"""Builds a report as one self-contained HTML page, whatever its contents.

Jinja escapes all text; only :meth:`Page.figure` takes markup, which is an SVG of figures.py. The
page refers to nothing outside itself, so that it opens offline.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from fusedmlp.errors import MissingDependencyError
from fusedmlp.io.atomic import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Mark: TypeAlias = Literal["", "good", "bad"]

LIBRARIES: Final = ("jinja2", "matplotlib")


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column; numbers stand to the right."""

    title: str
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of ready text. ``marks[i]`` colours row i's last cell, beside its words."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    marks: Sequence[Mark] = ()
    caption: str = ""

    def mark(self, row: int) -> Mark:
        """Return the mark of a row, counted from 0."""
        return self.marks[row] if row < len(self.marks) else ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as a file: PNG or GIF.

    Parameters
    ----------
    content
        The file's bytes.
    media_type
        ``image/png`` or ``image/gif``.
    width
        Pixels of the page that it is shown on at most.
    description
        What it shows, for readers who do not see it.
    """

    content: bytes
    media_type: Literal["image/png", "image/gif"]
    width: int
    description: str

    @property
    def uri(self) -> str:
        """The picture as a data URI, which needs no other file."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True, slots=True)
class _Block:
    """One piece of a section; the template renders each kind."""

    kind: Literal["text", "table", "figure", "folded", "picture"]
    text: str = ""
    table: Table | None = None
    svg: str = ""
    picture: Picture | None = None


@dataclass(slots=True)
class _Section:
    title: str
    blocks: list[_Block] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


class Page:
    """A page under construction: sections, in order, of text, tables and figures.

    Parameters
    ----------
    title, summary
        The heading, and the sentence below it with the result.
    verdict, mark
        A word or two in large print, and how it is coloured; empty for none.
    """

    def __init__(self, title: str, summary: str, verdict: str = "", mark: Mark = "") -> None:
        self._title, self._summary, self._verdict, self._mark = title, summary, verdict, mark
        self._sections: list[_Section] = []

    def section(self, title: str, *paragraphs: str) -> None:
        """Begin a section."""
        self._sections.append(_Section(title))
        for paragraph in paragraphs:
            self.text(paragraph)

    def text(self, paragraph: str) -> None:
        """Add a paragraph."""
        self._sections[-1].blocks.append(_Block("text", paragraph))

    def table(self, table: Table, folded: str = "") -> None:
        """Add a table; with ``folded``, behind that line, to be opened by a click."""
        kind: Literal["folded", "table"] = "folded" if folded else "table"
        self._sections[-1].blocks.append(_Block(kind, folded, table))

    def figure(self, svg: str, caption: str) -> None:
        """Add a drawing of :func:`fusedmlp.report.figures.as_svg`, which is not escaped."""
        self._sections[-1].blocks.append(_Block("figure", caption, svg=svg))

    def picture(self, picture: Picture, caption: str) -> None:
        """Add a picture, which becomes part of the page and shrinks on a narrow one."""
        self._sections[-1].blocks.append(_Block("picture", caption, picture=picture))

    def html(self) -> str:
        """Return the page.

        Raises
        ------
        MissingDependencyError
            Jinja is not installed.
        """
        check_report_installed()
        from jinja2 import Environment, PackageLoader, StrictUndefined

        environment = Environment(
            loader=PackageLoader("fusedmlp.report", "."),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template("page.html.jinja").render(
            title=self._title,
            summary=self._summary,
            verdict=self._verdict,
            mark=self._mark,
            sections=self._sections,
        )

    def write(self, path: Path) -> None:
        """Write the page.

        Raises
        ------
        StorageError
            The file cannot be written.
        """
        write_atomically(path, self.html().encode())


def check_report_installed() -> None:
    """Check this before long work that ends with a page or a picture.

    Raises
    ------
    MissingDependencyError
        A library of the extra ``report`` is not installed.
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"a report needs {' and '.join(missing)}: pip install 'fusedmlp[report]'"
        )
