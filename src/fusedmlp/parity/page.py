"""The certificate as a page: tables, drawings and the rules, for people. Nothing is judged here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.parity import drawings
from fusedmlp.report import Column, Page, Table, environment_rows
from fusedmlp.tolerance import RULES, TRAJECTORY_STEPS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fusedmlp.parity.certificate import Certificate
    from fusedmlp.parity.comparison import Comparison
    from fusedmlp.report.page import Mark

SHOWN_DIGITS: Final = 12
"""Of a SHA-256, in tables; the JSON has all 64."""


def page(certificate: Certificate, environment: Mapping[str, object]) -> Page:
    """Build the page.

    Raises
    ------
    MissingDependencyError
        Matplotlib or Jinja is not installed.
    """
    breaches = certificate.breaches()
    names = " and ".join(certificate.devices)
    found = Page(
        f"Parity of {names}",
        summary(certificate),
        "within every bound" if not breaches else f"{len(breaches)} breached",
        "good" if not breaches else "bad",
    )
    if breaches:
        found.section("What is breached")
        found.table(Table((Column("finding"),), [[line] for line in breaches]))
    _operations(found, certificate)
    _trajectories(found, certificate)
    _gradients(found, certificate)
    _trainings(found, certificate)
    found.section("How the bounds are set", "eps is the distance from 1 to the next number.")
    found.table(Table([Column(c) for c in ("what", "bound", "because")], RULES))
    found.section("Where this was measured")
    found.table(
        Table(
            (Column("backend"), Column("device")),
            [list(item) for item in certificate.devices.items()],
        )
    )
    rows = [("data", certificate.dataset), ("seed", str(certificate.seed))]
    facts = [*rows, *environment_rows(environment)]
    found.table(Table((Column("fact"), Column("value")), facts))
    return found


def summary(certificate: Certificate) -> str:
    """Count what was compared, in a sentence."""
    operations = len({each.operation for each in certificate.comparisons})
    others = ", ".join(name for name in certificate.devices if name != certificate.reference)
    return (
        f"{operations} operations of {others} against {certificate.reference} in "
        f"{' and '.join(dict.fromkeys(each.dtype for each in certificate.comparisons))} "
        f"({len(certificate.comparisons):,} arrays), {len(certificate.gradient_checks)} gradient "
        f"checks, {len(certificate.trajectories)} trajectories and "
        f"{len(certificate.fingerprints)} hashed trainings."
    )


def worst_parts(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Of each operation, pair and dtype the part that is nearest to its bound, or past it."""
    worst: dict[tuple[str, str, str, str], Comparison] = {}
    for each in comparisons:
        key = (each.operation, each.backend, each.reference, each.dtype)
        if key not in worst or not share(each) <= share(worst[key]):
            worst[key] = each
    return list(worst.values())


def share(comparison: Comparison) -> float:
    """Return the difference by its bound; where equality is demanded, 0 or infinity."""
    if comparison.bound:
        return comparison.found / comparison.bound
    return 0.0 if comparison.is_met else float("inf")


def verdict(is_met: bool) -> tuple[str, Mark]:
    """Word and colour."""
    return ("met", "good") if is_met else ("breached", "bad")


def _operations(found: Page, certificate: Certificate) -> None:
    found.section(
        "Operations",
        "The same numbers go into one operation on both backends. The relative difference is "
        "max|a − b|, divided by the largest value or, where terms cancel, by the largest sum of "
        "the terms' absolute values; each operation shows its worst array.",
    )
    worst = worst_parts(certificate.comparisons)
    found.figure(
        drawings.operations(worst), "Each operation's largest difference as a share of its bound."
    )
    found.table(_by_operation(worst))
    columns = [
        *map(Column, ("operation", "array", "backends", "dtype")),
        *(Column(title, is_number=True) for title in ("max ulp", "mean ulp", "relative", "bound")),
        Column("verdict"),
    ]
    rows = [
        (
            c.operation,
            c.part,
            f"{c.backend}, {c.reference}",
            c.dtype,
            *_figures(c),
            verdict(c.is_met)[0],
        )
        for c in certificate.comparisons
    ]
    marks = [verdict(c.is_met)[1] for c in certificate.comparisons]
    found.table(Table(columns, rows, marks), f"All {len(rows):,} arrays")


def _by_operation(worst: Sequence[Comparison]) -> Table:
    """Make a row for each operation and pair, with the figures of every dtype side by side."""
    dtypes = list(dict.fromkeys(c.dtype for c in worst))
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for c in worst:
        groups.setdefault((c.operation, c.backend, c.reference), []).append(c)
    pairs = list(dict.fromkeys(f"{c.backend}, {c.reference}" for c in worst))
    names = ("operation", "backends") if len(pairs) > 1 else ("operation",)
    titles = ("max ulp", "mean ulp", "relative", "bound")
    return Table(
        [
            *map(Column, names),
            *(Column(f"{dtype} {title}", is_number=True) for dtype in dtypes for title in titles),
            Column("verdict"),
        ],
        [
            (
                *(operation, f"{backend}, {reference}")[: len(names)],
                *(figure for c in group for figure in _figures(c)),
                verdict(all(c.is_met for c in group))[0],
            )
            for (operation, backend, reference), group in groups.items()
        ],
        [verdict(all(c.is_met for c in group))[1] for group in groups.values()],
        "The worst array of each operation. An ulp is a unit in the last place of the element "
        "itself: one that cancelled to almost nothing may be many of them away.",
    )


