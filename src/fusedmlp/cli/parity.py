"""``fusedmlp parity``: a certificate that the backends compute the same.

What is compared and what is allowed is in :mod:`fusedmlp.parity`.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusedmlp.cli import console, options
from fusedmlp.errors import BreachedError

if TYPE_CHECKING:
    from fusedmlp.parity import Certificate


def parity(
    ctx: typer.Context,
    backends: options.Backends = None,
    dataset: options.Dataset = None,
    data_dir: options.DataDir = None,
    source: options.Source = None,
    seed: options.Seed = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the certificate as one page, with drawings, that opens offline.",
            rich_help_panel="Running",
        ),
    ] = None,
    json_: options.Json = False,
) -> None:
    """Compare the backends operation by operation, step by step and bit by bit.

    Exits with 4 when a bound is breached.
    """
    from fusedmlp.cli.choosing import named_or_usable
    from fusedmlp.cli.outputs import check_target
    from fusedmlp.cli.settings import DataRequest
    from fusedmlp.parity import certify
    from fusedmlp.report import check_report_installed, environment
    from fusedmlp.seeding import checked_seed

    seed = checked_seed(seed or 0)
    selections = named_or_usable(backends)
    if html is not None:
        check_report_installed()
        check_target(html)
    typed = options.given_on_command_line(ctx)
    folder = str(data_dir) if data_dir is not None and "data_dir" in typed else None
    err = console.stderr()
    request = DataRequest(dataset or "mnist", folder, source)
    data = request.load(seed, lambda text: console.note(text, err))
    found = certify(selections, data, seed=seed, report=lambda line: console.note(line, err))
    facts = environment(["fusedmlp", *sys.argv[1:]])
    if html is not None:
        from fusedmlp.parity.page import page

        page(found, facts).write(html)
        console.note(f"written to {html}", err)
    if json_:
        console.print_json({**found.document(), "environment": facts})
    else:
        _show(found)
    breaches = found.breaches()
    if breaches:
        raise BreachedError(
            f"{len(breaches)} bound{'s' * (len(breaches) > 1)} breached; the first: {breaches[0]}"
        )


def _show(certificate: "Certificate") -> None:
    from rich.text import Text

    out = console.stdout()
    for name, device in certificate.devices.items():
        role = "the reference: " if name == certificate.reference else ""
        console.labelled(name, f"{role}{device}", out)
    console.labelled("data", f"{certificate.dataset}; seed {certificate.seed}", out)
    _show_operations(certificate)
    _show_trainings(certificate)
    for breach in certificate.breaches():
        out.print(Text.assemble(("breached  ", "bold red"), breach))
    met = "every bound is met" if certificate.is_met else "parity is broken"
    out.print(Text(met, "bold green" if certificate.is_met else "bold red"))


def _show_operations(certificate: "Certificate") -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from fusedmlp.parity.comparison import worst_by_operation

    worst = worst_by_operation(certificate.comparisons)
    dtypes = list(dict.fromkeys(each.dtype for each in worst))
    for pair in dict.fromkeys((each.backend, each.reference) for each in worst):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column(f"{pair[0]} and {pair[1]}")
        for dtype in dtypes:
            table.add_column(f"{dtype}\nmean ulp", justify="right", no_wrap=True)
            table.add_column("\nof bound", justify="right", no_wrap=True)
        table.add_column("\nverdict", no_wrap=True)
        for operation in dict.fromkeys(each.operation for each in worst):
            cells: list[Text | str] = [operation]
            mine = [
                c for c in worst if (c.backend, c.reference) == pair and c.operation == operation
            ]
            for c in mine:
                cells += [f"{c.mean_ulp:.2g}", f"{100 * c.share_of_bound:.1f} %"]
            met = all(c.is_met for c in mine)
            cells.append(Text("met", "green") if met else Text("breached", "bold red"))
            table.add_row(*cells)
        console.show("")
        console.show(table)


def _show_trainings(certificate: "Certificate") -> None:
    from fusedmlp.tolerance import TRAJECTORY_STEPS

    out = console.stdout()
    checks = certificate.gradient_checks
    console.show("")
    for name in certificate.devices:
        largest = max(check.found for check in checks if check.backend == name)
        text = (
            f"at most {largest:.1e} from the slopes of its own loss, allowed {checks[0].bound:.0e}"
        )
        console.labelled("gradients", f"{name}: {text}", out)
    for t in certificate.trajectories:
        growth = "" if t.growth is None else f", growing like step^{t.growth:.2f}"
        console.labelled(
            "trajectory",
            f"{t.training}, {t.dtype}: {t.backend} and {t.reference} differ from step "
            f"{t.first_differing_step} on{growth}; at most {t.bounded:.1e} in the first "
            f"{TRAJECTORY_STEPS} steps, allowed {t.bound:.1e}"
            if t.first_differing_step is not None
            else f"{t.training}, {t.dtype}: {t.backend} and {t.reference} never differ",
            out,
        )
    for a in certificate.accuracies:
        console.labelled(
            "accuracy", f"{a.backend}: {a.accuracy:.4f} of {a.rows:,} rows, loss {a.loss:.6f}", out
        )
    _show_hashes(certificate)


def _show_hashes(certificate: "Certificate") -> None:
    """Table of SHA-256 beginnings: a line for each thing that may be equal, a column a dtype."""
    from rich import box
    from rich.table import Table

    cells: dict[str, dict[str, list[str]]] = {}
    for each in certificate.fingerprints:
        threads = (
            ""
            if each.threads is None
            else f", {each.threads} threads".replace("1 threads", "1 thread")
        )
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
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("SHA-256 of")
    for dtype in dtypes:
        table.add_column(dtype, no_wrap=True)
    for name, by_dtype in cells.items():
        shown = (", ".join(_short(digest) for digest in by_dtype.get(d, ())) for d in dtypes)
        table.add_row(name, *shown)
    console.show("")
    console.show(table)


def _short(digest: str) -> str:
    return f"{digest[:12]}…"
