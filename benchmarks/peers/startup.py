"""Start-up of every subject on ``small``: first call, time to the first step, memory."""

from __future__ import annotations

import statistics

from fusedmlp.bench import startup
from fusedmlp.bench.prepare import named_rows, prepare
from fusedmlp.bench.subjects import PEAK
from fusedmlp.registry import backend_class
from workloads import SMALL

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


def run(subjects, document, rounds, say):
    """Measure every subject that trains, cold and warm, one after another in every round."""
    inputs = prepare(SMALL, named_rows, backend_class("numpy")())
    rows = {}
    present = []
    for subject in subjects:
        absence = subject.absence()
        if absence is not None:
            document["skipped"][subject.name] = absence
            say(f"{subject.name} is skipped: {absence}")
        elif subject.name not in (PEAK, "onnxruntime") and subject.takes(SMALL):
            present.append(subject)
    for _ in range(rounds):
        for found in startup.measure(present, SMALL, inputs, None, 1, say):
            key = found["peer"], found["threads"]
            row = rows.setdefault(key, {"peer": key[0], "threads": key[1]})
            _add(row, found)
    return list(rows.values())


def _add(row, found):
    if "failed" in found:
        row["failed"] = found["failed"]
        return
    phases, state = startup.phase_medians(found), found["state"]
    first_call = phases["compile"] + phases.get("stage", 0.0)
    figures = {
        f"{state}_first_call_seconds": first_call,
        f"{state}_since_start_seconds": phases["import"] + first_call,
        f"{state}_memory_bytes": found["memory_bytes"][0],
    }
    for key, value in figures.items():
        row.setdefault(key, []).append(value)


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
