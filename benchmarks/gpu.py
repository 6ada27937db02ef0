"""Check and measure everything on a machine with an NVIDIA GPU, in under eight minutes:

    python benchmarks/gpu.py

It needs this checkout, NumPy and CuPy, and uses the checkout's own sources. It checks that the CuPy
engine agrees with NumPy in every way to launch steps, measures epochs beside PyTorch and JAX where
these are installed, and the matrix products that bound them, runs the tests for GPUs where pytest
is installed, and writes one JSON file and one table.

Each part has a process and a time limit of its own. A part that fails or takes too long is named
and keeps the figures that it has; the others go on. The file is written after each. Nothing is
downloaded, and no setting of the device is changed. Exit status, as everywhere in this project:

    0    every part is done, or measures something that is not on this machine
    1    a part failed, was stopped or left out
    2    a wrong option
    3    no usable device, or no NumPy or CuPy
    4    a bound was breached, or a library failed parity
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

LEAST_SECONDS = 5.0
"""A part is skipped when less than this is left."""

UNAVAILABLE = 3
"""``ExitCode.BACKEND_UNAVAILABLE``, for when that cannot be imported."""

EPOCHS, DEVICE = "epochs", "device"
ROUNDS = 5
EPOCH_SECONDS = 200.0
ANSWER_SECONDS = 120.0
"""Limits of all epochs, and of one answer of a worker."""


def options_of(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="the JSON file (benchmarks/results/gpu-NAME.json)")
    parser.add_argument("--parts", help="only these, by name or family: parity,epochs")
    parser.add_argument(
        "--budget", type=float, default=BUDGET, help="seconds (default %(default).0f)"
    )
    options = parser.parse_args(arguments)
    if not options.budget > 0:
        parser.error(f"--budget {options.budget:g}: give seconds, more than 0")
    if os.environ.get("CUPY_TF32", "0") not in ("", "0"):
        parser.error("CUPY_TF32 is set, and float32 would be measured in TF32: unset it")
    return parser, options


def all_parts():
    """Return time limit and function of every part, most important first.

    A part ``a-b`` belongs to the family ``a``. The epochs have no function: the benchmark harness
    measures them. The limits add up to more than the budget, since most parts need a fraction.
    """
    parts = importlib.import_module("gpu_parts")
    return (
        {DEVICE: (60, parts.device)}
        | {f"parity-{way}": (40, partial(parts.parity, way)) for way in parts.WAYS}
        | {
            "parity-tf32": (40, partial(parts.parity, "tf32", ("float32",))),
            EPOCHS: (EPOCH_SECONDS, None),
            "ceilings-float32": (30, parts.ceilings),
            "ceilings-tf32": (30, partial(parts.ceilings, "tf32")),
            "tests": (120, parts.tests),
        }
    )


def chosen_parts(words, parts):
    """Return the parts that words name, by name or family, and the device's.

    Raises
    ------
    ValueError
        A word names no part.
    """
    families = {name.partition("-")[0] for name in parts}
    for word in words:
        if word not in parts and word not in families:
            raise ValueError(f"no part {word!r}: choose from {', '.join(parts)}, or a family")
    wanted = {DEVICE, *words}
    return {n: part for n, part in parts.items() if {n, n.partition("-")[0]} & wanted}


def subjects():
    """Return the subjects whose epochs are measured."""
    from fusedmlp.bench.machine import n_cores
    from fusedmlp.bench.subjects import Subject

    memory = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

    def subject(name, target, library, *arguments):
        return Subject(name, f"adapters.{target}", library, n_cores(), arguments, memory)

    engines = ("cupy", "cupy+graph", "cupy+eager", "cupy+persistent", "cupy+tf32")
    torch, jax = "torch_steps:TorchSteps", "jax_scan:JaxScan"
    return [
        *(subject(f"fusedmlp-{e}", "cupy_engine:CupyEngine", "cupy", e) for e in engines),
        subject("torch", torch, "torch", "eager", "cuda"),
        subject("torch graph", torch, "torch", "graph", "cuda"),
        subject("torch graph, TF32", torch, "torch", "graph", "cuda", "tf32"),
        subject("jax", jax, "jax", "float32", "gpu"),
        subject("jax, TF32", jax, "jax", "tensorfloat32", "gpu"),
        subject("torch compile", torch, "torch", "compile", "cuda"),
    ]


def pixels(task):
    """Return MNIST from a folder or the cache, else synthetic pixels with learnable classes."""
    import numpy as np

    from fusedmlp.datasets import load_dataset

    try:
        source = "dir" if os.environ.get("FUSEDMLP_DATA") else "cache"
        data = load_dataset("mnist", source=source)
        return data.x_train[: task.rows], data.y_train[: task.rows].astype(np.int64)
    except Exception as error:  # noqa: BLE001 - whatever the reason, synthetic pixels will do
        print(f"MNIST is not here ({error}): synthetic pixels instead", file=sys.stderr)
    rng = np.random.default_rng(0)
    x = rng.integers(1, 256, (task.rows, 784), dtype=np.uint8)
    x *= rng.random(x.shape) < 0.19
    y = (x.astype(np.float32) @ rng.standard_normal((784, 10), np.float32)).argmax(axis=1)
    return x, y


def tasks():
    """Return an epoch of each workload."""
    from dataclasses import replace

    from workloads import BIG, SMALL

    return [replace(each, samples=each.rows, seconds=0.0) for each in (SMALL, BIG)]


def measure_epochs(document, seconds, outcome, chosen=subjects, measured=tasks):
    """Measure epochs of all subjects with the benchmark harness, within some seconds."""
    from fusedmlp.bench.scheduler import Options, RoundRobin
    from fusedmlp_numpy import NumpyBackend

    outcome |= {"state": "stopped", "why": "interrupted", "figures": {}}
    works, end = measured(), time.monotonic() + seconds
    options = Options(
        pixels,
        partial(print, file=sys.stderr),
        NumpyBackend(),
        timeout=min(ANSWER_SECONDS, seconds),
        most_seconds=seconds / 2 / len(works),
    )
    with RoundRobin(chosen(), document, options) as benchmark:
        for task in works:
            if time.monotonic() > end:
                outcome["why"] = f"took more than its {seconds:.0f} s"
                return
            document["tasks"].append(benchmark.run(task, ROUNDS))
    states = {"breaches": benchmark.breaches, "failures": benchmark.failures}
    outcome |= {"state": "done", "why": "", "figures": {"subjects": states}, "exit_code": 0}
    if any(states.values()):
        why = f"{benchmark.breaches} failed parity, {benchmark.failures} failed otherwise"
        outcome |= {"state": "failed", "why": why, "exit_code": 4 if benchmark.breaches else 1}


def run_part(document, name, part, seconds, outcome):
    """Run a part for some seconds: the epochs with the harness's workers, others in a process."""
    if name == EPOCHS:
        measure_epochs(document, seconds, outcome)
    else:
        importlib.import_module("gpu_process").run(part, seconds, outcome)


