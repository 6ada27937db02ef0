"""One contestant in a process of its own: reads commands from stdin, answers in JSON lines.

Started by channel.py, never by hand. It ends when its input does, so that it cannot outlive the
driver. What libraries print goes to stderr, where it cannot garble the answers.

======================================  ===========================================
``{"do": "check", task, material}``     parity figures
``{"do": "prepare", task, material}``   the same, then a call to warm up; and seconds
``{"do": "round", "number": n}``        seconds, samples, loss and accuracy
``{"do": "release"}``                   forget the task and its data
======================================  ===========================================
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

    from fusedmlp.bench.contract import Peer
    from fusedmlp.bench.runner import Runner


def confine(cpus: list[int]) -> None:
    """Keep this process on these CPUs, where the system can: before any library counts them."""
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


def answers() -> TextIO:
    """Take stdout for the answers and point everybody else's to stderr."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept


def load(target: str, threads: int, arguments: list[str]) -> Peer:
    """Import ``module:Class`` and set it up."""
    module, _, name = target.partition(":")
    peer: Peer = getattr(importlib.import_module(module), name)(threads, *arguments)
    return peer


def versions(peer: Peer) -> dict[str, str]:
    """Versions of the peer's libraries."""
    found = {}
    for package in ("numpy", *peer.packages):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


class Worker:
    """The commands."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._runner: Runner | None = None

    def answer(self, command: Mapping[str, object]) -> dict[str, object]:
        """Obey one command; an exception becomes an answer, and the worker lives on."""
        from fusedmlp.bench.contract import UnsupportedError

        try:
            match command["do"]:
                case "check":
                    return {"ok": self._checked(command)}
                case "prepare":
                    return {"ok": self._prepared(command)}
                case "round":
                    assert self._runner is not None, "a round before a task"
                    return {"ok": self._runner.round(int(str(command["number"])))}
                case "handover":
                    return {"ok": {"seconds": self._peer.handover()}}
                case "release":
                    self._runner = None
                    gc.collect()
                    return {"ok": {}}
                case other:
                    return {"error": f"no such command: {other}"}
        except UnsupportedError as reason:
            return {"unsupported": str(reason)}
        except Exception as error:  # noqa: BLE001 - whatever a library raises, the others go on
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"}

    def _checked(self, command: Mapping[str, object]) -> dict[str, object]:
        from fusedmlp.bench import material, runner
        from fusedmlp.bench.tasks import Task

        task = Task.from_dict(cast("Mapping[str, object]", command["task"]))
        self._runner = runner.limit_runner(self._peer, task)
        if self._runner is None:
            data = material.read(Path(str(command["material"])))
            self._runner = runner.runner(self._peer, task, data)
        return dict(self._runner.parity())

    def _prepared(self, command: Mapping[str, object]) -> dict[str, object]:
        began = time.perf_counter()
        found = self._checked(command)
        assert self._runner is not None
        self._runner.call(0)
        return found | {"prepare_seconds": time.perf_counter() - began}


def main() -> None:
    """Set up the contestant that the first argument describes, and serve until the input ends."""
    out = answers()
    wanted = json.loads(sys.argv[1])
    confine(wanted["cpus"])
    warnings.simplefilter("ignore")  # advice to the library's users, not to us

    def say(message: Mapping[str, object]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    try:
        peer = load(wanted["target"], wanted["threads"], wanted["arguments"])
        device, is_gpu = peer.device()
    except Exception as error:  # noqa: BLE001 - a library that does not load is an answer too
        traceback.print_exc()
        say({"error": f"{type(error).__name__}: {error}"})
        return
    worker = Worker(peer)
    say({"ok": {"versions": versions(peer), "device": device, "is_gpu": is_gpu}})
    for line in sys.stdin:
        say(worker.answer(json.loads(line)))


if __name__ == "__main__":
    main()
