"""Runs the CUDA programs under GCC's sanitizers: recorded launches, replayed by real threads.

The recordings come from the engine itself, so grids, blocks and arguments are those that a GPU
would get. The replaying program is cupy_threads.h around the source; its kernels must write the
bits that the fibers of cupy_shim.h wrote.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import cupy_shim
import numpy as np
import pytest

HEADER = Path(__file__).with_name("cupy_threads.h")

# As in cupy_shim.py, so that the bits can be compared.
FLAGS = ["-std=c++17", "-g1", "-ffp-contract=off", "-pthread", "-w"]

# Not optimized, a build takes half as long; races of two barriers left out are not found there.
SANITIZERS = {
    "thread": ["-O1", "-fsanitize=thread"],
    "address": [
        "-O0",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
    ],
}

FOUND = 66
"""Exit status of a replay in which a sanitizer found something."""

OPTIONS = {
    "TSAN_OPTIONS": f"halt_on_error=1 exitcode={FOUND}",
    "ASAN_OPTIONS": f"exitcode={FOUND}:detect_leaks=0",
    "UBSAN_OPTIONS": f"exitcode={FOUND}:print_stacktrace=1",
}

SECONDS = 120
"""A replay that takes longer hangs: some threads miss a barrier."""

ADDR_NO_RANDOMIZE = 0x0040000
"""Of <sys/personality.h>: libtsan before GCC 14 fails on kernels that spread addresses widely."""


@dataclass
class Recording:
    """Launches as bytes, and the bytes that they wrote on the fibers of cupy_shim.h."""

    launches: list[bytes] = field(default_factory=list)
    written: list[list[bytes]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def one_of(self, *names: str) -> Recording:
        """The first launch of each of these kernels."""
        kept = [self.names.index(name) for name in names]
        return Recording(
            [self.launches[i] for i in kept],
            [self.written[i] for i in kept],
            [self.names[i] for i in kept],
        )


class Recorder:
    """Passes launches on to :class:`cupy_shim.Kernels` and records them.

    Of launches of one kernel with arrays of the same shapes and types only the first is kept.
    """

    def __init__(self, kernels: cupy_shim.Kernels) -> None:
        self._kernels = kernels
        self.parameters = kernels.parameters
        self.recording = Recording()
        self._seen: set[object] = set()

    def __call__(self, name, grid, block, args, *, shared=0, cooperative=False) -> None:
        options = {"shared": shared, "cooperative": cooperative}
        key = (name, *((a.shape, a.dtype) if isinstance(a, np.ndarray) else None for a in args))
        if key in self._seen:
            self._kernels(name, grid, block, args, **options)
            return
        self._seen.add(key)
        parameters = self.parameters[name]
        text = name.encode()
        parts = [_number(len(text)), text]
        parts += [_number(n) for shape in (grid, block) for n in (*shape, 1, 1)[:3]]
        parts += [_number(n) for n in (cooperative, shared, len(args))]
        for value, parameter in zip(args, parameters, strict=True):
            kind = (2 if parameter.const else 3) if isinstance(value, np.ndarray) else 0
            kind = 1 if parameter.pointer and not kind else kind
            content = b"" if kind == 1 else value.tobytes()
            parts += [_number(kind), _number(len(content)), content]
        self._kernels(name, grid, block, args, **options)
        self.recording.launches.append(b"".join(parts))
        self.recording.names.append(name)
        self.recording.written.append(
            [
                value.tobytes()
                for value, parameter in zip(args, parameters, strict=True)
                if parameter.pointer and not parameter.const and isinstance(value, np.ndarray)
            ]
        )


def _number(n: int) -> bytes:
    return int(n).to_bytes(8, "little")


def compiler(sanitizer: str, folder: Path) -> str:
    """g++ that can build and run programs with a sanitizer, or a skip; CI must have it."""
    found = cupy_shim.compiler()
    trial = folder / f"trial-{sanitizer}"
    source = trial.with_suffix(".cpp")
    source.write_text("int main() { return 0; }\n")
    command = [found, *FLAGS, *SANITIZERS[sanitizer], str(source), "-o", str(trial)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        done = _run([str(trial)])
    if done.returncode:
        reason = f"g++ has no working -fsanitize={sanitizer}: {done.stderr.strip()[-300:]}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def build(source: str, real: str, sanitizer: str, folder: Path, name: str) -> Path:
    """Compile a source and the replaying program around it."""
    command = [compiler(sanitizer, folder), *FLAGS, *SANITIZERS[sanitizer]]
    command += cupy_shim.defines(source, real)
    cpp, program = folder / f"{name}.cpp", folder / name
    cpp.write_text(
        f'#include "{HEADER}"\n#line 1 "kernels.cu"\n{_shared(source)}\n{_entries(source, real)}'
    )
    done = subprocess.run(
        [*command, str(cpp), "-o", str(program)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"g++ refused kernels.cu:\n{done.stderr}"
    return program


def barriers(source: str) -> list[str]:
    """The function around each barrier of a source, in the order of their numbers."""
    functions, function = [], ""
    compiled = re.sub(r"#ifndef GRID_BARRIER.*?#endif", "", source, flags=re.DOTALL)
    kinds = r"__syncthreads\(\);|GRID_BARRIER\(\w+\);"
    for before in re.split(kinds, compiled)[:-1]:
        heads = re.findall(r"^(?:__device__|KERNEL)[^;(]* (\w+)\(", before, re.MULTILINE)
        function = heads[-1] if heads else function
        functions.append(function)
    return functions


def replay(
    program: Path, recording: Recording, *, left_out: int = -1, planted: int = 0
) -> subprocess.CompletedProcess:
    """Run the launches; those of a sound program must write what was recorded."""
    folder = program.parent
    launches, results = folder / f"{program.name}.launches", folder / f"{program.name}.results"
    launches.write_bytes(b"".join(recording.launches))
    done = _run([str(program), str(launches), str(results), str(left_out), str(planted)])
    if done.returncode == 0 and left_out < 0 and not planted:
        _compare(results.read_bytes(), recording)
    return done


def _compare(found: bytes, recording: Recording) -> None:
    at = 0
    for name, arrays in zip(recording.names, recording.written, strict=True):
        for expected in arrays:
            assert found[at : at + len(expected)] == expected, f"{name}: other bits than on fibers"
            at += len(expected)
    assert at == len(found)


def _run(command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        command,
        env={**os.environ, **OPTIONS},
        preexec_fn=_keep_addresses,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
        check=False,
    )


def _keep_addresses() -> None:
    # Where this is refused, addresses stay random, which most kernels and libraries cope with.
    ctypes.CDLL(None).personality(ADDR_NO_RANDOMIZE)


def _shared(source: str) -> str:
    """Give each block its own shared arrays: a static variable would be all blocks' one."""
    text, n = re.subn(
        r"__shared__ (\w+) (\w+)((?:\[\w+\])+);",
        r"struct Key_\2 {}; typedef \1 Shared_\2\3; "
        r"Shared_\2& \2 = shim::shared<Key_\2, Shared_\2>();",
        source,
    )
    all_forms = re.findall(r"^(?!#).*\b__shared__\b", source, re.MULTILINE)
    assert n == len(all_forms), "a form of __shared__ not known here"
    return text


