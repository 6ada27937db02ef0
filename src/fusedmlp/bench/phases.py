"""What one waits for besides epochs: a process of a backend from its start to its predictions.

Every measurement is a process of its own (first_calls.py). Cold means that compilers find their
caches on disk empty; warm, that the same process ran before.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.bench import machine
from fusedmlp.bench.channel import TIMEOUT, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fusedmlp.bench.contestants import Contestant
    from fusedmlp.bench.tasks import Task
    from fusedmlp.types import DenseInputs, IntArray

PHASES: Final = ("import", "compile", "stage", "epoch", "evaluate", "predict")
"""In the order in which they happen.

import    from the process's start to a backend that is ready: Python, fusedmlp, its libraries
compile   building the engine, and its first step: compiling, or loading what was compiled before
stage     checking the rows and putting them on the device, those to train on and those to test on
epoch     the timed call of the task, the first of its process
evaluate  loss and accuracy of the rows to test on
predict   their probabilities, from host to host
"""

CACHES: Final = ("NUMBA_CACHE_DIR", "CUPY_CACHE_DIR")


def measure(
    contestants: Sequence[Contestant],
    task: Task,
    rows: Mapping[str, DenseInputs | IntArray],
    rounds: int,
    say: Callable[[str], None],
) -> list[dict[str, object]]:
    """Run every backend's process once cold, and ``rounds`` times warm.

    Parameters
    ----------
    rows
        ``x``, ``y``, ``x_test``, ``y_test``, in the types that they are given in.

    Returns
    -------
    A row for each contestant and state: ``peer``, ``threads``, ``state``, and ``seconds`` of each
    phase, a list of one number a process; or ``failed``, and why.
    """
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "rows.npz", **rows)  # type: ignore[arg-type] # its keywords
        for contestant in contestants:
            caches = folder / f"caches-{len(found)}"
            for state, count in (("cold", 1), ("warm", rounds)):
                row: dict[str, object] = {
                    "peer": contestant.name,
                    "threads": contestant.threads,
                    "state": state,
                }
                runs = [_run(contestant, task, folder / "rows.npz", caches) for _ in range(count)]
                failed = [run for run in runs if isinstance(run, str)]
                timed = [run for run in runs if not isinstance(run, str)]
                if failed:
                    say(f"{contestant.label} failed from a {state} start: {failed[0]}")
                    row["failed"] = failed[0]
                else:
                    row["seconds"] = {p: [run[p] for run in timed] for p in PHASES}
                found.append(row)
    return found


def _run(contestant: Contestant, task: Task, data: Path, caches: Path) -> dict[str, float] | str:
    """Run one process; text says what went wrong."""
    own = {name: str(caches / name.lower()) for name in CACHES}
    for path in own.values():
        Path(path).mkdir(parents=True, exist_ok=True)
    wanted = {
        "backend": contestant.arguments[0],
        "threads": contestant.threads,
        "task": task.to_dict(),
        "data": str(data),
        "cpus": machine.usable_cpus()[: contestant.threads],
        "started": time.monotonic(),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fusedmlp.bench.first_calls", json.dumps(wanted)],
            env=environment(contestant) | own,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no end after {TIMEOUT:g} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
