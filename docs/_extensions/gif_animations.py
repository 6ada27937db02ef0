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

    variables = block_vars["example_globals"].values()
    animations = {each._fig.number: each for each in variables if isinstance(each, Animation)}  # noqa: SLF001 - sphinx-gallery reads it too
    paths = []
    for number in animations.keys() & {*plt.get_fignums()}:
        path = Path(next(block_vars["image_path_iterator"])).with_suffix(".gif")
        animations[number].save(path, writer="pillow")
        plt.close(number)
        paths.append(path)
    drawn = figure_rst(paths, gallery_conf["src_dir"]) if paths else ""
    return drawn + matplotlib_scraper(block, block_vars, gallery_conf)
