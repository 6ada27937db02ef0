"""One process of the phases' measurement: import, compile, stage, train, evaluate, predict.

Started by phases.py. What an engine says of its own compilation is taken off the phase in which it
happens, and added to the compilation's.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from fusedmlp.bench.worker import confine
from fusedmlp.registry import Selection, create

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.backend import Engine

Result = TypeVar("Result")


class Phases:
    """Seconds by phase, of one engine."""

    def __init__(self, engine: Engine, seconds: dict[str, float]) -> None:
        self._engine, self.seconds = engine, seconds

    def timed(self, phase: str, call: Callable[[], Result]) -> Result:
        """Time a call and put it on the account of its phase."""
        compiled, began = self._engine.compile_seconds, time.perf_counter()
        found = call()
        self._engine.synchronize()
        total = time.perf_counter() - began
        compiling = self._engine.compile_seconds - compiled
        self.seconds["compile"] += compiling
        self.seconds[phase] = self.seconds.get(phase, 0.0) + total - compiling
        return found


def main() -> None:
    """Do what the first argument says and print one line of figures."""
    wanted = json.loads(sys.argv[1])
    confine(wanted["cpus"])
    backend = create(
        Selection.from_request(wanted["backend"], "argument"), threads=wanted["threads"]
    )
    seconds = {"import": time.monotonic() - wanted["started"]}

    from fusedmlp.bench.operations import compiled
    from fusedmlp.bench.tasks import Task
    from fusedmlp.network import initialise

    task = Task.from_dict(wanted["task"])
    with np.load(Path(wanted["data"])) as arrays:
        x, y, x_test, y_test = (arrays[key] for key in ("x", "y", "x_test", "y_test"))
    start, order = initialise(task.network, 0, task.dtype), task.order(0)
    began = time.perf_counter()
    engine = compiled(backend, task, start)
    seconds["compile"] = time.perf_counter() - began
    phases = Phases(engine, seconds)
    data = phases.timed("stage", lambda: engine.stage(x, y))
    rates = np.full(task.n_steps, task.lr)
    phases.timed("compile", lambda: engine.train_epoch(data, order[: task.batch_size], rates[:1]))
    phases.timed("epoch", lambda: engine.train_epoch(data, order, rates))
    test = phases.timed("stage", lambda: engine.stage(x_test, y_test))
    phases.timed("evaluate", lambda: engine.evaluate(test))
    phases.timed("predict", lambda: engine.forward(x_test))
    sys.stdout.write(json.dumps(seconds) + "\n")


if __name__ == "__main__":
    main()
