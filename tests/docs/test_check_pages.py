"""docs/check_pages.py finds dangling links and what a page would load from another server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

import check_pages


@pytest.fixture
def site(tmp_path):
    """Write pages; returns the faults that are found."""

    def written(**bodies):
        check_pages.parsed.cache_clear()
        for name, body in bodies.items():
            (tmp_path / f"{name}.html").write_text(f"<html><body>{body}</body></html>", "utf-8")
        return check_pages.faults(tmp_path)

    return written


GOOD = (
    '<h1 id="top">A</h1><a href="#top">a</a><a href="b.html#b%C3%A1">b</a><a href="">c</a>'
    '<a href="https://example.org/">elsewhere</a><a href="mailto:a@example.org">m</a>'
    '<img src="data:image/png;base64,AA"><link rel="canonical" href="https://example.org/">'
)


def test_pages_that_are_whole_have_no_fault(site):
    assert site(a=GOOD, b='<h2 id="bá">B</h2>') == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="c.html">c</a>', "links to c.html, which does not exist"),
        ('<a href="a.html#gone">c</a>', "no such anchor"),
        ('<a href="#gone">c</a>', "no such anchor"),
        ('<img src="gone.png">', "links to gone.png, which does not exist"),
        ('<script src="https://cdn.example.org/a.js"></script>', "from another server"),
        ('<script src="//cdn.example.org/a.js"></script>', "from another server"),
        ('<link rel="stylesheet" href="http://example.org/a.css">', "from another server"),
        ('<img src="https://example.org/a.png">', "from another server"),
        ('<iframe src="https://example.org/"></iframe>', "from another server"),
        ('<style>@import "https://example.org/a.css";</style>', "has a style that loads"),
        ('<p style="background: url(https://example.org/a.png)">', "has a style that loads"),
        ("<style>@font-face {src: url('//example.org/a.woff')}</style>", "has a style that loads"),
    ],
)
def test_each_fault_is_found(site, body, fault):
    (found,) = site(a=body)
    assert fault in found
    assert found.startswith("a.html ")


def test_style_sheets_are_read_too(site, tmp_path):
    (tmp_path / "a.css").write_text("@import url(https://example.org/b.css);")
    (found,) = site(a="")
    assert "a.css loads @import" in found


def test_templates_of_a_theme_are_no_pages(site, tmp_path):
    folder = tmp_path / "_static"
    folder.mkdir()
    (folder / "macros.html").write_text('<a href="{{ pathto(1) }}">a</a>')
    assert site(a="") == []


def test_a_folder_without_pages_is_a_fault(tmp_path, capsys):
    assert check_pages.main(str(tmp_path)) == 1
    assert "0 pages" in capsys.readouterr().out
