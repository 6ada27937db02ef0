"""docs/_extensions/mathml.py: formulas become MathML, and what cannot is a warning.

Needs the libraries of the documentation: ``nox -s docs`` runs it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("latex2mathml", reason="nox -s docs runs this")
pytest.importorskip("sphinx", reason="nox -s docs runs this")

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS / "_extensions"))

from mathml import display_latex, mathml  # noqa: E402 - after the path is set


def plain(text):
    """Return the characters of a formula without its elements."""
    return re.sub(r"<[^>]+>|\s", "", text)


def test_rows_of_an_aligned_formula_are_rows_of_a_table():
    found = mathml(r"\begin{aligned} a &= b \\ c &= d \end{aligned}", "block")
    assert found.count("<mtr>") == 2
    assert found.count('columnalign="right"') == 2
    assert plain(found) == "a=bc=d"


def test_operators_have_no_backslash():
    assert "\\" not in mathml(r"\arg\max_k \operatorname{erf} z", "inline")


def test_functions_and_signs_have_the_spaces_of_tex():
    assert '<mo lspace="0.17em" rspace="0.17em">log</mo><msub>' in mathml(r"y\log p_i", "inline")
    assert '<mo lspace="0.17em" rspace="0em">log</mo>' in mathml(r"\log(p)", "inline")
    assert '<mo>=</mo><mo form="prefix">−</mo>' in mathml("z=-800", "inline")
    assert '<mo form="prefix">' not in mathml("a-b=(c)-d", "inline")
    assert "<mi>z</mi>" in mathml("z", "inline")


@pytest.mark.parametrize("latex", [r"\nosuchcommand x", "a &= b", "x^"])
def test_what_cannot_be_converted_is_an_error(latex):
    with pytest.raises(ValueError, match="formula"):
        mathml(latex, "block")


def test_tags_stand_beside_the_formula():
    assert display_latex(r"\delta = y \tag{1}") == (r"\delta = y", "1")


def test_blank_lines_and_line_breaks_align():
    two = r"\begin{align*}a &= b \\ c &= d\end{align*}"
    assert display_latex("a &= b\n\nc &= d") == (two, "")
    assert display_latex(r"a &= b \\ c &= d") == (two, "")
    cases = r"y = \begin{cases} 1 \\ 0 \end{cases}"
    assert display_latex(cases) == (cases, "")


def test_every_formula_of_the_page_of_formulas_is_converted():
    text = (DOCS / "formulas.md").read_text("utf-8")
    blocks = re.findall(r"\$\$(.*?)\$\$", text, re.DOTALL)
    inline = re.findall(
        r"(?<!\$)\$([^$\n]+)\$(?!\$)", re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)
    )
    assert len(blocks) > 10
    assert len(inline) > 80
    for latex in blocks:
        assert mathml(display_latex(latex)[0], "block").startswith("<math")
    for latex in inline:
        assert mathml(latex, "inline").startswith("<math")
