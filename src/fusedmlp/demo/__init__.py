"""Pages on which a trained model can be tried: one self-contained HTML file, which opens offline.

``page.py`` builds a page, ``payload.py`` describes the model and its data for it. The JavaScript
modules compute and draw: ``network.js`` is the forward and backward pass. The library never runs
this code, and the page never runs the library's. No framework and no build step is involved.
"""

from fusedmlp.demo.page import demo_page as demo_page
from fusedmlp.demo.payload import shows_images as shows_images

__all__ = ["demo_page", "shows_images"]
