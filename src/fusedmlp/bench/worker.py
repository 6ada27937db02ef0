"""The worker process of one benchmark subject: reads commands from stdin, answers in JSON lines.

Started by channel.py. It ends when its input does, so that it cannot outlive the command. What
libraries print goes to stderr, where it cannot garble the answers.

======================================  ==================================================
``{"do": "check", task, inputs}``       parity figures
``{"do": "prepare", task, inputs}``     the same after a warm-up call, with the seconds of both
``{"do": "round", "number": n}``        seconds, samples, loss and accuracy
``{"do": "handover"}``                  seconds of a handover between threads
``{"do": "release"}``                   forget the task and its data
======================================  ==================================================
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import sys
import time
import traceback
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

    from fusedmlp.bench.adapter import Adapter
    from fusedmlp.bench.runner import Runner


def confine(cpus: list[int]) -> None:
    """Keep this process on these CPUs, where the system can, before any library counts them."""
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def answer_stream() -> TextIO:
    """Take stdout for the answers, and redirect everything else that is printed to stderr."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept


def load(target: str, threads: int, arguments: list[str]) -> Adapter:
    """Import ``module:Class`` and build it."""
    module, _, name = target.partition(":")
    adapter: Adapter = getattr(importlib.import_module(module), name)(threads, *arguments)
    return adapter


class Worker:
    """Executes the commands."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._runner: Runner | None = None

    def greeting(self) -> dict[str, object]:
        """Versions of the adapter's libraries, and its device."""
        versions = {}
        for package in ("numpy", *self._adapter.packages):
            with contextlib.suppress(PackageNotFoundError):
                versions[package] = version(package)
        device, is_gpu = self._adapter.device()
        return {"versions": versions, "device": device, "is_gpu": is_gpu}

    def answer(self, command: Mapping[str, object]) -> dict[str, object]:
        """Execute one command; an exception becomes an answer, and the worker goes on."""
        from fusedmlp.bench.adapter import UnsupportedError

        try:
            return {"ok": self._execute(command)}
        except UnsupportedError as reason:
            return {"unsupported": str(reason)}
        except Exception as error:  # noqa: BLE001 - whatever a library raises is an answer
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"}

    def _execute(self, command: Mapping[str, object]) -> Mapping[str, object]:
        match command["do"]:
            case "check":
                return self._build(command).parity()
            case "prepare":
                began = time.perf_counter()
                runner = self._build(command)
                found = runner.parity()
                runner.call(0)
                return found | {"prepare_seconds": time.perf_counter() - began}
            case "round":
                assert self._runner is not None, "a round before a task"
                return self._runner.round(int(str(command["number"])))
            case "handover":
                return {"seconds": self._adapter.handover()}
            case "release":
                self._runner = None
                gc.collect()
                return {}
            case other:
                raise ValueError(f"no such command: {other}")

    def _build(self, command: Mapping[str, object]) -> Runner:
        from fusedmlp.bench import inputs, runner
        from fusedmlp.bench.tasks import Task

        task = Task.from_dict(cast("Mapping[str, object]", command["task"]))
        folder = Path(str(command["inputs"]))
        self._runner = runner.make_runner(self._adapter, task, lambda: inputs.read(folder))
        return self._runner


def main() -> None:
    """Load the adapter that the first argument describes, and answer until the input ends."""
    out = answer_stream()
    wanted = json.loads(sys.argv[1])
    confine(wanted["cpus"])
    warnings.simplefilter("ignore")  # addressed to users of the measured libraries

    def write(message: Mapping[str, object]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    from fusedmlp.bench.adapter import UnsupportedError

    try:
        worker = Worker(load(wanted["target"], wanted["threads"], wanted["arguments"]))
        greeting = worker.greeting()
    except UnsupportedError as reason:
        write({"unsupported": str(reason)})
        return
    except Exception as error:  # noqa: BLE001 - a library that does not load is an answer too
        traceback.print_exc()
        write({"error": f"{type(error).__name__}: {error}"})
        return
    write({"ok": greeting})
    for line in sys.stdin:
        write(worker.answer(json.loads(line)))


if __name__ == "__main__":
    main()
