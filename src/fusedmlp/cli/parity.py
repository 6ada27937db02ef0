"""``fusedmlp parity``: a certificate that the backends compute the same.

What is compared, and the bounds, are in :mod:`fusedmlp.parity`.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusedmlp.cli import console
from fusedmlp.cli.options import RUNNING, Backends, Json, Only
from fusedmlp.cli.settings import DataOptions, RunOptions
from fusedmlp.errors import BreachedError
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from fusedmlp.parity import Certificate


def parity(
    backends: Backends = None,
    *,
    data: Annotated[DataOptions, Only("dataset", "data_dir", "source")],
    run: Annotated[RunOptions, Only("seed")],
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the certificate as one page, with drawings, that opens offline.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Compare the backends operation by operation, step by step and bit by bit.

    Exits with 4 when a bound is breached.

    Example: fusedmlp parity --backends numpy,numba --dataset digits --html parity.html
    """
    from fusedmlp.cli.backend_choice import named_or_usable
    from fusedmlp.cli.outputs import check_target
    from fusedmlp.parity import certify
    from fusedmlp.report import check_report_installed, environment
    from fusedmlp.seeding import checked_seed

    seed = checked_seed(run.seed)
    selections = named_or_usable(backends)
    if html is not None:
        check_report_installed()
        check_target(html)
    certificate = certify(selections, data.load(seed, console.note), seed=seed, report=console.note)
    facts = environment(["fusedmlp", *sys.argv[1:]])
    if html is not None:
        from fusedmlp.parity.page import page

        page(certificate, facts).write(html)
        console.note(f"written to {html}")
    if json_:
        console.print_json({**certificate.document(), "environment": facts})
    else:
        _show(certificate)
    breaches = certificate.breaches()
    if breaches:
        raise BreachedError(f"{counted(len(breaches), 'bound')} breached; the first: {breaches[0]}")


def _show(certificate: "Certificate") -> None:
    from rich.text import Text

    for name, device in certificate.devices.items():
        role = "the reference: " if name == certificate.reference else ""
        console.results([(name, f"{role}{device}")])
    console.results([("data", f"{certificate.dataset}; seed {certificate.seed}")])
    _show_operations(certificate)
    _show_trainings(certificate)
    for breach in certificate.breaches():
        console.show(Text.assemble(("breached  ", "bold red"), breach))
    met, missed = "every bound is met", "parity is broken"
    console.show(console.verdict(is_met=certificate.is_met, met=met, missed=missed))


def _show_operations(certificate: "Certificate") -> None:
    """Print a table for each pair of backends: a row for each operation."""
    from fusedmlp.parity.comparison import worst_by_operation

    worst = worst_by_operation(certificate.comparisons)
    for pair in dict.fromkeys((each.backend, each.reference) for each in worst):
        of_pair = [each for each in worst if (each.backend, each.reference) == pair]
        table = console.table()
        table.add_column(f"{pair[0]} and {pair[1]}")
        for dtype in dict.fromkeys(each.dtype for each in worst):
            table.add_column(f"{dtype}\nmean ulp", justify="right", no_wrap=True)
            table.add_column("\nof bound", justify="right", no_wrap=True)
        table.add_column("\nverdict", no_wrap=True)
        for operation in dict.fromkeys(each.operation for each in worst):
            comparisons = [each for each in of_pair if each.operation == operation]
            cells = [operation]
            for each in comparisons:
                cells += [f"{each.mean_ulp:.2g}", f"{100 * each.share_of_bound:.1f} %"]
            is_met = all(each.is_met for each in comparisons)
            table.add_row(*cells, console.verdict(is_met=is_met, missed="breached"))
        console.show("")
        console.show(table)


def _show_trainings(certificate: "Certificate") -> None:
    """Print gradient checks, trajectories and accuracies, a line for each."""
    from fusedmlp.tolerance import TRAJECTORY_STEPS

    lines = []
    checks = certificate.gradient_checks
    for name in certificate.devices:
        largest = max(check.found for check in checks if check.backend == name)
        text = (
            f"at most {largest:.1e} from the slopes of its own loss, allowed {checks[0].bound:.0e}"
        )
        lines.append(("gradients", f"{name}: {text}"))
    for each in certificate.trajectories:
        growth = "" if each.growth is None else f", growing like step^{each.growth:.2f}"
        text = f"{each.training}, {each.dtype}: {each.backend} and {each.reference} "
        if each.first_differing_step is None:
            text += "never differ"
        else:
            text += (
                f"differ from step {each.first_differing_step} on{growth}; "
                f"at most {each.bounded:.1e} in the first {TRAJECTORY_STEPS} steps, "
                f"allowed {each.bound:.1e}"
            )
        lines.append(("trajectory", text))
    for run in certificate.accuracies:
        text = (
            f"{run.backend}: {run.accuracy:.4f} of {counted(run.rows, 'row')}, loss {run.loss:.6f}"
        )
        lines.append(("accuracy", text))
    console.show("")
    console.results(lines)
    _show_hashes(certificate)


def _show_hashes(certificate: "Certificate") -> None:
    """Print the first digits of SHA-256 hashes: a row for each result, a column for each dtype."""
    cells: dict[str, dict[str, list[str]]] = {}
    for each in certificate.fingerprints:
        threads = ""
        if each.threads is not None:
            threads = f", {counted(each.threads, 'thread')}"
        ordinary = {
            "starting weights": each.start,
            "shuffles": each.shuffles,
            "dropout masks": each.masks,
            f"final weights, {each.backend}{threads}": each.weights,
        }
        strict = {f"strict mode's final weights, {each.backend}": each.weights}
        for name, digest in (strict if each.strict else ordinary).items():
            seen = cells.setdefault(name, {}).setdefault(each.dtype, [])
            if digest not in seen:
                seen.append(digest)
    dtypes = list(dict.fromkeys(each.dtype for each in certificate.fingerprints))
    table = console.table()
    table.add_column("SHA-256 of")
    for dtype in dtypes:
        table.add_column(dtype, no_wrap=True)
    for name, by_dtype in cells.items():
        shown = (", ".join(f"{digest[:12]}…" for digest in by_dtype.get(d, ())) for d in dtypes)
        table.add_row(name, *shown)
    console.show("")
    console.show(table)
