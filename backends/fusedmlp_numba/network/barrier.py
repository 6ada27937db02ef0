"""A spinning barrier for the workers of one call, which fails when one of them has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.constants import ARRIVED, FAILED, ROUND
from fusedmlp_numba.simd.intrinsics import atomic_add, atomic_load, yield_processor
from fusedmlp_numba.simd.views import INT64, array_at

if TYPE_CHECKING:
    from fusedmlp_numba.records import EngineContext

SPINS: Final = 2000
"""Reads of the counter before a waiting worker yields its processor: some microseconds."""


@kernel
def barrier(context: EngineContext, workers: int) -> bool:
    """Wait for all workers; return False where one has failed, and the others should return."""
    if workers == 1:
        return True
    counters = array_at(context.work.barrier, INT64)
    current = atomic_load(counters, ROUND)
    if atomic_add(counters, ARRIVED, 1) == workers - 1:
        atomic_add(counters, ARRIVED, -workers)
        atomic_add(counters, ROUND, 1)
        return True
    spins = 0
    while atomic_load(counters, ROUND) == current:
        spins += 1
        if spins > SPINS:
            if atomic_load(counters, FAILED) != 0:
                return False
            yield_processor()
    return True
