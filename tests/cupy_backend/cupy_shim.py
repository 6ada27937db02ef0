"""Runs the CUDA programs on the CPU: builds them with g++ behind cupy_shim.h, calls them by ctypes.

Every call is checked as no GPU would: the arguments against the kernel's own parameter list, in
number, type and width. Arrays stand for device memory and are plain NumPy arrays here.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

HEADER = Path(__file__).with_name("cupy_shim.h")

# Contraction into fused multiply-adds as NVRTC does by default is left off: the shim is for the
# logic, and so rounds as NumPy does. An index beyond an array of known length, a shift beyond the
# width and an integer overflow are trapped.
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-w"]
FLAGS += ["-fsanitize=bounds-strict,shift,signed-integer-overflow,integer-divide-by-zero"]
FLAGS += ["-fsanitize-undefined-trap-on-error"]

REALS = {"float32": "float", "float64": "double"}

SCALARS = {
    "int": np.dtype("int32"),
    "uint32": np.dtype("uint32"),
    "int64": np.dtype("int64"),
    "uint64": np.dtype("uint64"),
    "float": np.dtype("float32"),
    "double": np.dtype("float64"),
    "uint8": np.dtype("uint8"),
}


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: str
    dtype: np.dtype
    pointer: bool
    const: bool

    @property
    def c_type(self) -> str:
        return f"{'const ' * self.const}{self.kind}{'*' * self.pointer}"

    @property
    def is_written(self) -> bool:
        return self.pointer and not self.const

    def passed(self, value: object, kernel: str) -> int | float:
        """An argument as the kernel gets it: an address, or a number of exactly its width."""
        where = f"{kernel}: argument {self.name}"
        if self.pointer and not isinstance(value, np.ndarray):
            is_null = isinstance(value, np.uint64) and value == 0
            assert is_null, f"{where} is {value!r}, not a pointer"
            return 0
        assert isinstance(value, np.ndarray | np.generic), (
            f"{where} is {value!r}: no width is known"
        )
        assert value.dtype == self.dtype, f"{where} is {value.dtype}, the kernel reads {self.dtype}"
        if not self.pointer:
            return value.item()
        assert value.flags.c_contiguous, f"{where} is not contiguous"
        return value.ctypes.data


def parameters_of(source: str, real: str) -> dict[str, list[Parameter]]:
    """The parameter list of every kernel in a source."""
    kernels = {}
    for name, text in re.findall(r"^KERNEL (\w+)\(([^)]*)\)", source, re.M):
        parameters = []
        for part in text.split(","):
            match = re.fullmatch(r"\s*(const )?(\w+)(\*?) (\w+)\s*", part)
            assert match, f"{name}: cannot read the parameter {part!r}"
            const, kind, star, argument = match.groups()
            dtype = SCALARS[real if kind == "real" else kind]
            parameters.append(Parameter(argument, kind, dtype, bool(star), bool(const)))
        kernels[name] = parameters
    return kernels


def dtype_of(options) -> str:
    """The floating type that a module's compile options choose."""
    (real,) = [option[len("-DREAL=") :] for option in options if option.startswith("-DREAL=")]
    return {value: key for key, value in REALS.items()}[real]


