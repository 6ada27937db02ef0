"""Sphinx configuration. Build with ``nox -s docs``."""

from __future__ import annotations

from importlib.metadata import version as installed_version

project = "fusedmlp"
author = "the fusedmlp developers"
copyright = "2026, the fusedmlp developers"  # noqa: A001 - Sphinx's name
release = installed_version("fusedmlp")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"fusedmlp {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
