"""How functions are compiled, and when compiled code on disk may be used again.

An engine's functions are compiled to object files, which object_cache.py keeps. Strict mode's
functions take arrays; Numba calls them and keeps them on disk. Hazard: Numba's cache checks the
file of the function that it loads, and not the files of the functions called from there
(numba#3588), so that old machine code would run after a change in a callee. Therefore only the few
functions that Python calls, the *entries*, are cached, under names with :data:`SOURCE_HASH`. Numba
itself adds its version and the CPU.
"""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

import numba

from fusedmlp_numba.compiler.object_cache import SOURCE_HASH, ObjectCode
from fusedmlp_numba.compiler.pipeline import EntryCompiler, KernelCompiler, ignore_literals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Dispatcher: TypeAlias = Any
    """Numba's compiled function."""

Function = TypeVar("Function", bound="Callable[..., Any]")

OPTIONS: Final = {"nogil": True, "error_model": "numpy"}
"""Without the GIL; and 1/0 is ∞ as in NumPy: Python's rule would put a branch in every loop."""

ENTRY_OPTIONS: Final = {**OPTIONS, "pipeline_class": EntryCompiler}

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
"""For what native.py calls: Python is not involved, nor is Numba."""


njit = cast("Callable[..., Callable[..., Dispatcher]]", numba.njit)
typeof = cast("Callable[[object], object]", numba.typeof)
"""Numba's types know only some of its options: these are the untyped doors."""


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

    Saves a tenth of the time. Of two threads that compile, the one that began first ends the pause.
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
    """Compile a function of numbers for :class:`~fusedmlp_numba.native.Native`.

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


class Entry:
    """A compiled function for Python to call; compiled ahead, for one signature after another.

    For functions of arrays, which Numba loads and calls: those of strict mode.

    Parameters
    ----------
    function
        A closure over :data:`STAMP`.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self._dispatcher = self._cached()

    def compile(self, *arguments: object) -> float:
        """Make sure that code for these arguments' types exists; return the seconds it took."""
        signature = tuple(typeof(argument) for argument in arguments)
        if signature in self._dispatcher.overloads:
            return 0.0
        start = time.perf_counter()
        with _no_collections():
            try:
                self._dispatcher.compile(signature)
            except Exception:  # noqa: BLE001 - a damaged file can raise anything that pickle can
                # A full disk, a damaged or half-written file: compile without one. Where the
                # sources are at fault, this raises the same error again.
                self._dispatcher = njit(**ENTRY_OPTIONS)(self._function)
                self._dispatcher.compile(signature)
        return time.perf_counter() - start

    def __call__(self, *arguments: object) -> None:
        """Run; compiles first where :meth:`compile` was not called for these types."""
        self._dispatcher(*arguments)

    def _cached(self) -> Dispatcher:
        if SOURCE_HASH is not None:
            try:
                return njit(cache=True, **ENTRY_OPTIONS)(self._function)
            except RuntimeError:
                pass  # Numba found no folder that it may write.
        return njit(**ENTRY_OPTIONS)(self._function)
