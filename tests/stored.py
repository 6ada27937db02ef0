"""Reading a file without checks, so that a test can write a malformed one."""

from __future__ import annotations

import json

from safetensors import safe_open


def parts(path):
    """Header and arrays of a file, with nothing checked."""
    with safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()["fusedmlp"])
        header.pop("sha256")
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
