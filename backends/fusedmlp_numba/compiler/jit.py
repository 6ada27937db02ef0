"""How functions are compiled: kernels, and the entries that are kept as object files.

Only the few functions that Python calls, the *entries*, are kept on disk (object_cache.py), each
with all kernels that it calls.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

import numba

from fusedmlp_numba.compiler.object_cache import ObjectCode
from fusedmlp_numba.compiler.pipeline import EntryCompiler, KernelCompiler, ignore_literals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Dispatcher: TypeAlias = Any
    """Numba's compiled function."""

Function = TypeVar("Function", bound="Callable[..., Any]")

OPTIONS: Final = {"nogil": True, "error_model": "numpy"}
"""Without the GIL; and 1/0 is ∞ as in NumPy: Python's rule would put a branch in every loop."""

KERNEL_OPTIONS: Final = {
    **OPTIONS,
    "pipeline_class": KernelCompiler,
    "_nrt": False,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
"""Kernels allocate nothing and are not called from Python: leaving out reference counts and the
wrappers for other callers halves the time to compile."""

NATIVE_OPTIONS: Final = {**KERNEL_OPTIONS, "pipeline_class": EntryCompiler}
"""For what cached_function.py calls: Python is not involved, nor is Numba."""


njit = cast("Callable[..., Callable[..., Dispatcher]]", numba.njit)
"""Numba's types know only some of its options."""


def kernel(function: Function, *, inline: bool = False) -> Function:
    """Compile a function that other compiled functions call; its static type stays.

    Parameters
    ----------
    inline
        Whether it becomes a part of each caller, whatever its size.
    """
    options = {**KERNEL_OPTIONS, "forceinline": inline}
    return cast("Function", ignore_literals(njit(**options)(function)))


@contextmanager
def _no_collections() -> Iterator[None]:
    """Pause Python's search for cycles: what a compiler builds stays, and is searched for nothing.

    Saves a tenth of the time.
    """
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()


def object_code(
    function: Callable[..., None], arguments: tuple[type[int] | type[float], ...]
) -> ObjectCode:
    """Compile a function of numbers; cached_function.py calls it.

    Parameters
    ----------
    function
        An entry, which calls kernels and returns nothing.
    arguments
        The type of each argument: int64 for ``int``, float64 for ``float``.
    """
    kinds = {int: numba.types.int64, float: numba.types.float64}
    dispatcher = njit(**NATIVE_OPTIONS)(function)
    with _no_collections():
        dispatcher.compile(tuple(kinds[each] for each in arguments))
    (result,) = dispatcher.overloads.values()
    return ObjectCode(result.fndesc.llvm_func_name, result.library.object_file())
