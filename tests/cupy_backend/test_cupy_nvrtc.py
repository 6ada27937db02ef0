"""The gate: all programs compile to machine code for every architecture, without a device.

CuPy's own compile call needs a device for the architecture, so NVRTC is called here through
CuPy's binding of it, with the options that CuPy would pass.
"""

from __future__ import annotations

import os
import re

import cupy_shim
import pytest

from fusedmlp import backend
from fusedmlp.network import LEAKY_RELU_SLOPE
from fusedmlp_cupy.kernels import arguments, products
from fusedmlp_cupy.kernels.launches import OUTPUT_KERNELS
from fusedmlp_cupy.kernels.source import (
    checks_source,
    compile_options,
    kernel_source,
    persistent_source,
)
from fusedmlp_cupy.training import persistent_plan
from fusedmlp_cupy.tuning import Tuning

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)

SOURCES = {
    "engine": kernel_source(),
    "strict": kernel_source(strict=True),
    "persistent": persistent_source(),
    "checks": checks_source(),
}

PROGRAMS = [
    (program, dtype, architecture)
    for number, architecture in enumerate(ARCHITECTURES)
    for which, dtype in enumerate(cupy_shim.REALS)
    for program in SOURCES
    if program == "persistent"
    or (program == "checks" and dtype == "float32")
    or (program in ("engine", "strict") and architecture == 90)
    or (program in ("engine", "strict") and (number + which + (program == "strict")) % 3 == 0)
]
"""Each architecture with each type and with each source, and 90 with each of both: no source
depends on the architecture, and a compilation takes seconds."""

CUPY_ADDS = ("-ftz=true", "--device-as-default-execution-space")
"""What CuPy 14 appends to a module's own options, beside the architecture."""

REGISTERS = 65_536
"""Of a multiprocessor, on all of these."""


@pytest.fixture(scope="module")
def nvrtc():
    """CuPy's binding of NVRTC, or a skip with its reason; CI must have it."""
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except Exception as error:  # noqa: BLE001 - loaders raise half a dozen classes
        reason = f"NVRTC is not installed (pip install --group test): {error}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return nvrtc


