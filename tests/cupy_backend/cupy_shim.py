"""Runs the CUDA programs on the CPU: builds them with g++ behind cupy_shim.h, calls them by ctypes.

Every call is checked as no GPU would: the arguments against the kernel's own parameter list, in
number, type and width. Arrays stand for device memory and are plain NumPy arrays here.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HEADER = Path(__file__).with_name("cupy_shim.h")

PATIENCE = 300.0
"""Seconds to wait for another worker's compiler."""

# Contraction into fused multiply-adds as NVRTC does by default is left off: the shim is for the
# logic, and so rounds as NumPy does.
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-w"]

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
CTYPES = {
    "int32": ctypes.c_int32,
    "uint32": ctypes.c_uint32,
    "int64": ctypes.c_int64,
    "uint64": ctypes.c_uint64,
    "float32": ctypes.c_float,
    "float64": ctypes.c_double,
}


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: str
    dtype: np.dtype
    pointer: bool
    const: bool


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


def defines(source: str, real: str) -> list[str]:
    """The macros that NVRTC would be given for a source."""
    return [f"-DREAL={real}", *(["-DSTRICT"] if "struct Rounded" in source else [])]


def build(source: str, real: str, folder: Path) -> ctypes.CDLL:
    """Compile a source to a shared library, with a C entry for each kernel."""
    entries = []
    for name, parameters in parameters_of(source, real).items():
        fields = "".join(
            f"{'const ' if p.const else ''}{c_type(p)} a{i}; " for i, p in enumerate(parameters)
        )
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
    text = f'#include "{HEADER}"\n#line 1 "kernels.cu"\n{source}\n' + "".join(entries)
    digest = hashlib.sha256((text + HEADER.read_text() + real).encode()).hexdigest()[:16]
    library = folder / f"{digest}.so"

    def compile_to(path: Path) -> None:
        cpp = path.with_suffix(".cpp")
        cpp.write_text(text)
        command = [compiler(), *FLAGS, *defines(source, real), str(cpp), "-o", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"g++ refused kernels.cu:\n{result.stderr}"

    make_once(library, compile_to)
    return ctypes.CDLL(str(library))


def make_once(path: Path, make: Callable[[Path], None]) -> None:
    """Make a file, or wait for the worker of a parallel run that is making it there."""
    claim = path.with_suffix(".claim")
    deadline = time.monotonic() + PATIENCE
    while not path.exists() and time.monotonic() < deadline:
        try:
            claim.mkdir()
        except FileExistsError:
            time.sleep(0.05)
            continue
        try:
            part = path.with_suffix(".part")
            make(part)
            part.replace(path)  # whole, or not there
        finally:
            claim.rmdir()
    assert path.exists(), f"{path.name} was not made within {PATIENCE:.0f} s"


def c_type(parameter: Parameter) -> str:
    return f"{parameter.kind}*" if parameter.pointer else parameter.kind


def plant(source: str, faults: Iterable[tuple[str, str]], variable: str = "planted") -> str:
    """A source with all faults in it, each active where the variable is its number, from 1 on.

    Parameters
    ----------
    faults
        Text of the source, and what takes its place: ``PLANTED`` is 1 where the fault is active.
    """
    for number, (sound, fault) in enumerate(faults, start=1):
        assert sound in source, sound
        source = source.replace(sound, fault.replace("PLANTED", f"({variable} == {number})"))
    return source


def planted(source: str, faults: dict[str, tuple[str, str]], real: str, folder: Path) -> Planted:
    """Build a source with all faults in it, each inactive until it is chosen."""
    source = plant(source, faults.values())
    built = Planted(f'extern "C" {{ int planted = 0; }}\n{source}', real, folder)
    built.checked = False
    built.faults = ["", *faults]
    return built


RUNS = (("as chosen", False), ("as chosen", True), ("one block", False), ("one block", True))
"""How a checked launch is repeated: the grid, and whether threads and blocks go backwards.

A cooperative launch keeps its grid, which its arguments are made for.
"""


class Kernels:
    """All kernels of a source for one floating type.

    A checked launch runs four times on the same memory, as in :data:`RUNS`, and must give the
    same bits each time: a race within a block or between blocks, or a loop that needs a certain
    grid, would show as a difference.
    """

    def __init__(self, source: str, real: str, folder: Path) -> None:
        self.parameters = parameters_of(source, real)
        self._library = build(source, real, folder)
        self.launched: set[str] = set()
        self.checked = True

    def __call__(self, name, grid, block, args, *, shared=0, cooperative=False) -> None:
        self.launched.add(name)
        values = self._arguments(name, args)
        options = {"shared": shared, "cooperative": cooperative}
        if not self.checked:
            self._run(name, grid, block, values, backwards=False, **options)
            return
        written = [
            value
            for value, parameter in zip(args, self.parameters[name], strict=True)
            if parameter.pointer and not parameter.const and isinstance(value, np.ndarray)
        ]
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
        class Args(ctypes.Structure):
            _fields_ = [(f"a{i}", type(value)) for i, value in enumerate(values)]

        three = ctypes.c_uint * 3
        entry = getattr(self._library, f"shim_{name}")
        entry.restype = ctypes.c_char_p
        failure = entry(
            three(*((*tuple(grid), 1, 1))[:3]),
            three(*((*tuple(block), 1, 1))[:3]),
            int(backwards),
            int(cooperative),
            ctypes.c_size_t(shared),
            ctypes.byref(Args(*values)),
        )
        assert failure is None, f"{name}{grid}{block}: {failure.decode()}"

    def _arguments(self, name, args) -> list:
        parameters = self.parameters[name]
        assert len(args) == len(parameters), (
            f"{name} takes {len(parameters)} arguments, got {len(args)}"
        )
        values = []
        for value, parameter in zip(args, parameters, strict=True):
            where = f"{name}: argument {parameter.name}"
            if parameter.pointer and isinstance(value, np.ndarray):
                assert value.dtype == parameter.dtype, (
                    f"{where} is {value.dtype}, the kernel reads {parameter.dtype}"
                )
                assert value.flags.c_contiguous, f"{where} is not contiguous"
                values.append(ctypes.c_void_p(value.ctypes.data))
            elif parameter.pointer:
                assert isinstance(value, np.uint64), f"{where} is {value!r}, not a pointer"
                assert value == 0, f"{where} is {value!r}, not a pointer"
                values.append(ctypes.c_void_p(0))
            else:
                assert isinstance(value, np.generic), f"{where} is {value!r}: no width is known"
                assert value.dtype == parameter.dtype, (
                    f"{where} is {value.dtype}, the kernel reads {parameter.dtype}"
                )
                values.append(CTYPES[value.dtype.name](value.item()))
        return values


class Planted(Kernels):
    """Kernels with faults, none active at first: see :func:`planted`."""

    faults: list[str]

    def activate(self, fault: str) -> None:
        """Activate one fault alone, or none for the empty text."""
        number = ctypes.c_int.in_dll(self._library, "planted")
        number.value = self.faults.index(fault)
