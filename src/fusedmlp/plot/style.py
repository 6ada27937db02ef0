"""What all pictures share: colours, markers, colour maps, figures; also those of report pages.

The colours are by Okabe and Ito (2008), distinguishable with any colour vision; coloured lines and
points have markers too. Figures are at most 6.4 inches wide with text of 10 points, so that the
text is still readable where they are shown 400 pixels wide.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from fusedmlp.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, without the yellow, which is too pale for lines on white."""

MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")

GREY: Final = "#7a7a7a"
"""For bounds, peaks and other lines that are not measurements."""

WHITE: Final = "#ffffff"


def check_matplotlib_installed() -> None:
    """Check this before long work that ends with a picture.

    Raises
    ------
    MissingDependencyError
        Matplotlib is not installed; the message has the install command.
    """
    if find_spec("matplotlib") is None:
        raise MissingDependencyError("pictures need matplotlib: pip install 'fusedmlp[plot]'")


def new_figure(width: float = 8.0, height: float = 4.0) -> Figure:
    """Return an empty figure of this many inches, laid out without overlaps.

    It is Matplotlib's own object: it needs no screen, and no notebook displays it by itself.
    """
    check_matplotlib_installed()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def shown_figure(width: float, height: float) -> Figure:
    """Return the same as a figure of ``pyplot``, which notebooks and ``plt.show()`` display."""
    check_matplotlib_installed()
    from matplotlib import pyplot as plt

    return plt.figure(figsize=(width, height), layout="constrained")


def tidy(axes: Axes) -> None:
    """Remove the frame, and draw a light grid behind the data."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.set_axisbelow(True)


def class_style(number: int) -> tuple[str, str]:
    """Return the colour and the marker of a class."""
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]


def colour_map(*colours: str) -> Colormap:
    """Return a continuous colour map through these colours, from its lowest value to its highest.

    Through white in the middle it is a diverging map: blue and vermilion differ for all eyes.
    """
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("fusedmlp", colours)


def tint(colour: str, strength: float) -> str:
    """Return a colour mixed with white; a strength of 1 is the colour itself."""
    from matplotlib.colors import to_hex, to_rgb

    red, green, blue = (1.0 - strength * (1.0 - part) for part in to_rgb(colour))
    return to_hex((red, green, blue))
