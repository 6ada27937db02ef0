"""The report page of ``fusedmlp bench``: a document's pictures and tables, and how to read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from fusedmlp.bench import charts, tables
from fusedmlp.bench.compare import regressions
from fusedmlp.bench.summary import engine_name
from fusedmlp.report import Column, Page, Table, environment_rows
from fusedmlp.report.figures import as_svg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from fusedmlp.bench.compare import Change
    from fusedmlp.bench.document import Document


def page(document: Document, changes: Sequence[Change] = (), threshold: float = 0.0) -> Page:
    """Put the page together.

    Parameters
    ----------
    changes
        What :func:`fusedmlp.bench.compare.changes` found, where an earlier document is known.
    """
    slower = regressions(changes, threshold)
    verdict = f"{len(slower)} slower" if slower else "held" if changes else ""
    found = Page(
        "fusedmlp bench", summary(document), verdict, "bad" if slower else "good" if changes else ""
    )
    _throughput(found, document)
    if changes:
        found.section(
            "Compared with before",
            "Then and now are samples per second. Ratios are of the share of the multiply-add peak "
            "that was measured in the same rounds, where both runs have it, else of those. "
            f"A backend none of whose rounds reaches {threshold:g} counts as slower; where only "
            "the median does not, it is unclear.",
        )
        found.table(tables.comparison(changes, threshold))
    _phases(found, document)
    _roofline(found, document)
    found.section("Where it was measured")
    about = environment_rows(_environment(document))
    found.table(Table([Column("fact"), Column("value")], about))
    return found


def summary(document: Document) -> str:
    """Say in a sentence what came out."""
    first = charts.first_training(document)
    best = first[0]
    data = document["dataset"]
    text = (
        f"Training {best.network} on {data['name']} in batches of {best.batch_size}, "
        f"{best.dtype}: {best.engine} is the fastest with {best.samples_per_s:,.0f} samples/s"
    )
    if best.ratio is not None and best.engine != best.reference:
        text += f", {best.ratio:.1f} times as many as {best.reference}"
    return f"{text}. Every engine’s results were checked against the NumPy backend before timing."


def _throughput(found: Page, document: Document) -> None:
    rounds = tables.wanted_rounds(document)
    plural = "s" * (rounds > 1)
    found.section(
        "Throughput",
        "Each engine runs in a process of its own, on as many threads as the others, and in every "
        f"round they take turns; figures are medians of {rounds} round{plural}, warm; whiskers and "
        "spread reach from the slowest to the fastest. A round is an epoch, or a part of one for "
        "large networks, with shuffling, gathering, loss and accuracy.",
    )
    _figure(found, charts.throughput(document), "Samples per second of one network and batch size.")
    _figure(found, charts.over_batch(document), "The same over the batch size.")
    _figure(found, charts.over_width(document), "The same over the width of the hidden layer.")
    found.table(tables.throughput(document, "training"))
    found.text("Predictions, from NumPy rows to NumPy probabilities:")
    found.table(tables.throughput(document, "prediction"))
    for note in tables.notes(document):
        found.text(f"Note: {note}.")


def _phases(found: Page, document: Document) -> None:
    drawn = charts.phases(document)
    if drawn is None:
        return
    found.section(
        "From the start of a process",
        "What one waits for besides epochs. Cold: a process that finds the compilers’ caches on "
        "disk empty. Warm: medians of processes after it. Compiling includes loading what was "
        "compiled before, and the first step; the epoch is the first of its process.",
    )
    _figure(found, drawn, "Seconds by phase. The two panels have scales of their own.")
    found.table(tables.phases(document))


def _roofline(found: Page, document: Document) -> None:
    drawn = charts.rooflines(document)
    if drawn is None:
        return
    found.section(
        "Roofline",
        "How far each operation is from what this machine allows. The flat roof is the rate of "
        "fused multiply-adds on registers, the slanted ones are how fast a level of the memory "
        "hands over data (STREAM’s triad). An operation cannot be above the roof of the level that "
        "holds its data; what lies between is left to win. Inputs are dense here, so that no zeros "
        "can be skipped. Operations go through the public contract: loss_and_gradients hands "
        "gradients out and apply_gradients takes them in as host arrays, which a whole step does "
        "not need. Bounds are in GFLOP/s, with what sets them.",
    )
    _figure(found, drawn, "GFLOP/s over operations per byte, both scales logarithmic.")
    _figure(found, charts.shares(document), "How much of its bound each operation reaches.")
    found.table(tables.operations(document))
    found.text(
        "The limits were measured in the same run: multiply-adds beside every operation, and the "
        "triad a ← b + s·c, three numbers an element, on sets of a size between a cache’s and "
        "the next smaller one’s, and for the memory on several times the last cache. Caches "
        "that every core has for itself are counted for all the cores that compute."
    )
    found.table(tables.limits(document))


def _environment(document: Document) -> dict[str, object]:
    """Facts of the document, in the order of reading."""
    facts = dict(document["environment"])
    data = document["dataset"]
    known = cast("dict[str, str]", facts["packages"])
    facts["packages"] = known | {k: v for k, v in document["versions"].items() if k not in known}
    engines = document.get("devices", {})
    facts |= {
        "data": f"{data['name']}, {data['source']}",
        "caches": document["machine"]["caches"],
        "threads": document["settings"]["threads"],
        "engines": [f"{engine_name(label)}: {device}" for label, device in engines.items()],
    }
    return facts


def _figure(found: Page, drawn: Figure | None, caption: str) -> None:
    if drawn is not None:
        found.figure(as_svg(drawn), caption)
