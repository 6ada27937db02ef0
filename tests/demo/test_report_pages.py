"""Report pages, as ``fusedmlp parity`` writes them, in a narrow window and in a dark theme."""

from __future__ import annotations

import numpy as np
import pytest

from fusedmlp.plot.style import new_figure
from fusedmlp.report import Column, Page, Table
from fusedmlp.report.figures import as_svg

pytestmark = pytest.mark.browser

LONG = "a_path/without/any/blank/" * 8

SAMPLED = """
const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
context.fillStyle = getComputedStyle(arguments[0]).getPropertyValue(arguments[1]);
context.fillRect(0, 0, 1, 1);
return [...context.getImageData(0, 0, 1, 1).data];
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page with every kind of block, each wider than a narrow window."""
    page = Page(LONG, LONG, LONG, "good")
    columns = [Column(f"column {j}", is_number=True) for j in range(12)]
    table = Table(columns, [["123,456,789"] * 12, [LONG] * 12], ["good", "bad"], LONG)
    for title in ("First", "Second", LONG):
        page.section(title, LONG)
        page.table(table)
        page.table(table, LONG)
    figure = new_figure(9.0)
    figure.add_subplot().plot([1, 2], [1, 2])
    page.figure(as_svg(figure), LONG)
    path = tmp_path_factory.mktemp("report") / "page.html"
    page.write(path)
    return path


def luminance(browser, selector, name):
    """Relative luminance of a colour, by WCAG 2."""
    *rgb, alpha = browser.run(SAMPLED, browser.find(selector), name)
    assert alpha == 255, f"{selector} has no {name}"
    shares = np.array(rgb) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize(("width", "theme"), [(400, "dark"), (1280, "light")])
def test_a_report_fits_into_the_window(browser, report, width, theme):
    browser.open(report, width, theme=theme)
    browser.run("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    assert browser.overflow() == 0
    assert browser.requests() == [report.as_uri()]
    assert browser.complaints() == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_readable_in_both_themes(browser, report, theme):
    browser.open(report, theme=theme)
    paper = luminance(browser, "body", "background-color")
    assert (paper < 0.1) == (theme == "dark")
    for selector in ("p", "td", "figcaption", "nav a", "p.good", "td.bad"):
        ink = luminance(browser, selector, "color")
        contrast = (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05)
        assert contrast >= 4.5, (selector, contrast)  # WCAG 2, level AA
    inverted = browser.run("return getComputedStyle(document.querySelector('svg')).filter")
    assert inverted.startswith("invert") == (theme == "dark")
