"""One process of the start-up measurement; started by startup.py as a file.

Compilation that an engine reports during another phase is counted as compilation. As a file and not
as a module, because importing fusedmlp is part of what is timed for its own backends only.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.backend import Engine
    from fusedmlp.bench.adapter import Adapter
    from fusedmlp.bench.inputs import Inputs
    from fusedmlp.bench.tasks import Task

Result = TypeVar("Result")


class Phases:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.engine: Engine | None = None

    def timed(self, phase: str, call: Callable[[], Result]) -> Result:
        """Time a call and add it to its phase."""
        compiled = self.engine.compile_seconds if self.engine else 0.0
        began = time.perf_counter()
        found = call()
        if self.engine is not None:
            self.engine.synchronize()
        total = time.perf_counter() - began
        compiling = self.engine.compile_seconds - compiled if self.engine else 0.0
        self._add("compile", compiling)
        self._add(phase, total - compiling)
        return found

    def _add(self, phase: str, seconds: float) -> None:
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds


def memory_bytes(field: str) -> int:
    """Memory of this process: ``VmRSS`` now, ``VmHWM`` at most; 0 where the system cannot tell."""
    try:
        text = Path("/proc/self/status").read_text("ascii")
    except OSError:
        return 0
    line = next(line for line in text.splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def run_backend(backend: Any, task: Task, inputs: Inputs, folder: Path, phases: Phases) -> None:  # noqa: ANN401
    """Build an engine of a backend and use it for the first time."""
    from fusedmlp.bench.backend_adapter import build_engine

    order, B = task.order(0), task.batch_size
    engine = phases.timed("compile", lambda: build_engine(backend, task, inputs.start))
    phases.engine = engine
    data = phases.timed("stage", lambda: engine.stage(inputs.x, inputs.y))
    rates = np.full(task.n_steps, task.lr)
    phases.timed("compile", lambda: engine.train_epoch(data, order[:B], rates[:1]))
    phases.timed("epoch", lambda: engine.train_epoch(data, order, rates))
    if (folder / "test.npz").exists():
        with np.load(folder / "test.npz") as arrays:
            x, y = arrays["x"], arrays["y"]
        test = phases.timed("stage", lambda: engine.stage(x, y))
        phases.timed("evaluate", lambda: engine.evaluate(test))
        phases.timed("predict", lambda: engine.forward(x))


def run_library(adapter: Adapter, task: Task, inputs: Inputs, phases: Phases) -> None:
    """Build another library's training, take its first step, and train an epoch."""
    order = task.order(0)
    training = phases.timed("compile", lambda: adapter.training(task, inputs))
    phases.timed("compile", lambda: training.first_steps(order[: task.batch_size]))
    phases.timed("epoch", lambda: training.epoch(order))


def main() -> None:
    """Measure what the first argument describes and print one line of figures."""
    began = time.monotonic()
    from fusedmlp.bench import inputs
    from fusedmlp.bench.tasks import Task
    from fusedmlp.bench.worker import answer_stream, confine, load

    wanted = json.loads(sys.argv[1])
    excluded = 0.0 if wanted["is_own"] else time.monotonic() - began
    out = answer_stream()
    confine(wanted["cpus"])
    warnings.simplefilter("ignore")
    adapter, phases = load(wanted["target"], wanted["threads"], wanted["arguments"]), Phases()
    phases.seconds["import"] = time.monotonic() - wanted["started"] - excluded
    imported = memory_bytes("VmRSS")
    task, folder = Task.from_dict(wanted["task"]), Path(wanted["inputs"])
    read = inputs.read(folder)
    backend = getattr(adapter, "backend", None)
    if backend is None:
        run_library(adapter, task, read, phases)
    else:
        run_backend(backend, task, read, folder, phases)
    figures = phases.seconds | {"memory_bytes": memory_bytes("VmHWM") - imported}
    out.write(json.dumps(figures) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
