"""Running the command in this process (quick) or as its own process (streams, signals)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from clihelp import QUICK
from typer.testing import CliRunner

from fusedmlp.cli.app import build

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fusedmlp.errors import ExitCode


@dataclass
class Outcome:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict:
        return json.loads(self.stdout, parse_constant=_refuse)

    def failed(self, code: ExitCode, *words: str) -> None:
        """Check for one clear error: its code, its words, no traceback, nothing on stdout."""
        assert self.code == code, self.stderr
        assert self.stdout == ""
        assert "Traceback" not in self.stderr
        errors = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, self.stderr
        text = self.stderr[self.stderr.index("error: ") :]
        for word in words:
            assert word in text


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, with no settings but the NumPy backend."""
    for name in list(os.environ):
        if name.startswith("FUSEDMLP_") and name != "FUSEDMLP_CACHE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("FUSEDMLP_BACKEND", "numpy")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cli() -> Callable[..., Outcome]:
    """Run the command in this process; an exception that it lets out fails the test."""

    def run(*args: object) -> Outcome:
        result = CliRunner().invoke(build(), [str(arg) for arg in args], prog_name="fusedmlp")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def process() -> Callable[..., Outcome]:
    """Run ``python -m fusedmlp`` as a process of its own and wait for it."""

    def run(*args: object, env: dict[str, str] | None = None, shell: str = "") -> Outcome:
        command = [sys.executable, "-m", "fusedmlp", *map(str, args)]
        if shell:
            command = ["bash", "-c", f'{shell}; exec "$@"', "bash", *command]
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | (env or {}), timeout=120
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def trained(cli: Callable[..., Outcome], tmp_path: Path) -> Path:
    """Folder of a small finished training on digits."""
    folder = tmp_path / "trained"
    outcome = cli("train", *QUICK, "--output", folder)
    assert outcome.code == 0, outcome.stderr
    return folder


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., Path]:
    """Write arrays as an .npz file."""

    def write(name: str, **arrays: object) -> Path:
        path = tmp_path / name
        np.savez(path, **arrays)
        return path

    return write
