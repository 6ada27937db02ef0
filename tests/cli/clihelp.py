"""What the tests of the command share and is no fixture."""

from __future__ import annotations

from pathlib import Path

from fusedmlp import MLP

QUICK = ("--dataset", "digits", "--hidden", "12", "--epochs", "2")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def parameters(folder: str | Path) -> list:
    """Weights and biases of a training's model."""
    return list(MLP.load(Path(folder) / "model.safetensors").parameters)
