"""Facts about this machine for ``fusedmlp doctor``, as plain data.

They are facts that decide speed or explain a failure. Nothing is installed or changed; what cannot
be found out is None.
"""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict

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
"""Variables besides ``FUSEDMLP_…`` that change the speed or the device of computations."""

_GROUPS: Final = {"X86_V2": "SSE4.2", "X86_V3": "AVX2 and FMA", "X86_V4": "AVX-512"}

WIDE_FEATURES: Final = frozenset({"AVX512F", "AVX512_SKX", "X86_V4"})
"""Each of these features implies vectors of 512 bits."""

NARROW_KERNELS: Final = frozenset({"Haswell", "Zen", "Sandybridge", "Nehalem", "Prescott"})
"""OpenBLAS's names for kernels with vectors of 256 bits or fewer."""


class System(TypedDict):
    """Python, and what it runs on."""

    python: str
    implementation: str
    executable: str
    os: str


class Cores(TypedDict):
    """CPUs of the machine, those that this process may use, and a container's time limit."""

    cpus: int | None
    usable: int | None
    limit: float | None


class Cpu(Cores):
    """The processor."""

    model: str | None
    features: list[str]


class BlasLibrary(TypedDict):
    """A BLAS that NumPy or SciPy has loaded, the kernels that it chose, and its threads."""

    name: str
    used_by: str | None
    version: str | None
    kernels: str | None
    threads: int
    file: str


class Folders(TypedDict):
    """Where data sets are kept and looked for.

    ``cached`` is None where the cache cannot be read; ``cache_problem`` then says why.
    """

    cache: str
    cached: list[str] | None
    cache_problem: str | None
    data: str | None


class Diagnosis(TypedDict):
    """Everything; ``hints`` are sentences on what could be better."""

    system: System
    packages: dict[str, str | None]
    cpu: Cpu
    blas: list[BlasLibrary]
    gpu: dict[str, dict[str, object]]
    folders: Folders
    variables: dict[str, str]
    hints: list[str]


def diagnose() -> Diagnosis:
    """Collect all facts, by topic."""
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
        "hints": hints(features, [library["kernels"] for library in blas], os.environ),
    }


def system() -> System:
    """Describe Python and the operating system."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "os": f"{platform.system()} {platform.release()} ({platform.machine()})",
    }


def package_versions() -> dict[str, str | None]:
    """Read versions from the packages' metadata, without importing them; None: not installed."""
    found = {name: _version(name) for name in PACKAGES}
    cupy = [f"{_version(name)} ({name})" for name in CUPY_PACKAGES if _version(name)]
    return found | {"cupy": ", ".join(cupy) or None}


def cpu_features() -> frozenset[str]:
    """Return the instruction sets that NumPy detects on this CPU."""
    extensions = np.show_config(mode="dicts").get("SIMD Extensions", {})
    return frozenset([*extensions.get("baseline", ()), *extensions.get("found", ())])


def readable_feature(name: str) -> str:
    """Name the instruction sets in one of NumPy's feature groups."""
    inside = _GROUPS.get(name)
    return f"{inside} ({name.replace('X86_V', 'x86-64-v')})" if inside else name


def cpu_model() -> str | None:
    """Return the name of the CPU, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or None


def cores() -> Cores:
    """Count the CPUs of the machine and of this process."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpus": os.cpu_count(), "usable": usable, "limit": cgroup_limit(Path("/sys/fs/cgroup"))}


def cgroup_limit(root: Path) -> float | None:
    """Return a container's limit of CPU time per unit of time, in CPUs; None without a limit.

    Parameters
    ----------
    root
        Folder where control groups are mounted; version 2 and version 1 are read.
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


def blas_libraries() -> list[BlasLibrary]:
    """List the BLAS libraries that NumPy and SciPy load."""
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


def gpu() -> dict[str, dict[str, object]]:
    """Probe every backend that has a device of its own."""
    from fusedmlp.errors import FusedMLPError
    from fusedmlp.registry import availability, backend_class

    found = {}
    for name, state in availability().items():
        if name in ("numpy", "numba"):
            continue
        facts: dict[str, object] = {
            "state": state.state,
            "detail": state.detail,
            "remedy": state.remedy,
        }
        if state.state == "usable":
            try:
                device = backend_class(name)().device()
                facts |= {"device": device.description, **device.facts}
            except FusedMLPError as error:  # the device disappeared after the probe
                facts |= {"state": "broken", "detail": str(error)}
        found[name] = facts
    return found


def folders() -> Folders:
    """Return the folders of data sets."""
    from fusedmlp.errors import StorageError
    from fusedmlp.io.cache_folders import default_cache_dir, names_in

    cache = default_cache_dir()
    cached, problem = None, None
    try:
        cached = names_in(cache)
    except StorageError as error:
        problem = str(error)
    return {
        "cache": str(cache),
        "cached": cached,
        "cache_problem": problem,
        "data": os.environ.get("FUSEDMLP_DATA"),
    }


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are set and that fusedmlp, a BLAS library or Numba reads."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if name.startswith("FUSEDMLP_") or name in VARIABLES
    }


def hints(
    features: Iterable[str], kernels: Iterable[str | None], environment: Mapping[str, str]
) -> list[str]:
    """Return sentences on what would make this machine faster.

    Parameters
    ----------
    features
        Instruction sets of the CPU.
    kernels
        OpenBLAS's names of the kernels in use.
    """
    found = []
    narrow = [name for name in kernels if name in NARROW_KERNELS]
    if narrow and WIDE_FEATURES & set(features) and "OPENBLAS_CORETYPE" not in environment:
        found.append(
            f"this CPU has AVX-512, but OpenBLAS runs its {narrow[0]} kernels: "
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
