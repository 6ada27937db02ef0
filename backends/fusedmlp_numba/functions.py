"""The compiled functions that the engine calls, for each floating type. Does not import Numba.

They are loaded from the object cache, or compiled from network/entry_points.py when first needed.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from fusedmlp_numba.compiler.object_cache import CachedFunction, ObjectCode
from fusedmlp_numba.constants import APPLY_ARGUMENTS, RUN_ARGUMENTS
from fusedmlp_numba.records import ENGINE_CONTEXTS

if TYPE_CHECKING:
    from fusedmlp.types import FloatDtype


def _cached(
    name: str, arguments: tuple[type[int] | type[float], ...]
) -> dict[FloatDtype, CachedFunction]:
    """Cache a function of entry_points.py for each floating type."""
    return {
        dtype: CachedFunction(f"{name}_{dtype}", arguments, functools.partial(_build, name, dtype))
        for dtype in ENGINE_CONTEXTS
    }


def _build(name: str, dtype: FloatDtype) -> ObjectCode:
    from fusedmlp_numba.network import entry_points  # imports Numba, which takes a second

    code: ObjectCode = getattr(entry_points, name)(dtype)
    return code


RUN: Final = _cached("run", RUN_ARGUMENTS)
NARROW: Final = _cached("run_narrow", RUN_ARGUMENTS)
APPLY: Final = _cached("apply", APPLY_ARGUMENTS)
