"""``fusedmlp bench``: how fast the backends are on this machine.

:mod:`fusedmlp.bench` measures. Names, output files, the earlier run and the data are checked before
anything is timed.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from fusedmlp.cli import console, options
from fusedmlp.cli.settings import DataOptions
from fusedmlp.errors import BreachedError, ExitCode, FusedMLPError, InvalidInputError

if TYPE_CHECKING:
    from rich.console import JustifyMethod

    from fusedmlp.bench.compare import Comparison
    from fusedmlp.bench.document import Document
    from fusedmlp.bench.plan import Request
    from fusedmlp.report import Table
    from fusedmlp.types import FloatDtype

PLOT_KINDS = (".svg", ".png")

_MEASURED, _RESULTS = "What is measured", "Results"


def bench(
    backends: options.Backends = None,
    networks: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Sizes from the inputs to the classes, such as 784-256-10,784-64-64-10. Every "
            "network is measured with every batch size.",
            show_default="784-256-10, and its width varied",
            rich_help_panel=_MEASURED,
        ),
    ] = None,
    batch_sizes: Annotated[
        str | None,
        typer.Option(
            metavar="N,M,...",
            help="Rows in each step.",
            show_default="64, and varied from 16 to 1024",
            rich_help_panel=_MEASURED,
        ),
    ] = None,
    dtypes: Annotated[
        str,
        typer.Option(metavar="A,B", help="float32, float64 or both.", rich_help_panel=_MEASURED),
    ] = "float32",
    threads: Annotated[
        str | None,
        typer.Option(
            metavar="N,M,...",
            help="CPU threads, such as 1,2; all backends use the same number.",
            show_default="as many as there are cores",
            rich_help_panel=_MEASURED,
        ),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=options.whole_number,
            help="Rounds of each task; every backend takes one turn in each.",
            rich_help_panel=_MEASURED,
        ),
    ] = 5,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Few rows and one round: proves that everything runs; the figures mean nothing.",
            rich_help_panel=_MEASURED,
        ),
    ] = False,
    phases: Annotated[
        bool,
        typer.Option(
            help="Start processes to measure import, compilation and first calls.",
            rich_help_panel=_MEASURED,
        ),
    ] = True,
    *,
    data_options: DataOptions,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw them, as .svg or .png.", rich_help_panel=_RESULTS),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write one page with all tables and charts, readable offline.",
            rich_help_panel=_RESULTS,
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="An earlier run's --json; exits with 4 if a backend has become slower.",
            rich_help_panel=_RESULTS,
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            metavar="RATIO",
            parser=options.number,
            help="A backend below this share of its earlier speed counts as slower.",
            rich_help_panel=_RESULTS,
        ),
    ] = 0.9,
    json_: options.Json = False,
) -> None:
    """Measure throughput and start-up of the backends; parity is checked first.

    Exits with 4 if a backend fails parity, or is slower than before.

    Example: fusedmlp bench --backends numpy,numba --dataset digits --html bench.html
    """
    from fusedmlp.bench import compare as comparing
    from fusedmlp.bench import measure
    from fusedmlp.bench.plan import Request, plan
    from fusedmlp.bench.results import records
    from fusedmlp.bench.tables import failures
    from fusedmlp.cli.backend_choice import named_or_usable

    request = Request(
        backends=tuple(map(str, named_or_usable(backends))),
        networks=tuple(map(_sizes, _words(networks, "networks"))),
        batch_sizes=_counts(batch_sizes, "batch sizes"),
        dtypes=cast("tuple[FloatDtype, ...]", tuple(_words(dtypes, "dtypes"))),
        threads=_counts(threads, "threads"),
        rounds=rounds,
        quick=quick,
        with_phases=phases,
    ).checked()
    if not threshold > 0:
        raise InvalidInputError(f"threshold {threshold} is not above 0, such as 0.9")
    _check_targets(plot, html)
    before = None if compare is None else comparing.read(compare)
    err = console.stderr()
    data = data_options.load(0, console.note)
    planned = plan(request, data)
    if before is not None and compare is not None:
        comparing.check_comparable(compare, before, planned)

    with _Progress() as progress:
        messages = measure.Messages(lambda line: console.note(line, err), progress.doing)
        found = measure.run(request, planned, data, ["fusedmlp", *sys.argv[1:]], messages)
    if not any(each.section == "training" for each in records(found)):
        raise FusedMLPError(
            f"no training could be measured: {'; '.join(failures(found, 'failed'))}"
        )
    comparison = None if before is None else comparing.compare(before, found, threshold)
    _write_drawings(found, plot, html, comparison)
    for path in (plot, html):
        if path is not None:
            console.note(f"written to {path}", err)
    if json_:
        from dataclasses import asdict

        summary = [asdict(each) for each in records(found)]
        console.print_json({**found, "summary": summary})
    else:
        _show(found, request, comparison)
    _judge(found, comparison)


def _check_targets(plot: Path | None, html: Path | None) -> None:
    """Check the output files before minutes of measuring."""
    from fusedmlp.cli.outputs import check_target
    from fusedmlp.report import check_report_installed

    if plot is not None and plot.suffix.lower() not in PLOT_KINDS:
        raise InvalidInputError(f"--plot {plot}: expected a name that ends in .svg or .png")
    if plot is not None or html is not None:
        check_report_installed()
    for path in (plot, html):
        if path is not None:
            check_target(path)


def _write_drawings(
    found: "Document", plot: Path | None, html: Path | None, comparison: "Comparison | None"
) -> None:
    if plot is not None:
        from fusedmlp.bench.charts import overview
        from fusedmlp.report.figures import save

        save(overview(found), plot)
    if html is not None:
        from fusedmlp.bench.page import page

        page(found, comparison).write(html)


def _judge(found: "Document", comparison: "Comparison | None") -> None:
    """Set the exit code: a breach takes precedence over a failure."""
    from fusedmlp.bench.tables import failures

    if comparison is not None and comparison.slower:
        worst = min(comparison.slower, key=lambda change: change.ratio)
        count = f"{len(comparison.slower)} of {len(comparison.changes)} figures"
        raise BreachedError(
            f"{count} are below {comparison.threshold:g} of their earlier value in every round; "
            f"the worst: {worst.engine} on {worst.task}, {worst.ratio:.2f}"
        )
    breached = failures(found, "parity")
    if breached:
        raise BreachedError(f"excluded for failing parity: {'; '.join(breached)}")
    if failures(found, "failed"):
        raise typer.Exit(ExitCode.FAILURE)  # named among the notes already


class _Progress:
    """The current activity: one changing line on a terminal, a line for each elsewhere."""

    def __init__(self) -> None:
        self._console = console.stderr()
        self._status = self._console.status("starting", spinner="line")
        self._last = ""

    def __enter__(self) -> "_Progress":
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._status.stop()

    def doing(self, what: str, detail: str = "") -> None:
        """Show it."""
        if self._console.is_terminal:
            self._status.update(f"{what}{detail}")
        elif what != self._last:
            console.note(what, self._console)
        self._last = what


def _show(found: "Document", request: "Request", comparison: "Comparison | None") -> None:
    from fusedmlp.bench import tables
    from fusedmlp.bench.subjects import engine_name

    out = console.stdout()
    about, data = found["machine"], found["dataset"]
    threads = ", ".join(map(str, request.threads))
    console.labelled("machine", f"{about['cpu']}, {about['cores']} cores", out)
    for label, device in found.get("devices", {}).items():
        console.labelled(engine_name(label), device, out)
    console.labelled("data", f"{data['name']}, {data['source']}", out)
    console.labelled(
        "threads", f"{threads}; {request.rounds} round{'s' * (request.rounds > 1)}", out
    )
    parts = {
        "Training": tables.throughput(found, "training"),
        "Prediction, from rows to probabilities": tables.throughput(found, "prediction"),
        "Time from the start of a process, by phase": tables.phases(found),
    }
    if comparison is not None:
        parts["Compared with before"] = tables.comparison(comparison)
    for title, table in parts.items():
        if table.rows:
            show_table(title, table)
    notes = tables.notes(found)
    if notes:
        console.show("")
    for note in notes:
        console.labelled("note", note, out)


def show_table(title: str, table: "Table") -> None:
    """Print a table below its title."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    styles = {"": "", "good": "green", "bad": "bold red"}
    shown = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns:
        side: JustifyMethod = "right" if column.is_number else "left"
        shown.add_column(column.title, justify=side, no_wrap=column.is_number)
    for index, row in enumerate(table.rows):
        *cells, last = row
        shown.add_row(*cells, Text(last, styles[table.mark(index)]))
    console.show("")
    console.show(Text(title, "bold"))
    console.show(shown)


def _words(text: str | None, what: str) -> list[str]:
    """Split a list at its commas; None is an empty list."""
    if text is None:
        return []
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or len(set(words)) < len(words):
        raise InvalidInputError(f"{what} {text!r}: name each once, with commas between them")
    return words


def _sizes(text: str) -> tuple[int, ...]:
    parts = text.split("-")
    if len(parts) < 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InvalidInputError(f"network {text!r}: write its sizes, such as 784-256-10")
    return tuple(map(int, parts))


def _counts(text: str | None, what: str) -> tuple[int, ...]:
    words = _words(text, what)
    if not all(word.isdecimal() for word in words):
        raise InvalidInputError(f"{what} {text!r}: write whole numbers, such as 1,2")
    return tuple(map(int, words))
