"""The command: ``python -m peers [run|sweep|startup|show|page] [options]``.

Exit status: 0, 1 where a worker failed, 2 for wrong usage, 4 where a subject failed parity.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fusedmlp.bench import document
from fusedmlp.bench.scheduler import Options, RoundRobin
from fusedmlp.bench.subjects import thread_counts
from fusedmlp.bench.tables import notes, throughput
from fusedmlp.cli.bench import show_table
from fusedmlp.errors import ExitCode, FusedMLPError, UnknownNameError
from fusedmlp.report import Column, Table
from peers import page, startup, subjects, sweep
from peers.targets import TARGETS
from workloads import AXES, BY_NAME, quick, sweep_tasks

ROUNDS = 5
SWEEP_ROUNDS = 3
RUNS = Path(__file__).resolve().parents[2] / "runs"
"""Where results go by default; not under version control."""


def parser():
    """Describe the options."""
    found = argparse.ArgumentParser("python -m peers", description="fusedmlp beside others")
    found.add_argument(
        "mode", nargs="?", default="run", choices=("run", "sweep", "startup", "show", "page")
    )
    found.add_argument("--workloads", type=_names, help=f"run: some of {','.join(BY_NAME)}")
    found.add_argument("--axes", type=_names, help=f"sweep: some of {','.join(AXES)}")
    found.add_argument("--peers", type=_names, help=f"some of {','.join(subjects.NAMES)}")
    found.add_argument("--threads", type=_counts, help="such as 1,2; default: up to all cores")
    found.add_argument("--rounds", type=int, help=f"default {ROUNDS}, else {SWEEP_ROUNDS}")
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
            for written in page.write():
                print(f"written to {written}")
            return ExitCode.OK
        settings = {k: v for k, v in vars(options).items() if k != "json" and v is not None}
        settings["rounds"] = _rounds(options)
        words = _without_paths(sys.argv[1:] if arguments is None else arguments)
        found = document.new(settings, ["python", "-m", "peers", *words])
        if options.mode == "startup":
            code = measure_startup(options, found)
        else:
            code = measure_tasks(_tasks(options), options, found, path)
    except FusedMLPError as error:
        print(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    document.write(found, path)
    show(found)
    if options.mode == "sweep":
        sweep.draw(found, path.with_suffix(".svg"))
    print(f"written to {path}")
    return code


def measure_tasks(tasks, options, found, path):
    """Measure tasks; the file is written after each, so that a run cut short keeps them."""
    names = options.peers or (sweep.PEERS if options.mode == "sweep" else ())
    chosen = subjects.chosen(names, _threads(options), quick=options.quick)
    with RoundRobin(chosen, found, print, Options(monitor_noise=not options.quick)) as benchmark:
        for task in tasks:
            print(f"{task.name} …")
            found["tasks"].append(benchmark.run(task, _rounds(options)))
            benchmark.forget(task)
            document.write(found, path)
    if benchmark.breaches:
        return ExitCode.BREACHED
    return ExitCode.FAILURE if benchmark.failures else ExitCode.OK


def measure_startup(options, found):
    """Measure first calls, warm starts and memory."""
    chosen = subjects.chosen(options.peers or (), _threads(options)[-1:])
    found["startup"] = startup.run(chosen, found, _rounds(options), print)
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


def _tasks(options):
    """Return the tasks of a run or a sweep."""
    if options.mode == "sweep":
        axes = _known(options.axes, AXES, "axis")
        return [task for axis in axes for _, task in sweep_tasks(axis, coarse=options.quick)]
    tasks = [BY_NAME[name] for name in _known(options.workloads, tuple(BY_NAME), "workload")]
    return [quick(task) for task in tasks] if options.quick else tasks


def _known(names, known, kind):
    """Return the named ones, or all, in the order of ``known``."""
    for name in names or ():
        if name not in known:
            raise UnknownNameError.of(kind, name, known)
    return [name for name in known if name in (names or known)]


def _threads(options):
    """Return the counts asked for; all up to the cores, or for a quick run the largest alone."""
    counts = options.threads or thread_counts()
    return counts[-1:] if options.quick and not options.threads else counts


def _rounds(options):
    default = ROUNDS if options.mode == "run" else SWEEP_ROUNDS
    return options.rounds or (1 if options.quick else default)


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
