"""Pictures as the bytes of files."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.figure import Figure

DPI: Final = 200
"""Dots per inch: figures of 5 inches are sharp to a width of 1,000 pixels."""

GIF_DPI: Final = 100
"""An animation has many pictures, and so fewer dots."""


def as_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file on a white ground, readable on dark pages too."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, facecolor="white")
    return drawn.getvalue()


def as_gif(animation: FuncAnimation) -> bytes:
    """Return an animation as a GIF file, which repeats without end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "animation.gif"
        animation.save(path, writer="pillow", dpi=GIF_DPI, savefig_kwargs={"facecolor": "white"})
        return path.read_bytes()
