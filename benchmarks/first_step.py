"""One process of the start-up measurement: imports a library, and takes a first training step.

Started by peers/startup.py as a file, since the imports are part of what is timed:

    python benchmarks/first_step.py '{"target": …, "threads": …, "arguments": …, "inputs": …, …}'
"""

from __future__ import annotations

import json
import pickle
import sys
import time
import warnings
from pathlib import Path


def memory_bytes(field):
    """Memory of this process: ``VmRSS`` now, ``VmHWM`` at most; 0 where the system cannot tell."""
    try:
        text = Path("/proc/self/status").read_text("ascii")
    except OSError:
        return 0
    line = next(line for line in text.splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def main():
    """Measure what the first argument describes; print one line of figures."""
    wanted, began = json.loads(sys.argv[1]), time.monotonic()
    from fusedmlp.bench.worker import load

    # Importing fusedmlp is part of the start of its own backends only.
    excluded = 0.0 if wanted["is_own"] else time.monotonic() - began
    warnings.simplefilter("ignore")
    adapter = load(wanted["target"], wanted["threads"], wanted["arguments"])
    imported = time.monotonic() - wanted["started"] - excluded
    before = memory_bytes("VmRSS")
    task, inputs = pickle.loads(Path(wanted["inputs"]).read_bytes())
    began = time.monotonic()
    adapter.training(task, inputs).first_steps(task.order(0)[: task.batch_size])
    first_call = time.monotonic() - began
    figures = {
        "first_call_seconds": first_call,
        "since_start_seconds": imported + first_call,
        "memory_bytes": memory_bytes("VmHWM") - before,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