def _entries(source: str, real: str) -> str:
    text, names = [], []
    for name, parameters in cupy_shim.parameters_of(source, real).items():
        fields = "".join(
            f"{'const ' if p.const and p.pointer else ''}{cupy_shim.c_type(p)} a{i}; "
            for i, p in enumerate(parameters)
        )
        reading = "".join(f"from[{i}].into(args.a{i}); " for i in range(len(parameters)))
        passed = ", ".join(f"a->a{i}" for i in range(len(parameters)))
        text.append(
            f"struct Args_{name} {{ {fields} }};\n"
            f"static void body_{name}(void* p) {{ auto* a = (Args_{name}*)p; {name}({passed}); }}\n"
            f"static void replay_{name}(const unsigned* grid, const unsigned* block, "
            f"const size_t* options, const std::vector<shim::Argument>& from)\n"
            f"{{ Args_{name} args; {reading}"
            f"shim::launch(grid, block, options, body_{name}, &args); }}\n"
        )
        names.append(f'{{"{name}", replay_{name}}}')
    return (
        "".join(text)
        + f"static const shim::Kernel all[] = {{{', '.join(names)}}};\n"
        + "int main(int, char** words)\n{\n"
        + "    shim::left_out = atoi(words[3]);\n    shim::planted = atoi(words[4]);\n"
        + "    return shim::replay_all(all, sizeof all / sizeof *all, words[1], words[2]);\n}\n"
    )
