"""docs/_extensions/gif_animations.py: animations become GIF files, other figures PNG files.

Needs the libraries of the documentation: ``nox -s docs`` runs it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx_gallery", reason="nox -s docs runs this")

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "_extensions"))

import gif_animations


def test_an_animation_is_a_gif_and_the_next_figure_is_not(tmp_path):
    """The figure of the second block has the number that the closed one had."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt
    from matplotlib.animation import FuncAnimation
    from PIL import Image
    from sphinx_gallery.gen_gallery import DEFAULT_GALLERY_CONF
    from sphinx_gallery.scrapers import ImagePathIterator

    mpl.use("agg")
    figure, axes = plt.subplots()
    (line,) = axes.plot([0, 1], [0, 1])
    animation = FuncAnimation(figure, lambda at: line.set_ydata([0, at]), frames=3)
    block = ("code", "", 1)
    found = {
        "image_path_iterator": ImagePathIterator(str(tmp_path / "image_{0:03}.png")),
        "example_globals": {"animation": animation},
    }
    settings = DEFAULT_GALLERY_CONF | {"src_dir": str(tmp_path), "matplotlib_animations": (False,)}
    texts = [gif_animations.scrape(block, found, settings)]
    plt.subplots()
    texts.append(gif_animations.scrape(block, found, settings))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image_001.gif", "image_002.png"]
    with Image.open(tmp_path / "image_001.gif") as image:
        assert image.n_frames == 3
    assert "image_001.gif" in texts[0]
    assert "image_002.png" in texts[1]
