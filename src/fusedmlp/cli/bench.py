"""``fusedmlp bench``: how fast the backends are on this machine.

bench_plan.py says what is measured, :mod:`fusedmlp.bench` measures it. Names, output files, the
earlier run and the data are checked before anything is timed.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusedmlp.cli import console
from fusedmlp.cli.bench_plan import WorkOptions
from fusedmlp.cli.options import Backends, Json, Option
from fusedmlp.cli.settings import DataOptions
from fusedmlp.errors import BreachedError, ExitCode, FusedMLPError, InvalidInputError

if TYPE_CHECKING:
    from rich.console import JustifyMethod

    from fusedmlp.bench.compare import Comparison
    from fusedmlp.bench.document import Document
    from fusedmlp.report import Table

RESULTS = "Results"


@dataclass(frozen=True, slots=True)
class ResultOptions:
    """What becomes of the figures."""

    html: Annotated[
        Path | None,
        Option(
            "Write one page with all tables and charts, readable offline.",
            "FILE",
            RESULTS,
            variable=None,
        ),
    ] = None
    compare: Annotated[
        Path | None,
        Option(
            "An earlier run's --json; exits with 4 if a backend has become slower.",
            "FILE",
            RESULTS,
            variable=None,
        ),
    ] = None
    threshold: Annotated[
        float,
        Option(
            "A backend below this share of its earlier speed counts as slower.",
            "RATIO",
            RESULTS,
            variable=None,
        ),
    ] = 0.9

    def check(self) -> None:
        """Check what would otherwise fail after minutes of measuring."""
        from fusedmlp.cli.outputs import check_target
        from fusedmlp.report import check_report_installed

        if not self.threshold > 0:
            raise InvalidInputError(f"threshold {self.threshold} is not above 0, such as 0.9")
        if self.html is not None:
            check_report_installed()
            check_target(self.html)


def bench(
    backends: Backends = None,
    *,
    work: WorkOptions,
    data: DataOptions,
    result: ResultOptions,
    json_: Json = False,
) -> None:
    """Measure the throughput of the backends; parity is checked first.

    Exits with 4 if a backend fails parity, or is slower than before.

    Example: fusedmlp bench --backends numpy,numba --dataset digits --html bench.html
    """
    from fusedmlp.bench import compare, measure
    from fusedmlp.bench.results import failures, records
    from fusedmlp.cli.backend_choice import named_or_usable
    from fusedmlp.cli.bench_plan import plan, usable_backends

    names = usable_backends([str(each) for each in named_or_usable(backends)])
    work.check()
    result.check()
    before = None if result.compare is None else compare.read(result.compare)
    loaded = data.load(0, console.note)
    planned = plan(work, names, loaded)
    if before is not None and result.compare is not None:
        compare.check_comparable(result.compare, before, planned.tasks)

    with _Progress() as progress:
        messages = measure.Messages(progress.say, progress.doing)
        found = measure.run(planned, loaded, ["fusedmlp", *sys.argv[1:]], messages)
    if not any(each.section == "training" for each in records(found)):
        raise FusedMLPError(
            f"no training could be measured: {'; '.join(failures(found, 'failed'))}"
        )
    comparison = None if before is None else compare.compare(before, found, result.threshold)
    if result.html is not None:
        from fusedmlp.bench.page import page

        page(found, comparison).write(result.html)
        console.note(f"written to {result.html}")
    if json_:
        console.print_json({**found, "summary": [asdict(each) for each in records(found)]})
    else:
        _show(found, comparison)
    _judge(found, comparison)


def _judge(found: "Document", comparison: "Comparison | None") -> None:
    """Set the exit code: a breach takes precedence over a failure."""
    from fusedmlp.bench.results import failures

    if comparison is not None and comparison.slower:
        worst = min(comparison.slower, key=lambda change: change.best)
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

    def say(self, line: str) -> None:
        """Print a line that stays."""
        console.note(line, self._console)

    def doing(self, what: str, detail: str, seconds_left: float | None) -> None:
        """Show the activity and the time left."""
        from fusedmlp.training.progress import duration

        left = "" if seconds_left is None else f", about {duration(seconds_left)} left"
        if self._console.is_terminal:
            self._status.update(f"{what}{detail}{left}")
        elif what != self._last:
            self.say(f"{what}{left}")
        self._last = what


def _show(found: "Document", comparison: "Comparison | None") -> None:
    from fusedmlp.bench import tables
    from fusedmlp.bench.subjects import engine_name

    out = console.stdout()
    about, data = found["machine"], found["dataset"]
    console.labelled("machine", f"{about['cpu']}, {about['cores']} cores", out)
    for label, device in found.get("devices", {}).items():
        console.labelled(engine_name(label), device, out)
    console.labelled("data", f"{data['name']}, {data['source']}", out)
    console.labelled("measured", tables.rounds_done(found), out)
    parts = {
        "Training": tables.throughput(found, "training"),
        "Prediction, from rows to probabilities": tables.throughput(found, "prediction"),
    }
    if comparison is not None:
        parts["Compared with before"] = tables.comparison(comparison)
    for title, table in parts.items():
        if table.rows:
            show_table(title, table)
    console.show("")
    console.labelled("result", tables.headline(found), out)
    for note in tables.notes(found):
        console.labelled("note", note, out)


def show_table(title: str, table: "Table") -> None:
    """Print a table below its title."""
    from rich.text import Text

    styles = {"": "", "good": "green", "bad": "bold red"}
    shown = console.table()
    for column in table.columns:
        side: JustifyMethod = "right" if column.is_number else "left"
        shown.add_column(column.title, justify=side, no_wrap=column.is_number)
    for index, row in enumerate(table.rows):
        *cells, last = row
        shown.add_row(*cells, Text(last, styles[table.mark(index)]))
    console.show("")
    console.show(Text(title, "bold"))
    console.show(shown)
