"""The page of a pytest-benchmark run: a picture and a table for each group, by backend.

    python benchmarks/report.py runs/benchmarks.json runs/benchmarks.html

``nox -s benchmarks`` writes both. Nothing is measured here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusedmlp.bench.tables import duration, percent
from fusedmlp.report import Column, Page, Table, environment, environment_rows
from fusedmlp.report.figures import COLOURS, as_svg, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Benchmark = dict[str, Any]
"""One entry of pytest-benchmark's JSON."""

COLUMNS = (
    Column("backend"),
    Column("median", is_number=True),
    Column("fastest", is_number=True),
    Column("slowest", is_number=True),
    Column("rounds", is_number=True),
    Column("samples/s", is_number=True),
    Column("GFLOP/s", is_number=True),
    Column("of peak", is_number=True),
    Column("epochs", is_number=True),
)


def groups(benchmarks: list[Benchmark]) -> dict[str, list[Benchmark]]:
    """Benchmarks by group, in the order of measuring; the fastest backend first."""
    found: dict[str, list[Benchmark]] = {}
    for each in benchmarks:
        found.setdefault(each["group"], []).append(each)
    return {
        name: sorted(members, key=lambda each: each["stats"]["median"])
        for name, members in found.items()
    }


def bars(members: list[Benchmark], backends: list[str]) -> Figure:
    """A bar for each backend; whiskers reach from the fastest to the slowest round."""
    figure = new_figure(8.0, 0.9 + 0.4 * len(members))
    axes = figure.subplots()
    longest = max(each["stats"]["max"] for each in members)
    unit, scale = next(
        (u, s) for u, s in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)) if longest * s >= 1 or u == "µs"
    )
    for at, each in enumerate(members):
        name, stats = each["extra_info"]["backend"], each["stats"]
        median, low, high = (scale * stats[key] for key in ("median", "min", "max"))
        colour = COLOURS[backends.index(name) % len(COLOURS)]
        axes.barh(at, median, 0.6, color=colour)
        whiskers = [[median - low], [high - median]]
        axes.errorbar(median, at, xerr=whiskers, color="black", capsize=3, linewidth=1)
        axes.text(high + 0.015 * longest * scale, at, duration(stats["median"]), va="center")
    axes.set_yticks(range(len(members)), [each["extra_info"]["backend"] for each in members])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * longest * scale)
    axes.set_xlabel(f"{unit}, less is better")
    tidy(axes)
    axes.grid(visible=False, axis="y")
    return figure


def row(each: Benchmark) -> list[str]:
    """Text of one line of a group's table."""
    stats, extra = each["stats"], each["extra_info"]
    share = extra.get("share_of_peak")
    return [
        extra["backend"],
        *(duration(stats[key]) for key in ("median", "min", "max")),
        str(stats["rounds"]),
        f"{extra['samples_per_s']:,.0f}" if "samples_per_s" in extra else "",
        f"{extra['gflops']:,.1f}" if "gflops" in extra else "",
        "" if share is None else percent(share),
        str(extra.get("epochs", "")),
    ]


def page(benchmarks: list[Benchmark], command: list[str]) -> Page:
    """Put the page together."""
    names = {each["extra_info"]["backend"] for each in benchmarks}
    backends = sorted(names, key=lambda name: (name != "numpy", name))
    found = Page(
        "fusedmlp benchmarks",
        f"{len(benchmarks)} benchmarks of {', '.join(backends)}, every backend on all cores. "
        "What operations, epochs and predictions compute was checked against NumPy first.",
    )
    for name, members in groups(benchmarks).items():
        found.section(name[0].upper() + name[1:])
        found.figure(
            as_svg(bars(members, backends)), "Median, and from the fastest to the slowest round."
        )
        rows = [row(each) for each in members]
        used = [i for i in range(len(COLUMNS)) if any(cells[i] for cells in rows)]
        columns = [COLUMNS[i] for i in used]
        found.table(Table(columns, [[cells[i] for i in used] for cells in rows]))
    found.section("Where it was measured")
    found.table(Table((Column("fact"), Column("value")), environment_rows(environment(command))))
    return found


def main() -> None:
    """Read pytest-benchmark's JSON and write the page."""
    source, target = map(Path, sys.argv[1:3])
    benchmarks = json.loads(source.read_text("utf-8"))["benchmarks"]
    page(benchmarks, ["nox", "-s", "benchmarks"]).write(target)
    print(f"written to {target}")


if __name__ == "__main__":
    main()
