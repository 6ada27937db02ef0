"""The committed documents by machine: what the page of results and its charts are made from.

Every folder of benchmarks/results with a ``run-1.json`` is a machine: its runs, and perhaps
``startup*.json``, ``estimators.json``, and a ``bench.json`` of ``fusedmlp bench --json``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from fusedmlp.bench import document

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"

VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}
"""Names of vector extensions, the widest first."""


@dataclass(frozen=True)
class Machine:
    """The documents of one machine.

    Parameters
    ----------
    runs, startups
        Documents of ``nox -s benchmarks -- peers`` and of its mode ``startup``.
    estimators
        Seconds by task and implementation, of ``benchmarks/estimators.py``; may be empty.
    bench
        A document of ``fusedmlp bench --json`` over widths and batch sizes, or None.
    """

    name: str
    runs: list
    startups: list
    estimators: dict
    bench: dict | None = None

    @property
    def title(self):
        """CPU with family and model, cores and vectors: processors of one name differ in both."""
        about = self.runs[0]["machine"]
        vectors = next((v for f, v in VECTORS.items() if f in about["vector_features"]), "")
        cpu = re.sub(r"\(R\)|\bProcessor\b", "", about["cpu"]).strip()
        match about.get("family", "").split():  # vendor, family, model, stepping
            case [_, family, model, *_]:
                cpu += f" (family {family}, model {model})"
        parts = [cpu, f"{about['cores']} core{'s' * (about['cores'] > 1)}", vectors]
        return ", ".join(filter(None, parts))

    @property
    def days(self):
        """First and last day of the runs, or the only one."""
        days = sorted({run["date"][:10] for run in self.runs})
        return " to ".join(dict.fromkeys((days[0], days[-1])))


def machines(folder=RESULTS):
    """Read all documents, ordered by the machine's name."""
    return [_machine(path.parent) for path in sorted(folder.glob("*/run-1.json"))]


def _machine(folder):
    def all_of(pattern):
        return [document.read(path) for path in sorted(folder.glob(pattern))]

    path = folder / "estimators.json"
    estimators = json.loads(path.read_text("utf-8")) if path.exists() else {}
    bench = next(iter(all_of("bench.json")), None)
    return Machine(folder.name, all_of("run-*.json"), all_of("startup*.json"), estimators, bench)


def measured_most(found):
    """Return the machine with the most runs: the one that charts of a single machine show."""
    return max(found, key=lambda machine: (len(machine.startups), len(machine.runs)))


def values(documents, value):
    """Return the value of each document that has it."""
    return [found for each in documents if (found := value(each)) is not None]
