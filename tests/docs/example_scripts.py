"""Runs the scripts of docs/examples, as Python would."""

from __future__ import annotations

import runpy
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "examples"


def run(name):
    """Run a script and return its names."""
    return runpy.run_path(str(FOLDER / name), run_name="__main__")
