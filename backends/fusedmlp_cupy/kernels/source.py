"""Assembly of the CUDA programs from this folder's files, and their compile options.

Nothing is compiled here: see device.py.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS
from fusedmlp.optimizers import UPDATE_FORMULAS
from fusedmlp_cupy.kernels.strict_constants import constants_source

if TYPE_CHECKING:
    from fusedmlp.types import FloatDtype

COMPILE_OPTIONS = ("--std=c++17", "-prec-div=true", "-prec-sqrt=true")
"""NVRTC options beside -DREAL; CuPy adds -ftz=true and the architecture. Never fast-math."""

STRICT_OPTIONS = (*COMPILE_OPTIONS, "-fmad=false", "-DSTRICT")
"""Without fused multiply-adds; rounded.cu says why -ftz=true does not matter in strict mode."""

ORDINARY = ("common.cu", "arithmetic.cu", "formulas.cu")
ENGINE = ("kernels.cu", "outputs.cu", "updates.cu")


def checks_source() -> str:
    """Text of ``checks.cu``."""
    return assemble("checks.cu")


def kernel_source(*, strict: bool = False) -> str:
    """Text of the engine's program."""
    if strict:
        arithmetic = assemble("common.cu", "rounded.cu") + constants_source()
        return arithmetic + assemble("strict.cu", "formulas.cu", *ENGINE)
    return assemble(*ORDINARY, *ENGINE, "products.cu")


def persistent_source() -> str:
    """Text of the persistent kernel's program."""
    return assemble(*ORDINARY, "tiles.cu", "persistent.cu")


def compile_options(dtype: FloatDtype, *, strict: bool = False) -> tuple[str, ...]:
    """NVRTC options for one floating type."""
    real = "float" if dtype == "float32" else "double"
    return (f"-DREAL={real}", *(STRICT_OPTIONS if strict else COMPILE_OPTIONS))


def enumerations() -> str:
    """Return the numbers of activations, outputs and update formulas, as their names' positions."""
    lists = {"HIDDEN": HIDDEN_ACTIVATIONS, "OUTPUT": OUTPUTS, "UPDATE": UPDATE_FORMULAS}
    return "".join(
        f"enum {{ {', '.join(f'{kind}_{name.upper()}' for name in names)} }};\n"
        for kind, names in lists.items()
    )


def assemble(*names: str) -> str:
    """Join files of this folder, each after a line by which compiler messages name it.

    The enumerations precede common.cu, the first part of a program.
    """
    folder = files("fusedmlp_cupy.kernels")
    head = enumerations() if "common.cu" in names else ""
    return head + "".join(
        f'#line 1 "{name}"\n{folder.joinpath(name).read_text(encoding="utf-8")}' for name in names
    )
