"""Check and measure everything on a machine with an NVIDIA GPU, in under eight minutes:

    python benchmarks/gpu.py

It needs this checkout, NumPy and CuPy, and takes the checkout's own sources. It checks that the
CuPy engine agrees with NumPy in every way to launch steps, times the engine, what bounds it
(launches, graphs, barriers, products) and its peers where they are installed, runs the GPU's tests
where pytest is, and writes one JSON file and one table.

Each part is a process of its own with a time of its own. One that fails or takes too long is named
and keeps what it had, and the others go on; the file is written after each. Nothing is downloaded,
and no setting of the device is touched. Exit status, as everywhere in this project:

    0    every part is done, or measures what is not on this machine
    1    a part failed, was stopped in the middle or left out
    2    a wrong option
    3    no usable device, or no NumPy or CuPy
    4    a bound was breached, or a peer trained to another loss
    130  interrupted
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import sys
import time
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = [str(HERE.parent / "src"), str(HERE.parent / "backends"), str(HERE)]
sys.path[:0] = [path for path in SOURCES if path not in sys.path]

BUDGET = 440.0
"""Seconds; the rest of the eight minutes is for ending the last part and for the table."""

UNAVAILABLE = 3
"""``ExitCode.BACKEND_UNAVAILABLE``, for where that cannot be imported."""


def options_of(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="the JSON file (benchmarks/results/gpu-NAME.json)")
    parser.add_argument("--parts", help="only these, by name or family: parity,training-graph")
    parser.add_argument(
        "--budget", type=float, default=BUDGET, help="seconds (default %(default).0f)"
    )
    parser.add_argument("--measure", nargs=2, metavar=("PART", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.budget > 0:
        parser.error(f"--budget {options.budget:g}: give seconds, more than 0")
    if os.environ.get("CUPY_TF32", "0") not in ("", "0"):
        parser.error("CUPY_TF32 is set, and float32 would be measured in TF32: unset it")
    return parser, options


def main(arguments=None, run=None, clock=time.monotonic):
    """Run the parts; see the file's first lines.

    Parameters
    ----------
    run
        Runs a part of a name for some seconds; in another process where None.
    clock
        Tells seconds, to keep the budget by.
    """
    parser, options = options_of(arguments)
    try:  # late, because NumPy may be missing
        running = importlib.import_module("gpu_check.running")
        tables = importlib.import_module("gpu_check.tables")
        known = importlib.import_module("gpu_check.parts")
    except ModuleNotFoundError as error:
        print(f"{error.name} is not installed: pip install {error.name}", file=sys.stderr)
        return UNAVAILABLE
    parts = known.all_parts()
    if options.measure:
        name, path = options.measure
        running.end_with_parent()
        return running.measure_here(parts[name], partial(running.write_json, Path(path)))
    try:
        words = options.parts.split(",") if options.parts else list(parts)
        parts = known.chosen(words, parts)
    except ValueError as error:
        parser.error(f"--parts: {error}")
    if run is None:
        run = in_another_process
        end_in_order()

    keeper = Keeper(running, options)
    try:
        running.run_parts(parts, run, options.budget, keeper.note, clock)
    except NoDeviceError as error:
        print(f"no usable GPU: {error}", file=sys.stderr)
        return int(running.ExitCode.BACKEND_UNAVAILABLE)
    except KeyboardInterrupt:
        ending = "interrupted"
    else:
        ending = "finished"
    return finish(keeper, ending, running, tables)


def finish(keeper, ending, running, tables):
    """Write and print what there is; return the exit code."""
    codes = running.ExitCode
    document = keeper.document
    document[ending] = True
    if keeper.path is None:
        return int(codes.INTERRUPTED)
    strangers = document["other_trainings"] = tables.strangers(document["parts"])
    keeper.write()
    print("\n".join(tables.table(document)))
    print(f"written to {keeper.path}")
    if ending == "interrupted":
        return int(codes.INTERRUPTED)
    if strangers:
        return int(codes.BREACHED)
    return running.exit_code_of(document["parts"].values())


def end_in_order():
    """Have the signals that end a process interrupt it, so that its part is ended, and kept."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores one
            signal.signal(number, signal.default_int_handler)


class NoDeviceError(Exception):
    """There is nothing to measure on."""


class Keeper:
    """The document of a run, written as it grows; the first part says where to."""

    def __init__(self, running, options):
        self._running, self._options = running, options
        self.path = None
        command = [
            "python",
            "benchmarks/gpu.py",
            *(["--parts", options.parts] if options.parts else []),
        ]
        self.document = {"command": " ".join(command), "finished": False, "parts": {}}

    def note(self, name, outcome):
        """Keep what became of a part, and say so."""
        if self.path is None:
            if outcome["state"] != "done" and "device" not in outcome["figures"]:
                raise NoDeviceError(outcome.get("why", outcome["state"]))
            self._begin(outcome["figures"])
        self.document["parts"][name] = outcome
        self.write()
        why = f": {outcome['why']}" if "why" in outcome else ""
        text = f"{name}: {outcome['state']} after {outcome['seconds']:.1f} s{why}"
        print(text, file=sys.stderr, flush=True)

    def write(self):
        """Write the file anew."""
        self._running.write_json(self.path, self.document)

    def _begin(self, figures):
        name = str(figures["device"]["name"]).lower()
        slug = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
        some = "-parts" if self._options.parts else ""
        self.path = self._options.out or HERE / "results" / f"gpu-{slug}{some}.json"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.document = figures | self.document
        print(figures["device"]["text"], file=sys.stderr, flush=True)


def in_another_process(name, seconds):
    """Run a part as ``gpu.py --measure NAME FILE``."""
    running = importlib.import_module("gpu_check.running")
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", name]
    return running.run_process(command, seconds)


if __name__ == "__main__":
    sys.exit(main())
