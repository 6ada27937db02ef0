"""The command: ``python -m peers [run|startup|show|page] [options]``.

Exit status: 0, 1 where a worker failed, 2 for wrong usage, 4 where a subject failed parity.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fusedmlp.bench import document
from fusedmlp.bench.machine import thread_counts
from fusedmlp.bench.scheduler import Options, RoundRobin
from fusedmlp.bench.tables import notes, throughput
from fusedmlp.cli.bench import show_table
from fusedmlp.errors import ExitCode, FusedMLPError, UnknownNameError
from fusedmlp.report import Column, Table
from peers import page, startup, subjects
from peers.targets import TARGETS
from workloads import BY_NAME, quick, rows_of

ROUNDS = {"run": 5, "startup": 3}
RUNS = Path(__file__).resolve().parents[2] / "runs"
"""Where results go by default; not under version control."""


def parser():
    """Describe the options."""
    found = argparse.ArgumentParser("python -m peers", description="fusedmlp beside others")
    modes = ("run", "startup", "show", "page")
    found.add_argument("mode", nargs="?", default="run", choices=modes)
    found.add_argument("--workloads", type=_names, help=f"run: some of {','.join(BY_NAME)}")
    found.add_argument("--peers", type=_names, help=f"some of {','.join(subjects.NAMES)}")
    found.add_argument("--threads", type=_counts, help="such as 1,2; default: up to all cores")
    found.add_argument("--rounds", type=int, help="default 5, of startup 3")
    found.add_argument("--quick", action="store_true", help="tiny: proves that everything runs")
    found.add_argument("--json", type=Path, help="the result; show reads it")
    return found


def main(arguments=None):
    """Run the command; return its exit status."""
    options = parser().parse_args(arguments)
    path = options.json or RUNS / f"peers-{options.mode}.json"
    try:
        if options.mode == "show":
            show(document.read(options.json or RUNS / "peers-run.json"))
            return ExitCode.OK
        if options.mode == "page":
            print(f"written to {page.write()}")
            return ExitCode.OK
        options.rounds = options.rounds or (1 if options.quick else ROUNDS[options.mode])
        settings = {k: v for k, v in vars(options).items() if k != "json" and v is not None}
        words = _without_paths(sys.argv[1:] if arguments is None else arguments)
        found = document.new(settings, ["python", "-m", "peers", *words])
        if options.mode == "startup":
            code = measure_startup(options, found)
        else:
            code = measure_tasks(options, found, path)
    except FusedMLPError as error:
        print(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    document.write(found, path)
    show(found)
    print(f"written to {path}")
    return code


def measure_tasks(options, found, path):
    """Measure tasks; the file is written after each, so that a run cut short keeps them."""
    known = tuple(BY_NAME)
    for name in options.workloads or ():
        if name not in known:
            raise UnknownNameError.of("workload", name, known)
    tasks = [BY_NAME[name] for name in known if name in (options.workloads or known)]
    chosen = subjects.chosen(options.peers or (), _threads(options))
    with RoundRobin(chosen, found, Options(rows_of, print)) as benchmark:
        for task in map(quick, tasks) if options.quick else tasks:
            print(f"{task.name} …")
            found["tasks"].append(benchmark.run(task, options.rounds))
            document.write(found, path)
    if benchmark.breaches:
        return ExitCode.BREACHED
    return ExitCode.FAILURE if benchmark.failures else ExitCode.OK


def measure_startup(options, found):
    """Measure first calls, warm starts and memory."""
    chosen = subjects.chosen(options.peers or (), _threads(options)[-1:])
    found["startup"] = startup.run(chosen, found, options.rounds, print)
    return int(any("failed" in row for row in found["startup"]))


def show(found):
    """Print the tables of a document."""
    about = found["machine"]
    print(f"{about['cpu']}, {about['cores']} cores, {found['date']}")
    for each in found["tasks"]:
        table = throughput({**found, "tasks": [each]}, "training")
        show_table(each["task"]["name"], table)
    for note in notes(found):
        print(f"note: {note}")
    if found.get("startup"):
        columns = [Column(title) for title in ("library", "threads", *startup.TITLES)]
        show_table(
            "First step and memory", Table(columns, list(map(startup.cells, found["startup"])))
        )
    values = [(target, target.value(found)) for target in TARGETS]
    rows = [
        [
            target.name,
            *map(target.written, (target.must, target.aim, value)),
            target.verdict([value]),
        ]
        for target, value in values
        if value is not None
    ]
    if rows:
        titles = ("target", "must", "aim", "measured", "verdict")
        show_table("Targets of the Numba backend", Table([Column(t) for t in titles], rows))
    for name, reason in found["skipped"].items():
        print(f"skipped: {name}: {reason}")


def _threads(options):
    """Return the counts asked for; all up to the cores, or for a quick run the largest alone."""
    counts = options.threads or thread_counts()
    return counts[-1:] if options.quick and not options.threads else counts


def _without_paths(words):
    """Leave out where the result goes: it says nothing about how it was measured."""
    pairs = zip(["", *words], words, strict=False)
    return [w for before, w in pairs if before != "--json" and not w.startswith("--json")]


def _names(text):
    return [name for name in text.split(",") if name]


def _counts(text):
    counts = sorted({int(word) for word in text.split(",")})
    if counts[0] < 1:
        raise argparse.ArgumentTypeError("threads are counted from 1")
    return counts


if __name__ == "__main__":
    sys.exit(main())
