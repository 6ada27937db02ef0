"""Colours, markers and the output format that all charts of reports share.

Charts use Matplotlib's object interface, which keeps no state and needs no screen. The colours are
by Okabe and Ito (2008), distinguishable with any colour vision; coloured lines have markers too.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

from fusedmlp.report.page import check_report_installed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, without the yellow, which is too pale for lines on white."""

MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")

GREY: Final = "#7a7a7a"
"""For bounds, peaks and other lines that are not measurements."""


def new_figure(width: float = 8.0, height: float = 4.0) -> Figure:
    """Return an empty figure of this many inches, laid out without overlaps."""
    check_report_installed()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def tidy(axes: Axes) -> None:
    """Remove the frame, and draw a light grid behind the data."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.set_axisbelow(True)


def as_svg(figure: Figure) -> str:
    """Return the ``<svg>`` element, to stand inside a page; the same figure gives the same text."""
    import matplotlib as mpl

    drawn = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "fusedmlp"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :]
