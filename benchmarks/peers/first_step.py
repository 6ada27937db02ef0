"""One process of the startup measurement: to the first training step, then through an epoch.

Started by starting.py. Its harness needs fusedmlp for everybody; the time of that import is taken
off for the others.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path

from fusedmlp.bench.worker import answers, confine, load


def resident() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not tell."""
    return _status("VmRSS")


def most_resident() -> int:
    """Return the most it ever held."""
    found = _status("VmHWM")
    if found:
        return found
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(field: str) -> int:
    try:
        text = Path("/proc/self/status").read_text("ascii")
    except OSError:
        return 0
    line = next(line for line in text.splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Do what the first argument says and print one line of figures."""
    out = answers()
    wanted = json.loads(sys.argv[1])
    confine(wanted["cpus"])
    warnings.simplefilter("ignore")
    began = time.monotonic()
    from fusedmlp.bench import material
    from peers.tasks import SMALL

    harness = 0.0 if wanted["is_ours"] else time.monotonic() - began
    peer = load(wanted["target"], wanted["threads"], wanted["arguments"])
    imported = resident()
    data = material.read(Path(wanted["material"]))
    called = time.monotonic()
    training = peer.training(SMALL, data)
    training.first_steps(data.order[: SMALL.batch_size])
    stepped = time.monotonic()
    training.epoch(SMALL.order(0))
    found = {
        "first_call_seconds": stepped - called,
        "since_start_seconds": stepped - wanted["started"] - harness,
        "memory_bytes": most_resident() - imported,
    }
    out.write(json.dumps(found) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
