"""The measuring machine: model, caches and features, and which CPUs are cores of their own."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Final

_SYSTEM: Final = Path("/sys/devices/system/cpu")


def usable_cpus() -> list[int]:
    """CPUs that this process may use, one of each physical core first."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    cpus = sorted(os.sched_getaffinity(0))
    first = [cpu for cpu in cpus if cpu == min({*_siblings(cpu)} & {*cpus}, default=cpu)]
    return first + [cpu for cpu in cpus if cpu not in first]


def n_cores() -> int:
    """Physical cores that this process may use; all CPUs where the system cannot tell."""
    cpus = usable_cpus()
    if not cpus:
        return os.cpu_count() or 1
    return len({min(_siblings(cpu), default=cpu) for cpu in cpus})


def thread_counts() -> list[int]:
    """Return 1, 2, 4, … up to the physical cores."""
    most = n_cores()
    return [*(1 << i for i in range((most - 1).bit_length())), most]


def describe() -> dict[str, object]:
    """Collect model, cores, caches, features and system."""
    info = _cpuinfo()
    flags = (info.get("flags") or info.get("Features") or "").split()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "family": " ".join(
            info[key] for key in ("vendor_id", "cpu family", "model", "stepping") if key in info
        ),
        "cores": n_cores(),
        "cpus": len(usable_cpus()) or os.cpu_count(),
        "caches": _caches(),
        "vector_features": [f for f in ("avx2", "fma", "avx512f", "asimd", "sve") if f in flags],
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _siblings(cpu: int) -> list[int]:
    """Hardware threads of this CPU's core."""
    try:
        text = (_SYSTEM / f"cpu{cpu}/topology/thread_siblings_list").read_text("ascii")
    except OSError:
        return [cpu]
    found: list[int] = []
    for part in text.strip().split(","):
        low, _, high = part.partition("-")
        found += range(int(low), int(high or low) + 1)
    return found


def _caches() -> dict[str, str]:
    found = {}
    for index in sorted((_SYSTEM / "cpu0/cache").glob("index*")):
        try:
            level, kind, size = (
                (index / name).read_text("ascii").strip() for name in ("level", "type", "size")
            )
        except OSError:
            continue
        found[f"L{level} {kind.lower()}"] = size
    return found
