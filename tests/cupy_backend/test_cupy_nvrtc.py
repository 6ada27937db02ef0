"""The gate: kernels.cu compiles to machine code for every architecture, without a device.

CuPy's own compile call asks the device for its architecture, so NVRTC is called here through
CuPy's binding of it, with the options that CuPy would pass.
"""

from __future__ import annotations

import os
import re

import cupy_shim
import pytest

from fusedmlp import backend
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS
from fusedmlp_cupy import kernels as launches
from fusedmlp_cupy.device import compile_options, kernel_source
from fusedmlp_cupy.kernels import KERNELS
from fusedmlp_numpy import kernels as twins

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)

CUPY_ADDS = ("-ftz=true", "--device-as-default-execution-space")
"""What CuPy 14 appends to a module's own options, beside the architecture."""


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


def compiled(nvrtc, source, dtype, architecture):
    """The machine code of a source, or the compiler's log as an assertion."""
    options = (*compile_options(dtype), *CUPY_ADDS, f"-arch=sm_{architecture}")
    program = nvrtc.createProgram(source, "kernels.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        return nvrtc.getCUBIN(program), nvrtc.getProgramLog(program)
    except nvrtc.NVRTCError:
        raise AssertionError(nvrtc.getProgramLog(program)) from None
    finally:
        nvrtc.destroyProgram(program)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kernel_compiles(nvrtc, dtype, architecture):
    assert architecture in nvrtc.getSupportedArchs()
    code, log = compiled(nvrtc, kernel_source(), dtype, architecture)
    assert code[:4] == b"\x7fELF"
    missing = [name for name in KERNELS if f".text.{name}\0".encode() not in code]
    assert not missing, f"not in the machine code: {missing}"
    assert "warning" not in log, log


def test_a_syntax_error_fails(nvrtc):
    planted = kernel_source().replace("const real lr = rate[1],", "const real lr = rate[1]")
    assert planted != kernel_source()
    with pytest.raises(AssertionError, match=r"kernels\.cu"):
        compiled(nvrtc, planted, "float32", 90)


def test_the_floating_type_must_be_given(nvrtc):
    program = nvrtc.createProgram(kernel_source(), "kernels.cu", (), ())
    with pytest.raises(nvrtc.NVRTCError):
        nvrtc.compileProgram(program, ("-arch=sm_90",))
    assert "-DREAL" in nvrtc.getProgramLog(program)
    nvrtc.destroyProgram(program)


def test_float32_kernels_compute_rows_in_float32(nvrtc):
    """No accidental double in the hot kernels: a stray 1.0 would halve a GPU's speed or worse."""
    program = nvrtc.createProgram(kernel_source(), "kernels.cu", (), ())
    options = (*compile_options("float32"), *CUPY_ADDS, "-arch=compute_90")
    nvrtc.compileProgram(program, options)
    ptx = nvrtc.getPTX(program)
    ptx = ptx if isinstance(ptx, str) else ptx.decode()
    nvrtc.destroyProgram(program)
    bodies = dict(re.findall(r"\.entry (\w+)\((.*?)^}", ptx, re.DOTALL | re.MULTILINE))
    assert set(bodies) == set(KERNELS)
    allowed = {"batch_sums", "batch_weights", *launches.OUTPUT_KERNELS.values()}
    allowed |= {name for name in KERNELS if name.endswith("float64")}
    double = {name for name, body in bodies.items() if re.search(r"\.f64\s", body)}
    assert double <= allowed, f"double arithmetic in {double - allowed}"


def test_names_agree_in_source_launch_table_and_specification():
    in_source = set(cupy_shim.parameters_of(kernel_source(), "float"))
    assert in_source == set(KERNELS)
    assert kernel_source().count("\nKERNEL ") == len(KERNELS)
    for name, twin in KERNELS.items():
        assert twin is None or name.startswith(twin), name
        assert twin is None or callable(getattr(twins, twin)), name


def test_numbers_agree_in_source_and_launch_table():
    source = kernel_source()
    constants = dict(re.findall(r"([A-Z_]+) = (\d+)", source))
    blocks = ("ROW_LANES", "ROWS_PER_BLOCK", "COLUMN_LANES", "COLUMN_DEPTH", "SUM_THREADS")
    for name in (*blocks, "RATE_COLUMNS"):
        assert int(constants[name]) == getattr(launches, name), name
    limits = dict(re.findall(r"([A-Z_]+) = ([\de]+)[,;]", source))
    assert float(limits["MAX_ROW_LOSS"]) == backend.MAX_ROW_LOSS
    assert float(limits["EXP_OVERFLOWS"]) == backend.EXP_OVERFLOWS
    enums = re.findall(r"enum \{ ((?:HIDDEN|OUTPUT)_[^}]+) \}", source)
    hidden, outputs = (re.findall(r"_(\w+)", enum) for enum in enums)
    assert [name.lower() for name in hidden] == list(HIDDEN_ACTIVATIONS)
    assert [name.lower() for name in outputs] == list(OUTPUTS)
