"""The report page of ``fusedmlp bench``: charts, tables, and how to read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from fusedmlp.bench import charts, tables
from fusedmlp.bench.subjects import engine_name
from fusedmlp.report import Column, Page, Table, environment_rows
from fusedmlp.report.figures import as_svg

if TYPE_CHECKING:
    from fusedmlp.bench.compare import Comparison
    from fusedmlp.bench.document import Document
    from fusedmlp.report.page import Mark


def page(document: Document, comparison: Comparison | None = None) -> Page:
    """Build the page, with a comparison where there is an earlier document."""
    verdict = ""
    if comparison is not None:
        verdict = f"{len(comparison.slower)} slower" if comparison.slower else "held"
    mark: Mark = "good" if verdict == "held" else "bad" if verdict else ""
    checked = "Every engine’s results were checked against the NumPy backend before timing."
    found = Page("fusedmlp bench", f"{tables.headline(document)}. {checked}", verdict, mark)
    _throughput(found, document)
    if comparison is not None:
        found.section(
            "Compared with before",
            "Before and now are samples per second. Ratios are of the speed relative to the "
            "reference in the same rounds; of samples/s for an engine that was measured alone. A "
            f"backend counts as slower if no round reaches {comparison.threshold:g} of any round "
            "before; if only the median does not, the result is unclear.",
        )
        found.table(tables.comparison(comparison))
    found.section("Where it was measured")
    about = environment_rows(_environment(document))
    found.table(Table([Column("fact"), Column("value")], about))
    return found


def _throughput(found: Page, document: Document) -> None:
    found.section(
        "Throughput",
        "Each engine runs in a process of its own on the same number of threads, and takes one "
        f"turn in every round. Figures are medians of {tables.rounds_done(document)}; whiskers and "
        "spread reach from the slowest to the fastest. A round is an epoch, or a part of one for "
        "large networks, including shuffling, gathering, loss and accuracy. A ratio on which the "
        "rounds do not agree is given as a range.",
    )
    found.figure(
        as_svg(charts.overview(document)),
        "Samples per second of one network and batch size, over the batch size, and over the width "
        "of the hidden layer.",
    )
    found.table(tables.throughput(document, "training"))
    found.text("Predictions, from NumPy rows to NumPy probabilities:")
    found.table(tables.throughput(document, "prediction"))
    for note in tables.notes(document):
        found.text(f"Note: {note}.")


def _environment(document: Document) -> dict[str, object]:
    """Facts about machine, software and data."""
    facts = dict(document["environment"])
    data = document["dataset"]
    known = cast("dict[str, str]", facts["packages"])
    facts["packages"] = known | {k: v for k, v in document["versions"].items() if k not in known}
    engines = document.get("devices", {})
    facts |= {
        "data": f"{data['name']}, {data['source']}",
        "caches": document["machine"]["caches"],
        "engines": [f"{engine_name(label)}: {device}" for label, device in engines.items()],
    }
    return facts
