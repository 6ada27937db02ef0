"""Matplotlib's animations as GIF files in the pages of sphinx-gallery.

sphinx-gallery's own way is a player, which loads its icons from another server, or a video, which
needs ffmpeg.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx_gallery.scrapers import figure_rst, matplotlib_scraper


def scrape(block: object, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Save the figures of a block of code: animated ones as GIF, the others as PNG.

    Parameters
    ----------
    block, block_vars, gallery_conf
        The arguments of every image scraper of sphinx-gallery.

    Returns
    -------
    The reStructuredText of the images.
    """
    from matplotlib import pyplot as plt
    from matplotlib.animation import Animation

    # By identity: a number is given again once its figure is closed.
    animations = {
        id(each._fig): each  # noqa: SLF001 - sphinx-gallery reads it too
        for each in block_vars["example_globals"].values()
        if isinstance(each, Animation)
    }
    paths = []
    for figure in map(plt.figure, plt.get_fignums()):
        if id(figure) in animations:
            path = Path(next(block_vars["image_path_iterator"])).with_suffix(".gif")
            animations[id(figure)].save(path, writer="pillow")
            plt.close(figure)
            paths.append(path)
    drawn = figure_rst(paths, gallery_conf["src_dir"]) if paths else ""
    return drawn + matplotlib_scraper(block, block_vars, gallery_conf)