def _figures(c: Comparison) -> tuple[str, str, str, str]:
    whole = c.max_ulp >= 10 and np.isfinite(c.max_ulp)
    most = f"{c.max_ulp:,.0f}" if whole else f"{c.max_ulp:.2g}"
    return most, f"{c.mean_ulp:.2g}", f"{c.found:.1g}", f"{c.bound:.1g}"


def _trajectories(found: Page, certificate: Certificate) -> None:
    found.section(
        "Trajectories",
        f"The same training on {certificate.dataset}, one step at a time. After each step all "
        f"parameters are compared; the bound holds for the first {TRAJECTORY_STEPS} steps.",
    )
    found.figure(
        drawings.trajectories(certificate.trajectories),
        "max|a − b| / max|b| over all parameters after each step. Growth like √step is what "
        "independent roundings give.",
    )
    pairs = dict.fromkeys(f"{t.backend}, {t.reference}" for t in certificate.trajectories)
    titles = ("training", "dtype", "backends")[: 3 if len(pairs) > 1 else 2]
    numbers = ("first differing step", "growth", f"first {TRAJECTORY_STEPS}", "bound", "at the end")
    rows = [
        (
            *(t.course, t.dtype, f"{t.backend}, {t.reference}")[: len(titles)],
            "none" if t.first_differing_step is None else str(t.first_differing_step),
            "none" if t.growth is None else f"step^{t.growth:.2f}",
            f"{t.bounded:.2g}",
            f"{t.bound:.2g}",
            f"{t.differences[-1]:.2g}" if t.differences else "",
            verdict(t.is_met)[0],
        )
        for t in certificate.trajectories
    ]
    columns = [*map(Column, titles), *(Column(n, is_number=True) for n in numbers)]
    marks = [verdict(t.is_met)[1] for t in certificate.trajectories]
    caption = (
        f"First {TRAJECTORY_STEPS}: the largest difference after any of those steps, which is what "
        "is bounded. Growth: step^p, fitted to the whole line."
    )
    found.table(Table([*columns, Column("verdict")], rows, marks, caption))


def _gradients(found: Page, certificate: Certificate) -> None:
    found.section(
        "Gradients against finite differences",
        "Parameters are moved by ±10⁻⁶, and the slope of the backend's own loss is compared with "
        "the gradient that it computes, in float64. The largest distance is shown.",
    )
    checks = certificate.gradient_checks
    columns = [
        *map(Column, ("backend", "hidden units", "output", "objective")),
        *(Column(title, is_number=True) for title in ("largest distance", "bound")),
        Column("verdict"),
    ]
    rows = [
        (
            g.backend,
            g.hidden,
            g.output,
            g.reduction,
            f"{g.found:.2g}",
            f"{g.bound:.2g}",
            verdict(g.is_met)[0],
        )
        for g in checks
    ]
    marks = [verdict(g.is_met)[1] for g in checks]
    largest = max((g.found for g in checks), default=0.0)
    fold = f"All {len(checks)} checks; the largest distance is {largest:.2g}"
    found.table(Table(columns, rows, marks), fold)


def _trainings(found: Page, certificate: Certificate) -> None:
    found.section(
        "Whole trainings", "The same training to the end, measured on rows it has not seen."
    )
    columns = [
        *map(Column, ("backend", "dtype")),
        *(
            Column(title, is_number=True)
            for title in ("loss", "accuracy", "from the reference", "bound")
        ),
        Column("verdict"),
    ]
    rows = [
        (
            a.backend,
            a.dtype,
            f"{a.loss:.6f}",
            f"{a.accuracy:.4f}",
            f"{a.distance:.4f}",
            f"{a.bound:.4f}",
            verdict(a.is_met)[0],
        )
        for a in certificate.accuracies
    ]
    marks = [verdict(a.is_met)[1] for a in certificate.accuracies]
    found.table(Table(columns, rows, marks))
    found.section(
        "Hashes",
        "SHA-256 of what each training began with, of the rows in the order in which the engine "
        "got them, of its dropout masks, and of the final weights. The first three must be equal "
        "on all backends. Final weights must be equal in every run of a backend, and for every "
        "number of threads where its bits do not depend on them. In strict mode, here with a "
        "smaller network and fewer rows, they must be equal on all backends too.",
    )
    names = (
        "arithmetic",
        "backend",
        "dtype",
        "threads",
        "run",
        "start",
        "shuffles",
        "masks",
        "final weights",
    )
    hashed = [
        (
            "strict" if f.strict else "ordinary",
            f.backend,
            f.dtype,
            "" if f.threads is None else str(f.threads),
            str(f.run),
            *(h[:SHOWN_DIGITS] for h in (f.start, f.shuffles, f.masks, f.weights)),
        )
        for f in sorted(certificate.fingerprints, key=lambda f: (f.strict, f.dtype, f.backend))
    ]
    caption = f"The first {SHOWN_DIGITS} of 64 digits."
    found.table(Table([*map(Column, names)], hashed, caption=caption))
