"""Constants and functions that the tests of the command share."""

from __future__ import annotations

from pathlib import Path

from fusedmlp import MLP

QUICK = ("--dataset", "digits", "--hidden", "12", "--epochs", "2")


def contents(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder, by name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def parameters(folder: str | Path) -> list:
    """Weights and biases of a training's model."""
    return list(MLP.load(Path(folder) / "model.safetensors").parameters)
