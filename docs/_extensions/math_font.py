"""The font of the formulas, STIX Two Math, with the characters that formulas use.

Browsers take brackets that grow, roots and large sums from the MATH table of a font, and a computer
may have no such font. The ziamath package has it, under the SIL Open Font License; fontTools
reduces it from 1.5 MB to what pages need.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from fontTools.subset import Options, Subsetter, load_font, save_font

if TYPE_CHECKING:
    from sphinx.application import Sphinx

NAME = "stix-two-math.woff"

CHARACTERS = (
    range(0x20, 0x100),  # Latin
    range(0x2C6, 0x2DE),  # accents that stand alone
    range(0x300, 0x340),  # accents
    range(0x391, 0x3F6),  # Greek
    range(0x2010, 0x2060),  # dashes, dots, primes
    range(0x20D0, 0x20F0),  # accents of symbols
    range(0x2100, 0x2150),  # symbols like letters
    range(0x2190, 0x21D6),  # arrows
    range(0x2200, 0x22F2),  # operators
    range(0x2308, 0x230C),  # ceilings and floors
    range(0x239B, 0x23E2),  # parts of large brackets
    range(0x27E6, 0x27F0),  # brackets
    range(0x2A00, 0x2A03),  # large operators
    range(0x1D400, 0x1D4D0),  # bold, italic and script letters
    range(0x1D538, 0x1D56C),  # double-struck letters
    range(0x1D6A4, 0x1D71C),  # bold and italic Greek
)


def write(path: Path) -> None:
    """Write the reduced font, with all the forms of each character that MathML asks for."""
    options = Options()
    options.flavor = "woff"
    options.layout_features = ["ccmp", "dtls", "flac", "ssty"]
    options.name_IDs = ["*"]  # the licence among them
    with (files("ziamath.fonts") / "STIXTwoMath-Regular.ttf").open("rb") as source:
        font = load_font(source, options)
        subsetter = Subsetter(options)
        subsetter.populate(unicodes=[code for codes in CHARACTERS for code in codes])
        subsetter.subset(font)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_font(font, str(path), options)


def write_for(app: Sphinx, error: Exception | None) -> None:
    """Write the font beside the style sheet of an HTML build."""
    if error is None and app.builder.name == "html":
        write(Path(app.outdir) / "_static" / NAME)


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the font at the end of a build."""
    app.connect("build-finished", write_for)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
