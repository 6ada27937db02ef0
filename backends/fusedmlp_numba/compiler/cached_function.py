"""Functions of numbers that are loaded from an object file, or else compiled. Needs no Numba.

LLVM's linker loads an object file in some milliseconds. Numba takes a second and 60 MB for its own
import and its tables, so it is imported only where a file is missing (jit.py). Where files are is
in object_cache.py.
"""

from __future__ import annotations

import ctypes
import functools
import time
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fusedmlp_numba.compiler import llvm, object_cache

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp_numba.compiler.object_cache import ObjectCode

NORMAL: Final = (0, -2)
"""What Numba's functions return where they raise nothing; -2 says that the result is None."""

Numbers: TypeAlias = "tuple[type[int] | type[float], ...]"
"""Types of a function's arguments: 64 bits each."""


class CachedFunction:
    """A compiled function of numbers, which runs without the GIL and returns nothing.

    Parameters
    ----------
    name
        Its own, among all of the package.
    arguments
        The type of each argument, ``int`` (64 bits) or ``float``.
    build
        Compiles it; called where there is no code on disk.
    """

    def __init__(self, name: str, arguments: Numbers, build: Callable[[], ObjectCode]) -> None:
        self._name = name
        self._arguments = arguments
        self._build = build
        self._function: Callable[..., object] | None = None

    def is_on_disk(self) -> bool:
        """Whether :meth:`compile` will need no compiler."""
        return self._function is not None or object_cache.read(self._name) is not None

    def compile(self) -> float:
        """Load the function, or compile it; return the seconds it took, 0 where it was there."""
        if self._function is not None:
            return 0.0
        start = time.perf_counter()
        with llvm.LOCK:
            if self._function is not None:  # another thread was faster
                return 0.0
            code = object_cache.read(self._name)
            is_new = code is None
            if code is None:
                code = self._build()
            self._function = self._load(code)
        # Last, because a warning may be an error: the function is there at the next call.
        if is_new:
            object_cache.write(self._name, code)
        else:
            object_cache.warn_of_other_users()
        return time.perf_counter() - start

    @property
    def function(self) -> Callable[..., object]:
        """The function; loaded or compiled first where it is not yet."""
        self.compile()
        assert self._function is not None
        return self._function

    def _load(self, code: ObjectCode) -> Callable[..., object]:
        self._owner, address = llvm.link(code.symbol, code.binary)
        # Numba's functions take two addresses first: where to write what they return, which is
        # nothing here, and what they raise.
        kinds = [ctypes.c_int64 if each is int else ctypes.c_double for each in self._arguments]
        prototype = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *kinds)
        self._results = (ctypes.c_void_p * 2)()
        place = ctypes.addressof(self._results)
        function: Any = prototype(address)
        function.errcheck = self._check
        return functools.partial(function, place, place + ctypes.sizeof(ctypes.c_void_p))

    def _check(self, status: int, _function: object, _arguments: object) -> None:
        """Raise where the compiled code did: no kernel should, and none may do so unheard."""
        if status not in NORMAL:
            raise RuntimeError(
                f"compiled code of {self._name} ended with status {status}, not one of {NORMAL}: "
                "please report this, it is a fault of fusedmlp"
            )
