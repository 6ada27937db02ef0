"""The tutorial in two languages: links between them, and translated titles of its overview.

The English pages are in ``_build``, the Spanish ones in ``_build/es`` under the same names.
"""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, Any

from docutils import nodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx

TUTORIAL = "generated/tutorial/"

TOOLTIP = re.compile(r' tooltip="[^"]*"')
"""The English introduction, which the picture shows under the pointer."""

TITLE = '<div class="sphx-glr-thumbnail-title">'


def add_language(
    app: Sphinx, page: str, _template: str, context: dict[str, Any], _: object
) -> None:
    """Give the template of a tutorial page the address of the page in the other language."""
    if not page.startswith(TUTORIAL):
        return
    up = "../" * page.count("/")
    is_spanish = app.config.language == "es"
    folder = f"{up}../" if is_spanish else f"{up}es/"
    context["other_language"] = {
        "href": f"{folder}{page}.html",
        "name": "English" if is_spanish else "Español",
        "code": "en" if is_spanish else "es",
    }


def translate_titles(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Put the Spanish titles under the overview's pictures, where sphinx-gallery wrote HTML."""
    if app.config.language != "es" or page != f"{TUTORIAL}index":
        return
    linked = ""
    for node in doctree.findall():
        if isinstance(node, nodes.reference) and node.get("internal"):
            linked = node["refuri"].removesuffix(".html")
        elif isinstance(node, nodes.raw):
            html = TOOLTIP.sub("", node.astext())
            if TITLE in html:
                title = escape(app.env.titles[f"{TUTORIAL}{linked}"].astext())
                before, _, after = html.partition(TITLE)
                html = f"{before}{TITLE}{title}{after[after.index('</div>') :]}"
            node.children = [nodes.Text(html)]


def lead_code_to_english(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Correct the links of names in code, which sphinx-gallery writes as if from the top folder."""
    if app.config.language != "es":
        return
    for node in doctree.findall(nodes.reference):
        is_code = any(name.startswith("sphx-glr-backref") for name in node["classes"])
        if is_code and node.get("refuri", "").startswith("../"):
            node["refuri"] = "../" * page.count("/") + node["refuri"]


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the functions, the last one behind sphinx-gallery's."""
    app.connect("html-page-context", add_language)
    app.connect("doctree-resolved", translate_titles)
    app.connect("doctree-resolved", lead_code_to_english, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
