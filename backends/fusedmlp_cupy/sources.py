"""The CUDA programs as text, put together from the package's files, and how they are compiled.

Nothing is compiled here: see device.py.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from fusedmlp_cupy.strict import constants_source

if TYPE_CHECKING:
    from fusedmlp.types import FloatDtype

COMPILE_OPTIONS = ("--std=c++17", "-prec-div=true", "-prec-sqrt=true")
"""Given to NVRTC beside -DREAL; CuPy adds -ftz=true and the architecture. Never fast-math."""

STRICT_OPTIONS = (*COMPILE_OPTIONS, "-fmad=false")
"""Without fused multiply-adds; what -ftz=true means for strict mode is said in strict.cu."""

SHARED_BY_PERSISTENT = ("common.cu", "formulas.cu", "tiles.cu", "rows.cu")
"""What both persistent kernels begin with."""


def checks_source() -> str:
    """Text of ``checks.cu``."""
    return put_together("checks.cu")


def kernel_source(*, strict: bool = False) -> str:
    """Text of the engine's program; in strict mode ``strict.cu`` and its constants."""
    if strict:
        return put_together("common.cu") + constants_source() + put_together("strict.cu")
    return put_together("common.cu", "formulas.cu", "kernels.cu", "products.cu")


def persistent_source() -> str:
    """Text of the persistent kernel's program."""
    return put_together(*SHARED_BY_PERSISTENT, "persistent.cu")


def cluster_source() -> str:
    """Text of its form with clusters of blocks, which :func:`clustered` has options for."""
    return put_together(*SHARED_BY_PERSISTENT, "distributed.cu", "cluster.cu")


def clustered(size: int) -> tuple[str, ...]:
    """NVRTC options beside the others: how many blocks a cluster has."""
    return (f"-DCLUSTER={size}",)


def compile_options(dtype: FloatDtype, *, strict: bool = False) -> tuple[str, ...]:
    """NVRTC options for one floating type."""
    real = "float" if dtype == "float32" else "double"
    return (f"-DREAL={real}", *(STRICT_OPTIONS if strict else COMPILE_OPTIONS))


def put_together(*names: str) -> str:
    """Text of this package's files, each behind a line by which compilers' messages name it."""
    folder = files("fusedmlp_cupy")
    return "".join(
        f'#line 1 "{name}"\n{folder.joinpath(name).read_text(encoding="utf-8")}' for name in names
    )
