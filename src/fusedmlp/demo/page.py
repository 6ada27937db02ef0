"""Builds the page of a model: its payload, the style sheet and the JavaScript modules in one file.

The page refers to nothing outside itself, and its content security policy forbids every request.
"""

from __future__ import annotations

import html
import json
import re
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Final

from fusedmlp.demo.payload import image_payload, plane_payload, shows_images
from fusedmlp.errors import InvalidInputError

if TYPE_CHECKING:
    from fusedmlp.datasets import Dataset
    from fusedmlp.model import MLP

MODULES: Final = (
    "network.js",
    "canvas.js",
    "strokes.js",
    "samples.js",
    "image_page.js",
    "plane_page.js",
    "start.js",
)
"""The JavaScript modules, each after those that it imports."""


def demo_page(mlp: MLP, data: Dataset | None = None) -> str:
    """Return the page of a model, as HTML.

    A model of square images gets a page to draw on, a model with two inputs a page on which it is
    trained live.

    Parameters
    ----------
    mlp
        The model. Its weights are stored as float32.
    data
        For a model with two inputs: the rows that are shown and trained on, as the network takes
        them.

    Raises
    ------
    InvalidInputError
        The model is of another kind, or the data are missing.
    """
    network = mlp.network
    if shows_images(mlp):
        title, body, payload = "Draw for a network", "image.html", image_payload(mlp)
    elif network.n_inputs == 2:
        if data is None:
            raise InvalidInputError(f"{network} has two inputs: its page needs data with points")
        title, body, payload = "A network in the plane", "plane.html", plane_payload(mlp, data)
    else:
        raise InvalidInputError(
            f"{network} cannot be shown: a page shows models with 2 inputs, and models of square "
            "images of at least 8 × 8 pixels, such as those of mnist (784 inputs) and digits (64)"
        )
    # "<" could end the script element that holds the payload, or begin a comment in it.
    text = json.dumps(payload, allow_nan=False).replace("<", "\\u003c")
    return Template(_read("page.html")).substitute(
        title=html.escape(f"{title}: {network}"),
        style=_read("page.css").strip(),
        body=_read(body).strip(),
        data=text,
        script=joined_modules(*MODULES),
    )


def joined_modules(*names: str) -> str:
    """Return modules as one script: without their imports, and without ``export``.

    Parameters
    ----------
    names
        Files of this folder, each after those that it imports.
    """
    text = "\n".join(_read(name) for name in names)
    return re.sub(r"^import .*\n|^export ", "", text, flags=re.MULTILINE)


def _read(name: str) -> str:
    return files("fusedmlp.demo").joinpath(name).read_text("utf-8")