def compiler() -> str:
    """g++, or a skip with its reason; CI must have it."""
    found = shutil.which("g++")
    if found is None:
        reason = "g++ is not installed: kernels.cu cannot be run on the CPU"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def build(source: str, real: str, folder: Path) -> ctypes.CDLL:
    """Compile a source to a shared library, with a C entry for each kernel.

    Workers of a parallel run share a folder: one compiles, the others wait.
    """
    entries = []
    for name, parameters in parameters_of(source, real).items():
        fields = "".join(f"{p.c_type} a{i}; " for i, p in enumerate(parameters))
        arguments = ", ".join(f"a->a{i}" for i in range(len(parameters)))
        entries.append(
            f"struct Args_{name} {{ {fields} }};\n"
            f"static void body_{name}(void* p) "
            f"{{ auto* a = (Args_{name}*)p; {name}({arguments}); }}\n"
            f'extern "C" const char* shim_{name}(const unsigned* grid, const unsigned* block, '
            f"int backwards, int cooperative, size_t shared, void* args) "
            f"{{ return shim::launch(grid, block, backwards, cooperative, shared, "
            f"body_{name}, args); }}\n"
        )
    text = f'#include "{HEADER}"\n#line 1 "kernels.cu"\n{source}\n'
    text += "const int n_barriers = __COUNTER__;\n" + "".join(entries)
    whole = (text, HEADER.read_text(), real, *FLAGS)
    digest = hashlib.sha256("".join(whole).encode()).hexdigest()[:16]
    library = folder / f"{digest}.so"
    with library.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            cpp, part = library.with_suffix(".cpp"), library.with_suffix(".part")
            cpp.write_text(text)
            defines = [f"-DREAL={real}", *(["-DSTRICT"] if "struct Rounded" in source else [])]
            command = [compiler(), *FLAGS, *defines, str(cpp), "-o", str(part)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert result.returncode == 0, f"g++ refused kernels.cu:\n{result.stderr}"
            part.replace(library)
    return ctypes.CDLL(str(library))


def plant(source: str, faults: Iterable[tuple[str, str]]) -> str:
    """A source with all faults in it, each active where ``planted`` is its number, from 1 on.

    Parameters
    ----------
    faults
        Text of the source, and what takes its place: ``PLANTED`` is 1 where the fault is active.
    """
    for number, (sound, fault) in enumerate(faults, start=1):
        assert sound in source, sound
        source = source.replace(sound, fault.replace("PLANTED", f"(planted == {number})"))
    return source


RUNS = (("as chosen", False), ("as chosen", True), ("one block", False), ("one block", True))
"""How a checked launch is repeated: the grid, and whether threads and blocks go backwards.

A cooperative launch keeps its grid, which its arguments are made for.
"""


class Kernels:
    """All kernels of a source for one floating type.

    A checked launch runs four times on the same memory, as in :data:`RUNS`, and must give the
    same bits each time. Of two accesses that no barrier orders, each comes first in one direction:
    so a race within a block or between blocks shows as a difference, and so does a loop that needs
    a certain grid.

    Attributes
    ----------
    launched
        Names of the kernels launched so far.
    n_barriers
        Barriers in the source, which have numbers in its order.
    """

    def __init__(self, source: str, real: str, folder: Path) -> None:
        self.parameters = parameters_of(source, real)
        self._library = build(source, real, folder)
        self._entries = {name: self._entry(name) for name in self.parameters}
        self.n_barriers = ctypes.c_int.in_dll(self._library, "n_barriers").value
        self.launched: list[str] = []
        self.checked = False

    def _entry(self, name):
        ctype = {p: np.ctypeslib.as_ctypes_type(p.dtype) for p in self.parameters[name]}
        fields = [
            (f"a{i}", ctypes.c_void_p if p.pointer else ctype[p])
            for i, p in enumerate(self.parameters[name])
        ]
        entry = getattr(self._library, f"shim_{name}")
        entry.restype = ctypes.c_char_p
        return entry, type("Args", (ctypes.Structure,), {"_fields_": fields})

    def activate(self, *, planted: int = 0, left_out: int = -1) -> None:
        """Activate one planted fault, or leave out one barrier; neither by default."""
        ctypes.c_int.in_dll(self._library, "planted").value = planted
        ctypes.c_int.in_dll(self._library, "left_out").value = left_out

    def __call__(self, name, grid, block, args, *, shared=0, cooperative=False) -> None:
        self.launched.append(name)
        parameters = self.parameters[name]
        assert len(args) == len(parameters), (
            f"{name} takes {len(parameters)} arguments, got {len(args)}"
        )
        pairs = list(zip(parameters, args, strict=True))
        values = [parameter.passed(value, name) for parameter, value in pairs]
        options = {"shared": shared, "cooperative": cooperative}
        if not self.checked:
            self._run(name, grid, block, values, backwards=False, **options)
            return
        written = [a for p, a in pairs if p.is_written and isinstance(a, np.ndarray)]
        before = [array.copy() for array in written]
        results = []
        runs = RUNS[:2] if cooperative else RUNS
        for shape, backwards in runs:
            for array, saved in zip(written, before, strict=True):
                array[...] = saved
            chosen = grid if shape == "as chosen" else (1,)
            self._run(name, chosen, block, values, backwards, **options)
            results.append([array.tobytes() for array in written])
        for (shape, backwards), result in zip(runs[1:], results[1:], strict=True):
            assert result == results[0], (
                f"{name}: other results with the grid {shape} and threads "
                f"{'backwards' if backwards else 'forwards'}"
            )

    def _run(self, name, grid, block, values, backwards, *, shared, cooperative) -> None:
        entry, arguments = self._entries[name]
        three = ctypes.c_uint * 3
        failure = entry(
            three(*((*tuple(grid), 1, 1))[:3]),
            three(*((*tuple(block), 1, 1))[:3]),
            int(backwards),
            int(cooperative),
            ctypes.c_size_t(shared),
            ctypes.byref(arguments(*values)),
        )
        assert failure is None, f"{name}{grid}{block}: {failure.decode()}"
