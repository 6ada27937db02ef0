"""Checks of built pages, without a network: ``python docs/check_pages.py docs/_build``.

Every internal link has its page and its anchor, and no page needs another server: no script,
style, font, picture or frame is loaded from elsewhere. Links that a reader may click are allowed.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADING = {
    "script": ("src",),
    "link": ("href",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "iframe": ("src", "srcdoc"),
    "embed": ("src",),
    "object": ("data",),
    "input": ("src",),
    "image": ("href", "xlink:href"),
    "use": ("href", "xlink:href"),
}
"""Elements and their attributes that a browser loads by itself."""

NOT_LOADED = {"canonical", "next", "prev", "search", "index", "author", "copyright", "license"}
"""Relations of ``<link>`` that only tell an address."""

ELSEWHERE = re.compile(r"^\s*(?:https?:)?//", re.IGNORECASE)

IN_STYLE = re.compile(
    r"""url\(\s*['"]?(?:https?:)?//[^)]+\)|@import\s+(?:url\()?\s*['"]?(?:https?:)?//[^;]+""",
    re.IGNORECASE,
)
"""What a style sheet loads from another server."""


@dataclass
class Page(HTMLParser):
    """The anchors, the links and the loaded addresses of one page."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element's anchors and addresses."""
        found = {name: value or "" for name, value in attrs}
        self.anchors.update(found[name] for name in ("id", "name") if found.get(name))
        self.styles.append(found.get("style", ""))
        if tag in ("a", "area") and "href" in found:
            self.links.append(found["href"])
        if tag == "link" and set(found.get("rel", "").split()) & NOT_LOADED:
            return
        self.loaded += [found[name] for name in LOADING.get(tag, ()) if found.get(name)]

    def handle_data(self, data: str) -> None:
        """Note the text of a ``<style>`` element."""
        if self.cdata_elem == "style":
            self.styles.append(data)


@cache
def parsed(path: Path) -> Page:
    """Read one page."""
    page = Page()
    page.feed(path.read_text("utf-8"))
    return page


def faults_of(path: Path, folder: Path) -> list[str]:
    """Return what is wrong with one page, each as a sentence."""
    page, name = parsed(path), path.relative_to(folder)
    faults = [
        f"{name} loads {address.strip()[:80]} from another server"
        for address in page.loaded
        if ELSEWHERE.match(address)
    ]
    faults += [
        f"{name} has a style that loads {found[0][:80]} from another server"
        for style in page.styles
        for found in IN_STYLE.finditer(style)
    ]
    for link in [*page.links, *page.loaded]:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc or link == "":
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if target.is_dir():
            target /= "index.html"
        has_anchors = parts.fragment and target.suffix == ".html"
        if not target.exists():
            faults.append(f"{name} links to {link}, which does not exist")
        elif has_anchors and unquote(parts.fragment) not in parsed(target).anchors:
            faults.append(f"{name} links to {link}, but that page has no such anchor")
    return faults


def style_faults(path: Path, folder: Path) -> list[str]:
    """Return what a style sheet or a picture loads from another server."""
    found = IN_STYLE.finditer(path.read_text("utf-8"))
    return [
        f"{path.relative_to(folder)} loads {each[0][:80]} from another server" for each in found
    ]


def pages(folder: Path) -> list[Path]:
    """Return the pages; a theme keeps templates of its own in ``_static``."""
    found = sorted(folder.rglob("*.html"))
    return [path for path in found if "_static" not in path.relative_to(folder).parts]


def faults(folder: Path) -> list[str]:
    """Return every fault of the pages and style sheets in a folder."""
    folder = folder.resolve()
    found = [each for path in pages(folder) for each in faults_of(path, folder)]
    sheets = [path for suffix in ("css", "svg") for path in sorted(folder.rglob(f"*.{suffix}"))]
    return found + [each for path in sheets for each in style_faults(path, folder)]


def main(folder: str) -> int:
    """Print every fault; return 1 where there is one."""
    found = faults(Path(folder))
    for each in found:
        print(each)
    n_pages = len(pages(Path(folder)))
    print(f"{n_pages} pages: {len(found)} faults")
    return int(bool(found) or not n_pages)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
