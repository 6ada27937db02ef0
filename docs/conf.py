"""Sphinx configuration. ``nox -s docs`` builds everything; ``docs/README.md`` names the parts.

The tag ``spanish`` builds the tutorial alone, in Spanish, beside the English pages that are
already there: the gallery's scripts do not run again, and links to other pages lead to English.
"""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

IS_SPANISH = tags.has("spanish")  # type: ignore[name-defined]  # noqa: F821 - Sphinx defines it

project = "fusedmlp"
author = "the fusedmlp developers"
copyright = "2026, the fusedmlp developers"  # noqa: A001 - Sphinx's name
release = installed_version("fusedmlp")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "mathml",
    "math_font",
    "spanish_pages",
]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_*", "README.md", "locales", "tutorial", "examples", "sg_execution_times.rst"]

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "fusedmlp"
html_static_path = ["_static"]
html_css_files = ["fusedmlp.css"]
templates_path = ["_templates"]
html_show_sourcelink = False
html_copy_source = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navbar_end": ["language-link", "theme-switcher"],
    "secondary_sidebar_items": {
        "**": ["page-toc", "sg_download_links"],
        "index": [],
    },
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": [], "results": []}

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# Every script runs at build time, once: both languages show what the English build printed.
sphinx_gallery_conf = {
    "examples_dirs": ["tutorial", "examples"],
    "gallery_dirs": ["generated/tutorial", "generated/examples"],
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ("gif_animations.scrape",),
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    # A page has no time that differs from build to build: it would be a new text to translate.
    "min_reported_time": 1_000_000,
    "write_computation_times": False,
}

language = "en"
locale_dirs = ["locales"]
gettext_compact = False
gettext_location = False

if IS_SPANISH:
    language = "es"
    root_doc = "generated/tutorial/index"
    include_patterns = ["generated/tutorial/**"]
    html_theme_options["navbar_center"] = []
    html_theme_options["secondary_sidebar_items"] = ["page-toc"]
    html_sidebars = {"**": ["chapters"]}
    html_additional_pages = {"index": "to-tutorial.html"}
    extensions.append("sphinx.ext.intersphinx")
    # Of the English build, whose pages are one folder above the Spanish ones.
    intersphinx_mapping = {"en": ("..", str(Path(__file__).parent / "_build" / "objects.inv"))}
    sphinx_gallery_conf["examples_dirs"] = ["tutorial"]
    sphinx_gallery_conf["gallery_dirs"] = ["generated/tutorial"]
