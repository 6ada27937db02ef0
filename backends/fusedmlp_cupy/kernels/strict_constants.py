"""The constants of :mod:`fusedmlp.reference.arithmetic` as CUDA source, for strict.cu.

Generated from the one table there, so that no number is transcribed by hand.
"""

from __future__ import annotations

import numpy as np

from fusedmlp.reference.arithmetic import CONSTANTS, Constants

TYPES = {"float32": ("Rounded", "f"), "float64": ("double", "")}
"""Type of the numbers in the CUDA source (see rounded.cu), and the suffix of their literals."""

WHOLE = {"float32": "int", "float64": "int64"}
"""Type of the integers."""


def constants_source() -> str:
    """Return the struct template Constants and, by type, a function that returns one."""
    parts = ["template <typename T> struct Constants;"]
    for dtype, c in CONSTANTS.items():
        real, suffix = TYPES[dtype]
        fields = "".join(
            f"    {_declaration(name, value, real, WHOLE[dtype])};\n"
            for name, value in zip(Constants._fields, c, strict=True)
        )
        values = ", ".join(_literal(value, real, suffix) for value in c)
        parts.append(
            f"template <> struct Constants<{real}> {{\n{fields}}};\n"
            f"__device__ Constants<{real}> constants({real}) {{ return {{{values}}}; }}"
        )
    return "\n".join(parts) + "\n"


def _declaration(name: str, value: object, real: str, whole: str) -> str:
    if isinstance(value, tuple):
        return f"{real} {name}[{len(value)}]"
    return f"{real if isinstance(value, np.floating) else whole} {name}"


def _literal(value: object, real: str, suffix: str) -> str:
    if isinstance(value, tuple):
        return f"{{{', '.join(_literal(each, real, suffix) for each in value)}}}"
    if not isinstance(value, np.floating):
        return str(value)
    if not np.isfinite(value):  # no literal, and <cmath>'s name is not included
        return f"from_bits<{real}>(0x{value.view(f'u{value.itemsize}'):x})"
    return f"{float(value).hex()}{suffix}"
