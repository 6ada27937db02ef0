"""What ``fusedmlp doctor`` finds out about this machine, as plain data.

Only facts that decide speed or explain a failure. Every part is read where it is, nothing is
installed or changed, and what cannot be found out is None.
"""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PACKAGES: Final = (
    "fusedmlp",
    "numpy",
    "numba",
    "llvmlite",
    "scipy",
    "scikit-learn",
    "safetensors",
    "threadpoolctl",
)

CUPY_PACKAGES: Final = ("cupy-cuda13x", "cupy-cuda12x", "cupy")
"""Names under which CuPy is published; at most one may be installed."""

VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "OPENBLAS_CORETYPE",
    "NUMBA_CPU_NAME",
    "NUMBA_CACHE_DIR",
    "NUMBA_DISABLE_JIT",
    "CUDA_VISIBLE_DEVICES",
)
"""Variables besides ``FUSEDMLP_…`` that change how fast or where things run."""

_GROUPS: Final = {"X86_V2": "SSE4.2", "X86_V3": "AVX2 and FMA", "X86_V4": "AVX-512"}

WIDE_FEATURES: Final = frozenset({"AVX512F", "AVX512_SKX", "X86_V4"})
"""Any of these means that 512-bit vectors are there."""

NARROW_KERNELS: Final = frozenset({"Haswell", "Zen", "Sandybridge", "Nehalem", "Prescott"})
"""OpenBLAS's names for kernels with vectors of 256 bits or fewer."""

Facts = dict[str, object]


def diagnose() -> Facts:
    """Collect everything, by topic; ``hints`` says what could be better."""
    features = cpu_features()
    blas = blas_libraries()
    return {
        "system": system(),
        "packages": package_versions(),
        "cpu": {
            "model": cpu_model(),
            "features": [readable_feature(name) for name in sorted(features)],
            **cores(),
        },
        "blas": blas,
        "gpu": gpu(),
        "folders": folders(),
        "variables": variables(os.environ),
        "hints": hints(features, blas, os.environ),
    }


def system() -> Facts:
    """Python, and what it runs on."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "os": f"{platform.system()} {platform.release()} ({platform.machine()})",
    }


def package_versions() -> dict[str, str | None]:
    """Versions from the packages' metadata, without importing them; None where not installed."""
    found = {name: _version(name) for name in PACKAGES}
    cupy = [f"{_version(name)} ({name})" for name in CUPY_PACKAGES if _version(name)]
    return found | {"cupy": ", ".join(cupy) or None}


def cpu_features() -> frozenset[str]:
    """Instruction sets of this CPU that NumPy was built to look for, and found."""
    extensions = np.show_config(mode="dicts").get("SIMD Extensions", {})
    return frozenset([*extensions.get("baseline", ()), *extensions.get("found", ())])


def readable_feature(name: str) -> str:
    """Say what is in one of NumPy's feature groups."""
    inside = _GROUPS.get(name)
    return f"{inside} ({name.replace('X86_V', 'x86-64-v')})" if inside else name


def cpu_model() -> str | None:
    """Name of the CPU, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or None


def cores() -> Facts:
    """CPUs of the machine, those that this process may use, and a container's time limit."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpus": os.cpu_count(), "usable": usable, "limit": cgroup_limit(Path("/sys/fs/cgroup"))}


def cgroup_limit(root: Path) -> float | None:
    """CPUs' worth of time that a container may use; None without a limit.

    Parameters
    ----------
    root
        Where control groups are mounted; version 2 and version 1 are read.
    """
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        return int(quota) / int(period) if int(quota) > 0 else None
    except (ValueError, ZeroDivisionError):  # "max" stands for no limit
        return None


def blas_libraries() -> list[Facts]:
    """Each BLAS that NumPy and SciPy load, with the kernels it chose and its threads."""
    import scipy.linalg  # noqa: F401 - loads SciPy's BLAS, which is then listed too
    from threadpoolctl import threadpool_info

    return [
        {
            "name": library["internal_api"],
            "used_by": _user_of(library["filepath"]),
            "version": library["version"],
            "kernels": library.get("architecture"),
            "threads": library["num_threads"],
            "file": library["filepath"],
        }
        for library in threadpool_info()
        if library["user_api"] == "blas"
    ]


def gpu() -> Facts:
    """State of every backend that has a device of its own, as its probe finds it."""
    from fusedmlp.errors import FusedMLPError
    from fusedmlp.registry import availability, backend_class

    found: Facts = {}
    for name, state in availability().items():
        if name in ("numpy", "numba"):
            continue
        facts: Facts = {"state": state.state, "detail": state.detail, "remedy": state.remedy}
        if state.state == "usable":
            try:
                device = backend_class(name)().device()
                facts |= {"device": device.description, **device.facts}
            except FusedMLPError as error:  # it went away since the probe
                facts |= {"state": "broken", "detail": str(error)}
        found[name] = facts
    return found


def folders() -> Facts:
    """Where data sets are kept and looked for."""
    from fusedmlp.datasets import default_cache_dir

    cache = default_cache_dir()
    cached = sorted(path.name for path in cache.iterdir()) if cache.is_dir() else []
    return {
        "cache": str(cache),
        "cached": cached,
        "data": os.environ.get("FUSEDMLP_DATA"),
    }


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables in force that fusedmlp, the BLAS libraries or Numba read."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if name.startswith("FUSEDMLP_") or name in VARIABLES
    }


def hints(features: Iterable[str], blas: list[Facts], environment: Mapping[str, str]) -> list[str]:
    """Say what would make this machine faster, one sentence each."""
    found = []
    narrow = [library for library in blas if library["kernels"] in NARROW_KERNELS]
    if narrow and WIDE_FEATURES & set(features) and "OPENBLAS_CORETYPE" not in environment:
        found.append(
            f"this CPU has AVX-512, but OpenBLAS runs its {narrow[0]['kernels']} kernels: "
            "set OPENBLAS_CORETYPE=SkylakeX for faster matrix products with the numpy backend"
        )
    if environment.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        found.append("NUMBA_DISABLE_JIT is set: the numba backend cannot compile; unset it")
    return found


def _user_of(path: str) -> str | None:
    for package in ("numpy", "scipy"):
        if package in Path(path).parent.name.lower():
            return package
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
