"""The processor that kernels are compiled for: the host, or the one in Numba's variables.

LLVM detects it. Numba is not imported, because code on disk is chosen by the processor before it is
known whether anything must be compiled.
"""

from __future__ import annotations

import os
from typing import Final

from fusedmlp_numba.compiler import llvm


def cpu_name() -> str:
    """LLVM's name of the processor; ``NUMBA_CPU_NAME`` says another."""
    return os.environ.get("NUMBA_CPU_NAME") or llvm.host().cpu


def cpu_features() -> str:
    """LLVM's list of what it has, ``+avx2,-avx512f,…``; ``NUMBA_CPU_FEATURES`` says another."""
    asked = os.environ.get("NUMBA_CPU_FEATURES")
    if asked or cpu_name() == "generic":
        return asked or ""
    features = llvm.host().features
    if os.environ.get("NUMBA_ENABLE_AVX") == "0":
        features = {k: v and not k.startswith("avx") for k, v in features.items()}
    return ",".join(f"{'+' if has else '-'}{name}" for name, has in sorted(features.items()))


def _vector_bytes(features: frozenset[str]) -> int:
    """Bytes of a vector; ``FUSEDMLP_VECTOR_BYTES`` says others, to test them on this machine.

    LLVM splits vectors that are longer than the registers, so that the bits are the same.
    """
    if asked := os.environ.get("FUSEDMLP_VECTOR_BYTES"):
        if asked not in ("16", "32", "64"):
            raise ValueError(f"FUSEDMLP_VECTOR_BYTES={asked!r}: give 16, 32 or 64, or unset it")
        return int(asked)
    if "+avx512f" in features:
        return 64
    return 32 if {"+avx2", "+fma"} <= features else 16


VECTOR_BYTES: Final = _vector_bytes(
    frozenset(cpu_features().split(",")) if cpu_name() != "generic" else frozenset()
)
"""Bytes of a vector, by default of a register: AVX-512, AVX2, and SSE2 or NEON."""

IN_PLACE: Final = VECTOR_BYTES < 64
"""Whether products can read rows of a data set wherever they lie: each row of a tile (tiles.py)
then has an address of its own. The 12 rows of AVX-512's tiles would need more of them than there
are registers for addresses, so rows are copied there."""

VECTORS: Final = 2
"""Vector registers side by side in a panel."""

CACHE_LINE: Final = 64
"""Bytes that processors load and store together."""


def panel_columns(itemsize: int) -> int:
    """Columns of a panel for a floating type of ``itemsize`` bytes."""
    return VECTORS * VECTOR_BYTES // itemsize
