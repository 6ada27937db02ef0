"""Measures start-up: a process from its start through its first calls, by phase, and its memory.

Each measurement is a process of its own, startup_process.py. Cold means that the compilers' caches
on disk are empty; warm, that the same process has run before.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from fusedmlp.bench import inputs as task_inputs
from fusedmlp.bench import machine
from fusedmlp.bench.channel import TIMEOUT, environment, request
from fusedmlp.bench.subjects import is_own

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedmlp.bench.inputs import Inputs
    from fusedmlp.bench.subjects import Subject
    from fusedmlp.bench.tasks import Task
    from fusedmlp.types import DenseInputs, IntArray

PHASES: Final = ("import", "compile", "stage", "epoch", "evaluate", "predict")
"""In the order in which they happen.

import    from the start of the process until the backend is ready: Python, fusedmlp, its libraries
compile   building the engine, and its first step: compiling, or loading compiled code
stage     checking the rows and placing them on the device, for training and for testing
epoch     the timed call of the task, the first of its process
evaluate  loss and accuracy of the test rows
predict   their probabilities, from host to host

Of other libraries, ``compile`` and ``epoch`` are measured; staging is part of ``compile``.
"""

PROCESS: Final = Path(__file__).with_name("startup_process.py")

CACHES: Final = (
    "NUMBA_CACHE_DIR",
    "CUPY_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "JAX_COMPILATION_CACHE_DIR",
)


def measure(
    subjects: Sequence[Subject],
    task: Task,
    inputs: Inputs,
    test: tuple[DenseInputs, IntArray] | None,
    rounds: int,
    say: Callable[[str], None],
) -> list[dict[str, object]]:
    """Run the process of each subject once cold and ``rounds`` times warm.

    Parameters
    ----------
    test
        Rows to evaluate and predict, and their classes; the two phases are left out where None.

    Returns
    -------
    A row for each subject and state: ``peer``, ``threads``, ``state``, then either ``seconds``, by
    phase a list with one number per process, and ``memory_bytes`` likewise, or ``failed`` and why.
    """
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task_inputs.write(inputs, folder / "inputs")
        if test is not None:
            np.savez(folder / "inputs" / "test.npz", x=test[0], y=test[1])
        for subject in subjects:
            caches = folder / f"caches-{len(found)}"
            for state, count in (("cold", 1), ("warm", rounds)):
                runs = [_run(subject, task, folder / "inputs", caches) for _ in range(count)]
                row: dict[str, object] = {
                    "peer": subject.name,
                    "threads": subject.threads,
                    "state": state,
                }
                failed = [run for run in runs if isinstance(run, str)]
                if failed:
                    say(f"{subject.label} failed from a {state} start: {failed[0]}")
                    row["failed"] = failed[0]
                else:
                    timed = cast("list[dict[str, float]]", runs)
                    row["memory_bytes"] = [run.pop("memory_bytes") for run in timed]
                    row["seconds"] = {p: [run[p] for run in timed] for p in timed[0]}
                found.append(row)
    return found


def phase_medians(row: dict[str, object]) -> dict[str, float]:
    """Median seconds of each phase of a row that did not fail, in the order of PHASES."""
    seconds = cast("dict[str, list[float]]", row["seconds"])
    return {name: statistics.median(seconds[name]) for name in PHASES if name in seconds}


def _run(subject: Subject, task: Task, folder: Path, caches: Path) -> dict[str, float] | str:
    """Run one process; return its figures, or text that says what went wrong."""
    own = {name: str(caches / name.lower()) for name in CACHES}
    for path in own.values():
        Path(path).mkdir(parents=True, exist_ok=True)
    wanted = {
        **request(subject, machine.usable_cpus()[: subject.threads]),
        "task": task.to_dict(),
        "inputs": str(folder),
        "is_own": is_own(subject.name),
        "started": time.monotonic(),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(PROCESS), json.dumps(wanted)],
            env=environment(subject) | own,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no end after {TIMEOUT:g} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no output"])[-1]
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
