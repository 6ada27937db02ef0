"""Formulas as MathML, which browsers draw themselves: no script, no font and no request.

The latex2mathml library converts the LaTeX. This module adds what it lacks: names of
environments, tags of equations, and a warning where it would print a command as text. The style
sheet ``_static/fusedmlp.css`` aligns columns, which MathML Core leaves to CSS.
"""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util.logging import getLogger
from sphinx.util.math import get_node_equation_number

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

logger = getLogger(__name__)

ENVIRONMENTS = re.compile(r"\\(begin|end)\{(aligned|alignedat|equation\*?|gather\*?|gathered)\}")
"""Environments that latex2mathml does not know; all become ``align*``."""

TAG = re.compile(r"\\tag\{([^}]*)\}")

OPERATORS = re.compile(r"\\(arg|sign|erf)(?![a-zA-Z])")
"""Operators that it would print with the backslash."""

MISREAD = re.compile(r"\\[a-zA-Z]+|>&(?:amp;)?<")
"""Text of the output that shows an unknown command, or an ``&`` outside a table."""


CHARACTER = re.compile(r"&#x([0-9A-F]+);")

FUNCTION = re.compile(r"<m[io]>(\w{2,})</m[io]>(?=(<mo[^>]*>(?:&#x00028;|\())?)")
"""A function's name, and the bracket that may follow."""

SIGN = re.compile(r"(<mo[^>]*>(?:[=,<>([{←∈≤≥]|&lt;|&gt;)</mo>)<mo>−</mo>")
"""A minus behind a relation, a comma or an opening bracket: the sign of what follows."""


def spaced(found: str) -> str:
    """Return MathML with TeX's spaces around names of functions, and none behind a sign."""
    text = CHARACTER.sub(lambda each: escape(chr(int(each[1], 16))), found)
    text = FUNCTION.sub(
        lambda each: f'<mo lspace="0.17em" rspace="{0 if each[2] else 0.17}em">{each[1]}</mo>', text
    )
    return SIGN.sub(r'\1<mo form="prefix">−</mo>', text)


def mathml(latex: str, display: str) -> str:
    """Return the ``<math>`` element of a formula.

    Parameters
    ----------
    latex
        The formula, without dollar signs.
    display
        ``inline`` or ``block``.

    Raises
    ------
    ValueError
        The formula has something that cannot be converted.
    """
    known = ENVIRONMENTS.sub(r"\\\1{align*}", latex)
    known = OPERATORS.sub(r"\\operatorname{\1}", known)
    try:
        found = convert(known, display=display)
    except Exception as error:
        raise ValueError(f"the formula {latex!r} is not valid: {error!r}") from error
    if misread := MISREAD.search(found):
        raise ValueError(
            f"latex2mathml cannot convert {misread[0]!r} in the formula {latex!r}: "
            "write it with other commands"
        )
    return spaced(found)


def display_latex(text: str) -> tuple[str, str]:
    """Return a displayed formula as one expression, and its tag or an empty text.

    Blank lines separate equations, and a line break outside an environment aligns, as in
    Sphinx's ``math`` directive.
    """
    tags = TAG.findall(text)
    parts = [part.strip() for part in TAG.sub("", text).split("\n\n") if part.strip()]
    joined = r" \\ ".join(parts)
    if len(parts) > 1 or (r"\\" in joined and r"\begin" not in joined):
        joined = rf"\begin{{align*}}{joined}\end{{align*}}"
    return joined, ", ".join(tags)


def written(node: nodes.Node, latex: str, display: str) -> str:
    """Return a formula as MathML; where it cannot be converted, warn and return its LaTeX."""
    try:
        return mathml(latex, display)
    except ValueError as error:
        logger.warning("%s", error, location=node)
        return f"<code>{escape(latex)}</code>"


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula in a line of text."""
    self.body.append(
        f'<span class="math notranslate">{written(node, node.astext(), "inline")}</span>'
    )
    raise nodes.SkipNode


def visit_math_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a displayed formula in a box of its own, which scrolls where it is too wide."""
    latex, tag = display_latex(node.astext())
    number = get_node_equation_number(self, node) if node.get("number") else tag
    self.body.append(self.starttag(node, "div", CLASS="math math-display notranslate"))
    self.body.append(f'<div class="math-box">{written(node, latex, "block")}</div>')
    if number:
        self.body.append(f'<span class="eqno">({number})</span>')
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer ``mathml``."""
    app.add_html_math_renderer(
        "mathml", inline_renderers=(visit_math, None), block_renderers=(visit_math_block, None)
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