class NoDeviceError(Exception):
    """There is nothing to measure on."""


class Check:
    """A run: its document, which is written as it grows, and its parts.

    Parameters
    ----------
    run, clock
        :func:`run_part`, and a function that returns seconds, for the budget.
    """

    def __init__(self, options, run, clock):
        from fusedmlp.bench import document

        self._io, self._options, self._run, self._clock = document, options, run, clock
        self.path = None
        words = ["python", "benchmarks/gpu.py"]
        words += ["--parts", options.parts] if options.parts else []
        self.document = document.new({"rounds": ROUNDS}, words)
        self.document |= {"kind": "fusedmlp-gpu", "finished": False, "parts": {}}

    def measure(self, parts):
        """Run the parts in their order within the budget.

        Raises
        ------
        NoDeviceError
            There is no usable device.
        """
        budget = self._options.budget
        end = self._clock() + budget
        for name, (seconds, part) in parts.items():
            began, outcome = self._clock(), {"figures": {}}
            left = end - began
            try:
                if left < LEAST_SECONDS:
                    why = f"{max(left, 0):.0f} s of the budget's {budget:.0f} were left"
                    outcome |= {"state": "skipped", "why": why}
                else:
                    self._run(self.document, name, part, min(seconds, left), outcome)
            except Exception as error:  # noqa: BLE001 - a part that cannot be started has failed
                outcome |= {"state": "failed", "why": f"{type(error).__name__}: {error}"}
            finally:
                outcome["seconds"] = round(self._clock() - began, 1)
                self._note(name, outcome)

    def _note(self, name, outcome):
        """Keep the outcome of a part, and print it. The first part, the device, names the file."""
        figures, why = outcome["figures"], outcome.get("why")
        if self.path is None:
            if "device" not in figures:
                if why == "interrupted":
                    return  # the interrupt itself goes on
                raise NoDeviceError(why)
            slug = re.sub(r"[^a-z0-9]+", "-", str(figures["device"]["name"]).lower()).strip("-")
            some = "-parts" if self._options.parts else ""
            self.path = self._options.out or HERE / "results" / f"gpu-{slug}{some}.json"
            self.document |= figures
            print(figures["device"]["text"], file=sys.stderr, flush=True)
        self.document["parts"][name] = outcome
        self.write()
        print(f"{name}: {_ending(outcome)}", file=sys.stderr, flush=True)

    def write(self):
        """Write the file anew."""
        self._io.write(self.document, self.path)

    def exit_code(self):
        """Return the exit code: a breach takes precedence over any other failure."""
        codes = [
            outcome.get("exit_code", 1)
            for outcome in self.document["parts"].values()
            if outcome["state"] not in ("done", "not measured")
        ]
        return 4 if 4 in codes else int(bool(codes))


