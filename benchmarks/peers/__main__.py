"""The command: ``python -m peers [run|sweep|startup|show|page] [options]``.

Exit status: 0, 1 where a worker failed, 2 for wrong usage, 4 where a peer failed its parity check.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console

from fusedmlp.bench import document
from fusedmlp.bench.contestants import thread_counts
from fusedmlp.bench.driver import Contest
from fusedmlp.errors import ExitCode, FusedMLPError, UnknownNameError
from peers import entrants, report, results
from peers.tasks import AXES, BY_NAME, quick

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedmlp.bench.document import Document

ROUNDS: Final = 5
RUNS: Final = Path(__file__).resolve().parents[2] / "runs"
"""Where results go by default; not under version control."""


def parser() -> argparse.ArgumentParser:
    """Describe the options."""
    found = argparse.ArgumentParser("python -m peers", description="fusedmlp beside its peers")
    found.add_argument(
        "mode", nargs="?", default="run", choices=("run", "sweep", "startup", "show", "page")
    )
    found.add_argument("--workloads", type=_names, help=f"run: some of {','.join(BY_NAME)}")
    found.add_argument("--axes", type=_names, help=f"sweep: some of {','.join(AXES)}")
    found.add_argument("--peers", type=_names, help=f"some of {','.join(entrants.NAMES)}")
    found.add_argument("--threads", type=_counts, help="such as 1,2; default: up to all cores")
    found.add_argument("--rounds", type=int, help=f"default {ROUNDS}")
    found.add_argument("--quick", action="store_true", help="tiny: proves that everything runs")
    found.add_argument("--json", type=Path, help="the result; show reads it")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = parser().parse_args(arguments)
    console = Console()
    if not console.is_terminal:
        console.width = 110  # a file has no width
    path = _path(options)
    try:
        if options.mode == "show":
            report.show(document.read(options.json or RUNS / "peers-run.json"), console)
            return ExitCode.OK
        if options.mode == "page":
            for written in results.write():
                console.print(f"written to {written}", highlight=False)
            return ExitCode.OK
        settings = {k: v for k, v in vars(options).items() if k != "json" and v is not None}
        words = _without_paths(sys.argv[1:] if arguments is None else arguments)
        found = document.new(settings, ["python", "-m", "peers", *words])
        code = {"run": run, "sweep": sweep, "startup": startup}[options.mode](
            options, found, console
        )
    except FusedMLPError as error:
        console.print(f"error: {error}", style="red", markup=False)
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    document.write(found, path)
    console.print(f"written to {path}", highlight=False)
    return code


def run(options: argparse.Namespace, found: Document, console: Console) -> int:
    """Measure the named workloads."""
    for name in options.workloads or ():
        if name not in BY_NAME:
            raise UnknownNameError.of("workload", name, tuple(BY_NAME))
    tasks = [task for name, task in BY_NAME.items() if name in (options.workloads or BY_NAME)]
    with _contest(options, found, console) as contest:
        for task in tasks:
            console.print(f"{task.name} …")
            measured = quick(task) if options.quick else task
            found["tasks"].append(contest.run(measured, _rounds(options)))
            document.write(found, _path(options))  # a run that is cut short keeps what it has
    report.show(found, console)
    return _code(contest)


def sweep(options: argparse.Namespace, found: Document, console: Console) -> int:
    """Measure along the axes, and draw."""
    from peers import plot, sweeping

    for axis in options.axes or ():
        if axis not in AXES:
            raise UnknownNameError.of("axis", axis, AXES)
    options.peers = options.peers or list(sweeping.PEERS)
    with _contest(options, found, console) as contest:
        axes = options.axes or AXES
        found["tasks"] += sweeping.run(
            contest, axes, _rounds(options, 3), coarse=options.quick, say=console.print
        )
    base = _path(options)
    table = sweeping.markdown(found)
    base.parent.mkdir(parents=True, exist_ok=True)
    base.with_suffix(".md").write_text(table, encoding="utf-8")
    console.print(table, highlight=False, markup=False)
    if plot.draw(found, base.with_suffix(".svg")):
        console.print(f"drawn to {base.with_suffix('.svg')}", highlight=False)
    else:
        console.print("matplotlib is not installed: no plot")
    return _code(contest)


def startup(options: argparse.Namespace, found: Document, console: Console) -> int:
    """Measure first calls, warm starts and memory."""
    from peers import starting

    chosen = entrants.chosen(options.peers or (), (_threads(options)[-1],))
    found["startup"] = starting.run(
        chosen, found, 1 if options.quick else _rounds(options, 3), console.print
    )
    console.print(starting.table(found["startup"]))
    return int(any("failed" in row for row in found["startup"]))


def _contest(options: argparse.Namespace, found: Document, console: Console) -> Contest:
    chosen = entrants.chosen(options.peers or (), _threads(options), quick=options.quick)

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    return Contest(chosen, found, say, steady=not options.quick)


def _path(options: argparse.Namespace) -> Path:
    path: Path | None = options.json
    return path or RUNS / f"peers-{options.mode}.json"


def _threads(options: argparse.Namespace) -> list[int]:
    """Counts asked for; all up to the cores, or for a quick run the most alone."""
    counts: list[int] = options.threads or thread_counts()
    return counts[-1:] if options.quick and not options.threads else counts


def _rounds(options: argparse.Namespace, default: int = ROUNDS) -> int:
    return options.rounds or (1 if options.quick else default)


def _code(contest: Contest) -> int:
    if contest.breaches:
        return ExitCode.BREACHED
    return ExitCode.FAILURE if contest.failures else ExitCode.OK


def _without_paths(words: Sequence[str]) -> list[str]:
    """Leave out where the result goes: it says nothing about how it was measured."""
    found: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if before != "--json" and not word.startswith("--json"):
            found.append(word)
    return found


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _counts(text: str) -> list[int]:
    counts = sorted({int(word) for word in text.split(",")})
    if counts[0] < 1:
        raise argparse.ArgumentTypeError("threads are counted from 1")
    return counts


if __name__ == "__main__":
    sys.exit(main())
