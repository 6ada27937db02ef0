"""Start-up of every subject on ``small``: first call, time to the first step, memory.

Each measurement is a process of its own, first_step.py. Cold means that the compilers' caches on
disk are empty; warm, that the same process has run before.
"""

from __future__ import annotations

import json
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from fusedmlp.bench.prepare import prepare
from fusedmlp.bench.subjects import PEAK, is_own
from fusedmlp.bench.worker import TIMEOUT, inherited
from fusedmlp.registry import backend_class
from workloads import SMALL, rows_of

TITLES = (
    "first call, cold",
    "first call, warm",
    "process start to first step, cold",
    "process start to first step, warm",
    "memory above the imports",
)
KEYS = (
    "cold_first_call_seconds",
    "warm_first_call_seconds",
    "cold_since_start_seconds",
    "warm_since_start_seconds",
    "warm_memory_bytes",
)

PROCESS = Path(__file__).resolve().parents[1] / "first_step.py"

CACHES = (
    "NUMBA_CACHE_DIR",
    "CUPY_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "JAX_COMPILATION_CACHE_DIR",
)


def run(subjects, document, rounds, say):
    """Measure every subject that trains, cold and warm, one after another in every round.

    Returns
    -------
    A row for each subject: ``peer``, ``threads`` and a list for each state and figure, with one
    number for each round; or ``failed`` and why.
    """
    present = []
    for subject in subjects:
        absence = subject.absence()
        if absence is not None:
            document["skipped"][subject.name] = absence
            say(f"{subject.name} is left out: {absence}")
        elif subject.name not in (PEAK, "onnxruntime") and subject.variant is None:
            present.append(subject)
    rows = {each.label: {"peer": each.name, "threads": each.threads} for each in present}
    with tempfile.TemporaryDirectory() as name:
        inputs = Path(name, "inputs")
        made = prepare(SMALL, rows_of, backend_class("numpy")())
        inputs.write_bytes(pickle.dumps((SMALL, made)))
        for subject in present * rounds:
            with tempfile.TemporaryDirectory() as caches:
                for state in ("cold", "warm"):
                    _measure(subject, state, inputs, Path(caches), rows[subject.label])
    for row in rows.values():
        if "failed" in row:
            say(f"{row['peer']} failed: {row['failed']}")
    return list(rows.values())


def _measure(subject, state, inputs, caches, row):
    """Run one process, and add its figures to the row, or what went wrong."""
    own = {name: str(caches / name.lower()) for name in CACHES}
    for folder in own.values():
        Path(folder).mkdir(exist_ok=True)
    wanted = {
        "target": subject.target,
        "threads": subject.threads,
        "arguments": subject.arguments,
        "is_own": is_own(subject.name),
        "inputs": str(inputs),
        "started": time.monotonic(),
    }
    prepared = replace(subject, environment={**subject.environment, **own})
    with ExitStack() as stack:
        with inherited(prepared):
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, str(PROCESS), json.dumps(wanted)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        stack.callback(process.kill)
        try:
            printed, errors = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            row["failed"] = f"no end after {TIMEOUT:g} s"
            return
    if process.returncode:
        row["failed"] = (errors.strip().splitlines() or ["no output"])[-1]
        return
    for name, value in json.loads(printed.splitlines()[-1]).items():
        row.setdefault(f"{state}_{name}", []).append(value)


def joined(rows):
    """Join the rows of each subject and number of threads, from several documents."""
    found = {}
    for row in rows:
        own = found.setdefault((row["peer"], row["threads"]), {})
        for key, value in row.items():
            both = isinstance(own.get(key), list) and isinstance(value, list)
            own[key] = [*own[key], *value] if both else value
    return list(found.values())


def cells(row):
    """Return a row of the table: subject, threads, and a cell for each of TITLES."""
    head = [str(row["peer"]), str(row["threads"])]
    if "failed" in row:
        return [*head, str(row["failed"]), *[""] * (len(TITLES) - 1)]
    *seconds, memory = (statistics.median(row[key]) for key in KEYS)
    return [*head, *(f"{each:.2f} s" for each in seconds), f"{memory / 1e6:,.0f} MB"]
