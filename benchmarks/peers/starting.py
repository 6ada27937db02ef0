"""How long one waits for the first step, and how much memory an epoch of ``small`` takes.

Every measurement is a process of its own (first_step.py). Cold means that compilers find their
caches on disk empty; warm, that the same process ran before.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.table import Table

from fusedmlp.bench import machine, material
from fusedmlp.bench.channel import TIMEOUT, environment, request
from fusedmlp.bench.contestants import PEAK
from peers.entrants import OWN
from peers.tasks import SMALL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fusedmlp.bench.contestants import Contestant
    from fusedmlp.bench.document import Document

FOLDER: Final = Path(__file__).resolve().parent.parent
"""Where first_step.py's package is found."""

CACHES: Final = ("NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR")

TITLES: Final = (
    "first call, cold",
    "first call, warm",
    "since process start, cold",
    "since process start, warm",
    "memory",
)
"""Columns of the table, after peer and threads."""

FIGURES: Final = ("first_call_seconds", "since_start_seconds", "memory_bytes")
"""What first_step.py answers."""


def run(
    contestants: Sequence[Contestant], document: Document, rounds: int, say: Callable[[str], None]
) -> list[dict[str, object]]:
    """Measure every contestant that trains, cold and warm, one after another in every round."""
    rows: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        material.write(SMALL, folder / "material")
        present = []
        for contestant in contestants:
            absence = contestant.absence()
            if absence is not None:
                document["skipped"][contestant.name] = absence
                say(f"{contestant.name} is skipped: {absence}")
            elif contestant.name not in (PEAK, "onnxruntime") and contestant.enters(SMALL):
                present.append(contestant)
        for number in range(rounds):
            for contestant in present:
                say(f"{contestant.label} …")
                row = rows.setdefault(
                    contestant.label, {"peer": contestant.name, "threads": contestant.threads}
                )
                caches = folder / f"{contestant.name}-{number}"
                for state in ("cold", "warm"):
                    _add(row, state, first_step(contestant, folder / "material", caches))
    return list(rows.values())


def first_step(contestant: Contestant, data: Path, caches: Path) -> dict[str, float] | str:
    """Run one process to its first step and through an epoch; text says what went wrong."""
    wanted = {
        **request(contestant, machine.usable_cpus()[: contestant.threads]),
        "material": str(data),
        "is_ours": contestant.name in OWN,
        "started": time.monotonic(),
    }
    modules = os.pathsep.join(filter(None, (str(FOLDER), os.environ.get("PYTHONPATH"))))
    own = {name: str(caches / name.lower()) for name in CACHES}
    for path in own.values():
        Path(path).mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "peers.first_step", json.dumps(wanted)],
        env=environment(contestant) | own | {"PYTHONPATH": modules},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(rows: Sequence[dict[str, object]]) -> Table:
    """Medians; memory is that of the warm process."""
    found = Table(title="small: first step, and memory", title_justify="left")
    for name in ("peer", "threads"):
        found.add_column(name)
    for title in TITLES:
        found.add_column(title, justify="right")
    for row in rows:
        found.add_row(*cells(row))
    return found


def cells(row: dict[str, object]) -> list[str]:
    """Return a row of the table: peer, threads, and a cell for each of TITLES."""
    found = [str(row["peer"]), str(row["threads"])]
    if "failed" in row:
        return [*found, str(row["failed"]), *[""] * (len(TITLES) - 1)]
    for key in ("first_call_seconds", "since_start_seconds"):
        found += [f"{_median(row, f'{state}_{key}'):.2f} s" for state in ("cold", "warm")]
    return [*found, f"{_median(row, 'warm_memory_bytes') / 1e6:,.0f} MB"]


def joined(rows: Iterable[dict[str, object]]) -> list[dict[str, object]]:
    """Join the rows of each peer and number of threads: one that has failed stays so."""
    found: dict[tuple[object, object], dict[str, object]] = {}
    for row in rows:
        own = found.setdefault((row["peer"], row["threads"]), {})
        for key, value in row.items():
            known = own.get(key, [])
            both = isinstance(known, list) and isinstance(value, list)
            own[key] = [*known, *value] if both else value
    return list(found.values())


def _add(row: dict[str, object], state: str, found: dict[str, float] | str) -> None:
    if isinstance(found, str):
        row["failed"] = found
        return
    for key in FIGURES:
        values = row.setdefault(f"{state}_{key}", [])
        assert isinstance(values, list)
        values.append(found[key])


def _median(row: dict[str, object], key: str) -> float:
    values = row.get(key)
    assert isinstance(values, list)
    return float(statistics.median(values))
