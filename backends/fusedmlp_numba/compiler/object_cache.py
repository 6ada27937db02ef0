"""Compiled code on disk, as object files that load without Numba. Nothing is compiled here.

LLVM's linker loads an object file in some milliseconds. Numba takes a second and 60 MB for its own
import and its tables, so it is imported only where a file is missing (jit.py). A file's name has a
hash of all sources of this package and of fusedmlp.reference.arithmetic, and a hash of the
processor, of the compiler's version and of its settings.

The folder is ``NUMBA_CACHE_DIR``, else ``__pycache__``, else the user's cache. With a folder that
cannot be written, or a damaged file, the code is compiled again in each process.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from llvmlite import binding as untyped_binding

from fusedmlp.backend import MAX_ROW_LOSS
from fusedmlp.errors import StorageError
from fusedmlp.io.atomic import write_atomically
from fusedmlp.reference import arithmetic as strict
from fusedmlp_numba.compiler.host import cpu_features, cpu_name

if TYPE_CHECKING:
    from collections.abc import Callable

binding: Any = untyped_binding

SETTINGS: Final = ("NUMBA_OPT", "NUMBA_LOOP_VECTORIZE", "NUMBA_SLP_VECTORIZE", "NUMBA_BOUNDSCHECK")
"""Numba's variables that change what it compiles, beside those of host.py."""

NORMAL: Final = (0, -2)
"""What Numba's functions return where they raise nothing; -2 says that the result is None."""

PACKAGE: Final = Path(__file__).parents[1]

DIGITS: Final = 16
"""Hexadecimal digits of each hash in a file's name."""


class ObjectCode(NamedTuple):
    """An object file, and the name of the function in it."""

    symbol: str
    binary: bytes


Numbers: TypeAlias = "tuple[type[int] | type[float], ...]"
"""Types of a function's arguments: 64 bits each."""


def _source_hash() -> str | None:
    """Hash of all sources that compiled code is made of; None where there are none to read."""
    digest = hashlib.sha256(repr(MAX_ROW_LOSS).encode())
    own, shared = sorted(PACKAGE.rglob("*.py")), Path(strict.__file__)
    try:
        for source in (*own, shared):
            digest.update(source.read_bytes())
    except OSError:
        return None
    return digest.hexdigest()


SOURCE_HASH: Final = _source_hash()


def _machine() -> str:
    """Hash of what else compiled code depends on."""
    versions = [metadata.version(name) for name in ("numba", "llvmlite")]
    host = binding.get_process_triple(), cpu_name(), cpu_features()
    settings = [os.environ.get(name, "") for name in SETTINGS]
    return hashlib.sha256("\n".join([*versions, *host, *settings]).encode()).hexdigest()


def _folders() -> tuple[Path, ...]:
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return (Path(chosen),)
    from fusedmlp.datasets.cache import default_cache_dir

    return PACKAGE / "__pycache__", default_cache_dir() / "compiled"


def read(name: str) -> ObjectCode | None:
    """Return a function's code for this machine and these sources; None where there is none."""
    if SOURCE_HASH is None:
        return None
    for folder in _folders():
        try:
            content = (folder / _file_name(name, SOURCE_HASH)).read_bytes()
        except OSError:
            continue
        digest, _, rest = content.partition(b"\n")
        if hashlib.sha256(rest).hexdigest().encode() == digest:
            symbol, _, binary = rest.partition(b"\n")
            return ObjectCode(symbol.decode(), binary)
    return None


def write(name: str, code: ObjectCode) -> None:
    """Keep a function's code, in place of what other sources were compiled to, where possible."""
    if SOURCE_HASH is None:
        return
    content = code.symbol.encode() + b"\n" + code.binary
    content = hashlib.sha256(content).hexdigest().encode() + b"\n" + content
    for folder in _folders():
        path = folder / _file_name(name, SOURCE_HASH)
        try:
            write_atomically(path, content)
        except (OSError, StorageError):
            continue
        for other in folder.glob(_file_name(name, "*")):
            # One that cannot be removed takes room and does no harm.
            with contextlib.suppress(OSError):
                if other != path:
                    other.unlink()
        return


def _file_name(name: str, sources: str) -> str:
    return f"{name}-{_machine()[:DIGITS]}-{sources[:DIGITS]}.o"


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
        self._lock = threading.Lock()
        self._function: Callable[..., object] | None = None

    def is_on_disk(self) -> bool:
        """Whether :meth:`compile` will need no compiler."""
        return self._function is not None or read(self._name) is not None

    def compile(self) -> float:
        """Load the function, or compile it; return the seconds it took, 0 where it was there."""
        start = time.perf_counter()
        with self._lock:
            if self._function is not None:
                return 0.0
            code = read(self._name)
            if code is None:
                code = self._build()
                write(self._name, code)
            self._function = self._load(code)
        return time.perf_counter() - start

    @property
    def function(self) -> Callable[..., object]:
        """The function; loaded or compiled first where it is not yet."""
        self.compile()
        assert self._function is not None
        return self._function

    def _load(self, code: ObjectCode) -> Callable[..., object]:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        machine = binding.Target.from_triple(binding.get_process_triple()).create_target_machine()
        # Owns the memory of the code.
        self._engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
        self._engine.add_object_file(binding.ObjectFileRef.from_data(code.binary))
        self._engine.finalize_object()
        address = self._engine.get_function_address(code.symbol)
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
