"""Images of one size in rows and columns, each with a title."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

MOST_COLUMNS: Final = 5
"""Images beside each other; their titles stay readable in a picture of 400 pixels."""

TITLE_LINE: Final = 0.17
"""Height of a line of a title, in inches. An image is an inch wide."""


@dataclass(frozen=True)
class ImageGrid:
    """What a picture of several images shows.

    Parameters
    ----------
    images
        (n, rows, columns) values; n may be 0.
    titles
        One above each image.
    heading
        Above all of them.
    colours
        Matplotlib's name of a colour map, or a map.
    limits
        Values of the first and the last colour, for all images.
    scale
        Text of a colour bar; empty for none.
    """

    images: npt.NDArray[Any]
    titles: tuple[str, ...]
    heading: str
    colours: str | Colormap
    limits: tuple[float, float]
    scale: str = ""

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches of a figure that fits."""
        if not self.titles:
            return 5.0, 1.2
        rows, columns = self._layout
        ratio = self.images.shape[1] / self.images.shape[2]
        lines = max(title.count("\n") for title in self.titles) + 1
        height = min(2.0, max(0.5, ratio)) + TITLE_LINE * lines
        return max(3.0, 1.0 * columns), 0.4 + height * rows + (0.5 if self.scale else 0.0)

    def draw(self, figure: Figure) -> Figure:
        """Draw it in an empty figure, and return that."""
        if not self.titles:
            figure.suptitle(self.heading, y=0.5, va="center")
            return figure
        panels = figure.subplots(*self._layout, squeeze=False).flatten()
        least, most = self.limits
        for axes in panels:
            axes.set_axis_off()
        for axes, image, title in zip(panels, self.images, self.titles, strict=False):
            drawn = axes.imshow(image, cmap=self.colours, vmin=least, vmax=most)
            axes.set_title(title, fontsize=10)
        if self.scale:
            figure.colorbar(
                drawn, ax=list(panels), orientation="horizontal", label=self.scale, aspect=40
            )
        figure.suptitle(self.heading)
        return figure

    @property
    def _layout(self) -> tuple[int, int]:
        """Rows and columns of images."""
        columns = min(MOST_COLUMNS, len(self.titles))
        return -(-len(self.titles) // columns), columns