def table(document):
    """Return the lines of the table: epochs, then all other figures, then the parts."""
    from fusedmlp.bench.results import task_records

    parts = document["parts"]
    lines = [document["device"]["text"], ""]
    for each in document["tasks"]:
        records = sorted(task_records(each), key=lambda record: -record.samples_per_s)
        name = each["task"]["name"]
        heads = ("µs/step", "ms/epoch", "spread", "TFLOP/s", "of ceiling")
        lines.append(("{:<26}" + "{:>11}" * 5).format(name, *heads))
        for record in records:
            part = "ceilings-tf32" if "tf32" in record.engine.lower() else "ceilings-float32"
            limit = parts.get(part, {}).get("figures", {}).get(name, {}).get("us")
            share = f"{limit / record.microseconds:.0%}" if limit else ""
            lines.append(
                f"  {record.engine:<24}{record.microseconds:>11,.1f}{1e3 * record.seconds:>11,.2f}"
                f"{record.spread:>11.0%}{record.gflops / 1e3:>11.3f}{share:>11}"
            )
        lines += [
            f"  {entry['peer']}: {entry['status']}: {entry['reason']}"
            for entry in each["entries"]
            if entry["status"] != "measured"
        ]
        lines.append("")
    for name, outcome in parts.items():
        if name not in (DEVICE, EPOCHS):
            figures = summarised(outcome["figures"]) if "parity" in name else outcome["figures"]
            lines += [f"{name}: {key}: {_text(value)}" for key, value in figures.items()]
    return [*lines, "", *(f"{name}: {_ending(outcome)}" for name, outcome in parts.items())]


def summarised(cases):
    """Return the case that came nearest to its bound, and every one without a difference."""
    compared = {name: each for name, each in cases.items() if "difference" in each}
    others = {name: each for name, each in cases.items() if "difference" not in each}
    if not compared:
        return others
    nearest = max(compared, key=lambda name: compared[name]["difference"] / compared[name]["bound"])
    return {f"{len(compared)} cases, nearest to its bound {nearest}": compared[nearest]} | others


def _text(figures):
    return "  ".join(
        f"{name} {value:,.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in figures.items()
    )


def _ending(outcome):
    why = f": {outcome['why']}" if outcome.get("why") else ""
    return f"{outcome['state']} after {outcome['seconds']:.1f} s{why}"


def interrupt_on_signals():
    """Let the signals that end a process interrupt it, so that its part is ended, and kept."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores one
            signal.signal(number, signal.default_int_handler)


def main(arguments=None, run=run_part, clock=time.monotonic):
    """Run the check; return its exit status. For the parameters see :class:`Check`."""
    parser, options = options_of(arguments)
    try:  # late, because NumPy may be missing
        parts = all_parts()
    except ModuleNotFoundError as error:
        print(f"{error.name} is not installed: pip install {error.name}", file=sys.stderr)
        return UNAVAILABLE
    try:
        chosen = chosen_parts(options.parts.split(",") if options.parts else list(parts), parts)
    except ValueError as error:
        parser.error(f"--parts: {error}")
    check, ending = Check(options, run, clock), "finished"
    try:
        check.measure(chosen)
    except NoDeviceError as error:
        print(f"no usable GPU: {error}", file=sys.stderr)
        return UNAVAILABLE
    except KeyboardInterrupt:
        ending = "interrupted"
    check.document[ending] = True
    if check.path is None:
        return 130
    check.write()
    print("\n".join(table(check.document)))
    print(f"written to {check.path}")
    return 130 if ending == "interrupted" else check.exit_code()


if __name__ == "__main__":
    interrupt_on_signals()
    sys.exit(main())
