"""The certificate as a page: tables, drawings and the rules. It presents; it judges nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, TypeVar

import numpy as np

from fusedmlp.parity.comparison import Comparison, worst_by_operation
from fusedmlp.parity.drawings import draw_operations, draw_trajectories
from fusedmlp.report import Column, Page, Table, environment_rows
from fusedmlp.tolerance import RULES, TRAJECTORY_STEPS

if TYPE_CHECKING:
    from fusedmlp.parity.accuracies import Accuracy
    from fusedmlp.parity.certificate import Certificate
    from fusedmlp.parity.fingerprints import Fingerprint
    from fusedmlp.parity.finite_differences import GradientCheck
    from fusedmlp.parity.trajectories import Trajectory

SHOWN_DIGITS: Final = 12
"""Digits of a SHA-256 in tables; the JSON has all 64."""


class _Judged(Protocol):
    @property
    def is_met(self) -> bool: ...


T = TypeVar("T", bound=_Judged)

Cells: TypeAlias = Mapping[str, Callable[[T], str]]
"""Columns of a table: the title, and the text of a row's cell."""


@dataclass(frozen=True, slots=True)
class _Group:
    """The comparisons of one operation and pair of backends, one for each dtype."""

    comparisons: Sequence[Comparison]

    @property
    def is_met(self) -> bool:
        return all(c.is_met for c in self.comparisons)


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
    _add_operations(found, certificate.comparisons)
    _add_trajectories(found, certificate)
    _add_gradients(found, certificate)
    _add_accuracies(found, certificate)
    _add_hashes(found, certificate.fingerprints)
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
    """Return a sentence with the number of comparisons of each kind."""
    operations = len({each.operation for each in certificate.comparisons})
    others = ", ".join(name for name in certificate.devices if name != certificate.reference)
    return (
        f"{operations} operations of {others} against {certificate.reference} in "
        f"{' and '.join(dict.fromkeys(each.dtype for each in certificate.comparisons))} "
        f"({len(certificate.comparisons):,} arrays), {len(certificate.gradient_checks)} gradient "
        f"checks, {len(certificate.trajectories)} trajectories and "
        f"{len(certificate.fingerprints)} hashed trainings."
    )


def _table(items: Sequence[T], texts: Cells[T], numbers: Cells[T], caption: str = "") -> Table:
    """Make a row for each item: texts, then numbers, then the verdict with its colour."""
    cells = [*texts.values(), *numbers.values()]
    return Table(
        [
            *map(Column, texts),
            *(Column(title, is_number=True) for title in numbers),
            Column("verdict"),
        ],
        [(*(cell(item) for cell in cells), "met" if item.is_met else "breached") for item in items],
        ["good" if item.is_met else "bad" for item in items],
        caption,
    )


def _max_ulp(c: Comparison) -> str:
    return f"{c.max_ulp:,.0f}" if 10 <= c.max_ulp < np.inf else f"{c.max_ulp:.2g}"


_FIGURES: Final[Cells[Comparison]] = {
    "max ulp": _max_ulp,
    "mean ulp": lambda c: f"{c.mean_ulp:.2g}",
    "relative": lambda c: f"{c.found:.1g}",
    "bound": lambda c: f"{c.bound:.1g}",
}


def _add_operations(found: Page, comparisons: Sequence[Comparison]) -> None:
    found.section(
        "Operations",
        "The same numbers go into one operation on both backends. The relative difference is "
        "max|a − b|, divided by the largest value or, where terms cancel, by the largest sum of "
        "the terms' absolute values; each operation shows its worst array.",
    )
    worst = worst_by_operation(comparisons)
    found.figure(
        draw_operations(worst), "Each operation's largest difference as a share of its bound."
    )
    found.table(_by_operation(worst))
    texts: Cells[Comparison] = {
        "operation": lambda c: c.operation,
        "array": lambda c: c.part,
        "backends": lambda c: f"{c.backend}, {c.reference}",
        "dtype": lambda c: c.dtype,
    }
    found.table(_table(comparisons, texts, _FIGURES), f"All {len(comparisons):,} arrays")


def _by_operation(worst: Sequence[Comparison]) -> Table:
    """Make a row for each operation and pair, with the figures of every dtype side by side."""
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for c in worst:
        groups.setdefault((c.operation, c.backend, c.reference), []).append(c)
    texts: dict[str, Callable[[_Group], str]] = {"operation": lambda g: g.comparisons[0].operation}
    if len({(c.backend, c.reference) for c in worst}) > 1:
        texts["backends"] = lambda g: f"{g.comparisons[0].backend}, {g.comparisons[0].reference}"
    numbers = {
        f"{dtype} {title}": _figure_of(i, cell)
        for i, dtype in enumerate(dict.fromkeys(c.dtype for c in worst))
        for title, cell in _FIGURES.items()
    }
    caption = (
        "The worst array of each operation. An ulp is a unit in the last place of the element: "
        "where terms cancel to almost nothing, the difference may be many ulp."
    )
    return _table([_Group(group) for group in groups.values()], texts, numbers, caption)


