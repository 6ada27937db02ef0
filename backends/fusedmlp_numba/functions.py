"""The compiled functions that the engines call, for each floating type. Does not import Numba.

They are loaded from the object cache, or compiled when first needed: from network/entry_points.py,
and those of strict mode from strict_kernels.py.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from fusedmlp_numba.compiler.cached_function import CachedFunction
from fusedmlp_numba.constants import (
    APPLY_ARGUMENTS,
    ELEMENTWISE,
    RUN_ARGUMENTS,
    STRICT_ARGUMENTS,
)
from fusedmlp_numba.records import ENGINE_CONTEXTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.types import FloatDtype
    from fusedmlp_numba.compiler.cached_function import Numbers
    from fusedmlp_numba.compiler.object_cache import ObjectCode


def _cached(
    name: str, arguments: Numbers, build: Callable[[str, FloatDtype], ObjectCode]
) -> dict[FloatDtype, CachedFunction]:
    """Cache a function for each floating type."""
    return {
        dtype: CachedFunction(f"{name}_{dtype}", arguments, functools.partial(build, name, dtype))
        for dtype in ENGINE_CONTEXTS
    }


def _build(name: str, dtype: FloatDtype) -> ObjectCode:
    from fusedmlp_numba.network import entry_points  # imports Numba, which takes a second

    code: ObjectCode = getattr(entry_points, name)(dtype)
    return code


def _build_strict(name: str, dtype: FloatDtype) -> ObjectCode:
    from fusedmlp_numba import strict_kernels

    if name in ELEMENTWISE:
        return strict_kernels.elementwise(name, dtype)
    code: ObjectCode = getattr(strict_kernels, name)(dtype)
    return code


RUN: Final = _cached("run", RUN_ARGUMENTS, _build)
NARROW: Final = _cached("run_narrow", RUN_ARGUMENTS, _build)
APPLY: Final = _cached("apply", APPLY_ARGUMENTS, _build)

STRICT: Final = {
    name: _cached(name, arguments, _build_strict) for name, arguments in STRICT_ARGUMENTS.items()
}
"""Strict mode's, by their names."""
