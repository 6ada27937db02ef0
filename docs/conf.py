"""Sphinx configuration. Build with ``nox -s docs``; ``docs/README.md`` explains the parts."""

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
    "sphinx_gallery.gen_gallery",
]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "README.md", "**/GALLERY_HEADER.rst"]

html_theme = "pydata_sphinx_theme"
html_title = f"fusedmlp {release}"
html_static_path = ["_static"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# Every script runs at build time. The Spanish build finds the pages that the English build made.
sphinx_gallery_conf = {
    "examples_dirs": ["tutorial", "examples"],
    "gallery_dirs": ["generated/tutorial", "generated/examples"],
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "matplotlib_animations": True,
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "show_memory": False,
    "min_reported_time": 10,
}

locale_dirs = ["locales"]
gettext_compact = False