def _figure_of(index: int, cell: Callable[[Comparison], str]) -> Callable[[_Group], str]:
    return lambda group: cell(group.comparisons[index])


def _add_trajectories(found: Page, certificate: Certificate) -> None:
    found.section(
        "Trajectories",
        f"The same training on {certificate.dataset}, one step at a time. After each step all "
        f"parameters are compared; the bound holds for the first {TRAJECTORY_STEPS} steps.",
    )
    trajectories = certificate.trajectories
    found.figure(
        draw_trajectories(trajectories),
        "max|a − b| / max|b| over all parameters after each step. Growth like √step is what "
        "independent roundings give.",
    )
    texts: dict[str, Callable[[Trajectory], str]] = {
        "training": lambda t: t.training,
        "dtype": lambda t: t.dtype,
    }
    if len({(t.backend, t.reference) for t in trajectories}) > 1:
        texts["backends"] = lambda t: f"{t.backend}, {t.reference}"
    numbers: Cells[Trajectory] = {
        "first differing step": lambda t: str(t.first_differing_step or "none"),
        "growth": lambda t: "none" if t.growth is None else f"step^{t.growth:.2f}",
        f"first {TRAJECTORY_STEPS}": lambda t: f"{t.bounded:.2g}",
        "bound": lambda t: f"{t.bound:.2g}",
        "at the end": lambda t: f"{t.differences[-1]:.2g}" if t.differences else "",
    }
    caption = (
        f"First {TRAJECTORY_STEPS}: the largest difference after any of those steps, which is what "
        "is bounded. Growth: step^p, fitted to the whole line."
    )
    found.table(_table(trajectories, texts, numbers, caption))


def _add_gradients(found: Page, certificate: Certificate) -> None:
    found.section(
        "Gradients against finite differences",
        "Parameters are moved by ±10⁻⁶, and the slope of the backend's own loss is compared with "
        "the gradient that it computes, in float64. The largest distance is shown.",
    )
    checks = certificate.gradient_checks
    texts: Cells[GradientCheck] = {
        "backend": lambda g: g.backend,
        "hidden units": lambda g: g.hidden,
        "output": lambda g: g.output,
        "objective": lambda g: g.reduction,
    }
    numbers: Cells[GradientCheck] = {
        "largest distance": lambda g: f"{g.found:.2g}",
        "bound": lambda g: f"{g.bound:.2g}",
    }
    largest = max((g.found for g in checks), default=0.0)
    fold = f"All {len(checks)} checks; the largest distance is {largest:.2g}"
    found.table(_table(checks, texts, numbers), fold)


def _add_accuracies(found: Page, certificate: Certificate) -> None:
    found.section(
        "Whole trainings", "The same training to the end, measured on rows it has not seen."
    )
    texts: Cells[Accuracy] = {"backend": lambda a: a.backend, "dtype": lambda a: a.dtype}
    numbers: Cells[Accuracy] = {
        "loss": lambda a: f"{a.loss:.6f}",
        "accuracy": lambda a: f"{a.accuracy:.4f}",
        "from the reference": lambda a: f"{a.distance:.4f}",
        "bound": lambda a: f"{a.bound:.4f}",
    }
    found.table(_table(certificate.accuracies, texts, numbers))


def _add_hashes(found: Page, fingerprints: Sequence[Fingerprint]) -> None:
    found.section(
        "Hashes",
        "SHA-256 of the parameters at the start of each training, of the rows in the order in "
        "which the engine received them, of its dropout masks, and of the final weights. The first "
        "three must be equal on all backends. Final weights must be equal in every run of a "
        "backend, and for every number of threads where its bits do not depend on them. In strict "
        "mode, here with a smaller network and fewer rows, they must be equal on all backends too.",
    )
    columns: Mapping[str, Callable[[Fingerprint], str]] = {
        "arithmetic": lambda f: "strict" if f.strict else "ordinary",
        "backend": lambda f: f.backend,
        "dtype": lambda f: f.dtype,
        "threads": lambda f: "" if f.threads is None else str(f.threads),
        "run": lambda f: str(f.run),
        "start": lambda f: f.start[:SHOWN_DIGITS],
        "shuffles": lambda f: f.shuffles[:SHOWN_DIGITS],
        "masks": lambda f: f.masks[:SHOWN_DIGITS],
        "final weights": lambda f: f.weights[:SHOWN_DIGITS],
    }
    ordered = sorted(fingerprints, key=lambda f: (f.strict, f.dtype, f.backend))
    rows = [[cell(f) for cell in columns.values()] for f in ordered]
    caption = f"The first {SHOWN_DIGITS} of 64 digits."
    found.table(Table([*map(Column, columns)], rows, caption=caption))