def compiled(nvrtc, source, dtype, architecture, *, strict=False, more=()):
    """The machine code of a source, or the compiler's log as an assertion."""
    options = compile_options(dtype, strict=strict)
    options = (*options, *CUPY_ADDS, f"-arch=sm_{architecture}", *more)
    program = nvrtc.createProgram(source, "kernels.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        return nvrtc.getCUBIN(program), nvrtc.getProgramLog(program)
    except nvrtc.NVRTCError:
        raise AssertionError(nvrtc.getProgramLog(program)) from None
    finally:
        nvrtc.destroyProgram(program)


def compiled_ptx(nvrtc, dtype, *, strict=False, source=""):
    """A program in NVIDIA's intermediate code, the engine's where no other is given."""
    source = source or kernel_source(strict=strict)
    program = nvrtc.createProgram(source, "kernels.cu", (), ())
    options = (*compile_options(dtype, strict=strict), *CUPY_ADDS, "-arch=compute_90")
    nvrtc.compileProgram(program, options)
    ptx = nvrtc.getPTX(program)
    nvrtc.destroyProgram(program)
    return ptx if isinstance(ptx, str) else ptx.decode()


@pytest.mark.parametrize(("program", "dtype", "architecture"), PROGRAMS)
def test_every_kernel_compiles(nvrtc, program, dtype, architecture):
    """The persistent one with registers for a block on each multiprocessor, and none spilled."""
    assert architecture in nvrtc.getSupportedArchs()
    source, strict = SOURCES[program], program == "strict"
    more = ("--ptxas-options=--verbose",) if program == "persistent" else ()
    code, log = compiled(nvrtc, source, dtype, architecture, strict=strict, more=more)
    assert code[:4] == b"\x7fELF"
    names = cupy_shim.parameters_of(source, "float")
    assert len(names) == source.count("\nKERNEL ")
    missing = [name for name in names if f".text.{name}\0".encode() not in code]
    assert not missing, f"not in the machine code: {missing}"
    assert "warning" not in log, log
    if program == "persistent":
        assert re.findall(r"(\d+) bytes (?:stack|spill)", log) == ["0", "0", "0"], log
        (registers,) = map(int, re.findall(r"Used (\d+) registers", log))
        assert registers * Tuning().persistent_threads <= REGISTERS


def test_the_persistent_kernel_waits_with_its_own_barrier(nvrtc):
    """The tests replace it on the CPU: fences, one counter, and threads that wait."""
    ptx = compiled_ptx(nvrtc, "float32", source=persistent_source())
    assert len(re.findall(r"\batom\.(?:\w+\.)*add\.u32", ptx)) == 2
    assert len(re.findall(r"\bld\.volatile\.(?:global\.)?u32", ptx)) >= 2
    assert len(re.findall(r"\bmembar\.gl|\bfence\.(?:sc|acq_rel)\.gpu", ptx)) == 4


def test_a_syntax_error_fails(nvrtc):
    planted = kernel_source().replace("const real m = beta1", "const real m beta1")
    assert planted != kernel_source()
    with pytest.raises(AssertionError, match=r"formulas\.cu"):
        compiled(nvrtc, planted, "float32", 90)


def test_the_floating_type_must_be_given(nvrtc):
    program = nvrtc.createProgram(kernel_source(), "kernels.cu", (), ())
    with pytest.raises(nvrtc.NVRTCError):
        nvrtc.compileProgram(program, ("-arch=sm_90",))
    assert "-DREAL" in nvrtc.getProgramLog(program)
    nvrtc.destroyProgram(program)


def test_float32_kernels_compute_rows_in_float32(nvrtc):
    """No accidental double in the hot kernels: a stray 1.0 would halve a GPU's speed or worse."""
    ptx = compiled_ptx(nvrtc, "float32")
    bodies = dict(re.findall(r"\.entry (\w+)\((.*?)^}", ptx, re.DOTALL | re.MULTILINE))
    assert set(bodies) == set(cupy_shim.parameters_of(kernel_source(), "float"))
    allowed = {"batch_sums", "batch_weights", "weight_squares", *OUTPUT_KERNELS.values()}
    allowed |= {name for name in bodies if name.endswith("float64")}
    double = {name for name, body in bodies.items() if re.search(r"\.f64\s", body)}
    assert double <= allowed, f"double arithmetic in {double - allowed}"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_instruction_of_strict_mode_fuses_or_flushes(nvrtc, dtype):
    """Every instruction names its rounding, under the options that CuPy adds."""
    ptx = compiled_ptx(nvrtc, dtype, strict=True)
    arithmetic = set(re.findall(r"\b(?:add|sub|mul|div|rcp|sqrt|fma|mad|neg|abs)[\w.]*\.f\d+", ptx))
    assert f"add.rn.f{dtype[-2:]}" in arithmetic
    assert {name for name in arithmetic if ".rn" not in name} == set()
    assert not re.search(r"\bfma\.|\bmad\.[\w.]*f\d|\.ftz|\.approx", ptx)
    # The same compiler and options do fuse, and do flush, where they are let.
    ordinary = compiled_ptx(nvrtc, dtype)
    assert "fma." in ordinary
    assert dtype == "float64" or ".ftz" in ordinary


NUMBERS = {
    **{name: getattr(arguments, name) for name in ("ROW_LANES", "ROWS_PER_BLOCK", "SUM_THREADS")},
    **{name: getattr(arguments, name) for name in ("COLUMN_LANES", "COLUMN_DEPTH", "RATE_COLUMNS")},
    **{name: getattr(products, name) for name in ("PRODUCT_EDGE", "PRODUCT_SLICES")},
    "PRODUCT_THREADS": products.PRODUCT_EDGE**2 * products.PRODUCT_SLICES,
    **{name: getattr(persistent_plan, name) for name in ("TILE_WIDTH", "TILE_ROWS", "PATCH_DOWN")},
    **{name: getattr(backend, name) for name in ("MAX_ROW_LOSS", "EXP_OVERFLOWS")},
    "LEAKY_RELU_SLOPE": LEAKY_RELU_SLOPE,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_agree_in_sources_and_launches(name):
    sources = [kernel_source(), persistent_source(), checks_source()]
    found = [
        number for source in sources for number in re.findall(rf"\b{name} = ([\de.]+)", source)
    ]
    expected = {NUMBERS[name], 1} if name in STRICT_ONES else {NUMBERS[name]}
    assert found
    assert {float(number) for number in found} == expected


STRICT_ONES = ("ROW_LANES", "COLUMN_DEPTH", "SUM_THREADS")
"""Threads that share one sum; in strict mode one thread adds everything."""
