"""Where workers wait for each other: a barrier that spins, and lets go when one has failed.

Only the meeting is here; what is done between two of them is in steps.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.constants import ARRIVED, FAILED, ROUND
from fusedmlp_numba.simd.intrinsics import atomic_add, atomic_load, yield_processor
from fusedmlp_numba.simd.views import INT64, array_at

if TYPE_CHECKING:
    from fusedmlp_numba.layout import EngineContext

SPINS: Final = 2000
"""Reads of the barrier before a waiting worker offers its processor: some microseconds."""


@kernel
def barrier(context: EngineContext, workers: int) -> bool:
    """Wait for all workers; False where one has failed, and the others should leave."""
    if workers == 1:
        return True
    sync = array_at(context.sync, INT64)
    current = atomic_load(sync, ROUND)
    if atomic_add(sync, ARRIVED, 1) == workers - 1:
        atomic_add(sync, ARRIVED, -workers)
        atomic_add(sync, ROUND, 1)
        return True
    spins = 0
    while atomic_load(sync, ROUND) == current:
        spins += 1
        if spins > SPINS:
            if atomic_load(sync, FAILED) != 0:
                return False
            yield_processor()
    return True
