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
    found = Page("fusedmlp bench", summary(document), verdict, mark)
    _throughput(found, document)
    if comparison is not None:
        found.section(
            "Compared with before",
            "Before and now are samples per second. Ratios are of the share of the multiply-add "
            "peak in the same rounds where both runs have it, else of samples/s. A backend counts "
            f"as slower if no round reaches {comparison.threshold:g}; if only the median does not, "
            "the result is unclear.",
        )
        found.table(tables.comparison(comparison))
    _phases(found, document)
    found.section("Where it was measured")
    about = environment_rows(_environment(document))
    found.table(Table([Column("fact"), Column("value")], about))
    return found


def summary(document: Document) -> str:
    """Summarise the result; the fastest is named only if its rounds are apart from all others'."""
    best, *others = charts.first_training(document)
    task = f"Training {best.network} on {document['dataset']['name']}"
    text = f"{task} in batches of {best.batch_size}, {best.dtype}: {best.engine} "
    rate = f"{best.samples_per_s:,.0f} samples/s"
    rivals = [each.engine for each in others if each.fastest >= best.slowest]
    if rivals:
        text += f"reaches {rate}, but its rounds overlap with those of {', '.join(rivals)}"
    elif best.ratio is not None and best.engine != best.reference:
        text += f"is the fastest with {rate}, {best.ratio:.1f} times as many as {best.reference}"
    else:
        text += f"reaches {rate}"
    return f"{text}. Every engine’s results were checked against the NumPy backend before timing."


def _throughput(found: Page, document: Document) -> None:
    rounds = tables.wanted_rounds(document)
    plural = "s" * (rounds > 1)
    found.section(
        "Throughput",
        "Each engine runs in a process of its own on the same number of threads, and takes one "
        f"turn in every round. Figures are medians of {rounds} warm round{plural}; whiskers and "
        "spread reach from the slowest to the fastest. A round is an epoch, or a part of one for "
        "large networks, including shuffling, gathering, loss and accuracy.",
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


def _phases(found: Page, document: Document) -> None:
    drawn = charts.phases(document)
    if drawn is None:
        return
    found.section(
        "From the start of a process",
        "The time before and around epochs. Cold: a process that finds the compilers’ caches on "
        "disk empty. Warm: medians of later processes. Compiling includes loading code that was "
        "compiled before, and the first step; the epoch is the first of its process.",
    )
    found.figure(as_svg(drawn), "Seconds by phase. The two panels have scales of their own.")
    found.table(tables.phases(document))


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
        "threads": document["settings"]["threads"],
        "engines": [f"{engine_name(label)}: {device}" for label, device in engines.items()],
    }
    return facts
