"""The output format of the charts of reports.

Charts use Matplotlib's object interface, which keeps no state and needs no screen. Their colours
are those of :mod:`fusedmlp.plot.style`.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def as_svg(figure: Figure) -> str:
    """Return the ``<svg>`` element, to stand inside a page; the same figure gives the same text."""
    import matplotlib as mpl

    drawn = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "fusedmlp"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :]
