"""Help, version, ``backends``, ``doctor`` and ``data``."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fusedmlp import __version__, diagnostics, registry
from fusedmlp.backend import Availability, Device
from fusedmlp.cli.recipes import DEFAULT_RECIPE
from fusedmlp.errors import ExitCode

COMMANDS = (
    "train", "evaluate", "predict", "demo", "reproduce", "parity", "bench", "backends", "doctor",
    "data",
)  # fmt: skip


def test_version_and_help(cli, process):
    assert cli("--version").stdout == f"fusedmlp {__version__}\n"
    text = process("--help").stdout
    assert all(command in text for command in COMMANDS)
    assert "130 interrupted" in text
    assert cli().code == ExitCode.USAGE
    for command in COMMANDS:
        assert f"Example: fusedmlp {command}" in cli(command, "--help").stdout


def test_help_gives_defaults_and_lists_the_variables_once(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = cli("train", "--help").stdout
    recipe = DEFAULT_RECIPE
    for option, variable, default in (
        ("--backend", "FUSEDMLP_BACKEND", "(auto)"),
        ("--dataset", "FUSEDMLP_DATASET", "mnist"),
        ("--hidden", "FUSEDMLP_HIDDEN", "(256; 100 for tables)"),
        ("--lr", "FUSEDMLP_LR", f"({recipe.lr:g}; "),
        ("--epochs", "FUSEDMLP_EPOCHS", f"({recipe.epochs}; "),
        ("--schedule", "FUSEDMLP_SCHEDULE", f"({recipe.schedule}; "),
        ("--output", "FUSEDMLP_OUTPUT", "(runs/"),
    ):
        shown = text[text.index(f"│ {option} ") :][:800]
        assert f"[default: {default}" in shown
        assert len(re.findall(rf"\b{variable}\b", text)) == 1
    assert "FUSEDMLP_DATA (--data-dir)" in text
    assert "FUSEDMLP_TARGET" not in text
    assert "Only --epochs, --backend, --threads and --data-dir may differ" in re.sub(
        r"[│\s]+", " ", text
    )


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom fusedmlp.cli.app import build\n"
        "assert CliRunner().invoke(build(), ['train', '--help']).exit_code == 0\n"
        "heavy = {'numba', 'cupy', 'sklearn', 'scipy', 'safetensors', 'threadpoolctl'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_ctrl_c_outside_a_training_exits_with_130(cli, monkeypatch):
    def interrupted(*_args, **_keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(diagnostics, "diagnose", interrupted)
    outcome = cli("doctor")
    assert outcome.code == ExitCode.INTERRUPTED
    assert outcome.stderr == "interrupted\n"


def test_a_closed_pipe_is_no_error():
    command = [sys.executable, "-m", "fusedmlp", "data", "--json"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with child, child.stderr:
        child.stdout.close()
        assert "Traceback" not in child.stderr.read()
    assert child.wait(60) in (0, 1)


def test_backends_gives_states_remedies_and_the_choice_of_auto(cli, monkeypatch):
    found = {
        "numpy": registry.availability()["numpy"],
        "cupy": Availability("missing", "CuPy is not there", "pip install 'fusedmlp[cuda13]'"),
        "own": Availability("broken", "a library does not load", "reinstall it"),
    }
    monkeypatch.setattr(registry, "availability", lambda: found)
    document = cli("backends", "--json").document
    numpy, cupy = document["backends"]["numpy"], document["backends"]["cupy"]
    assert (cupy["state"], cupy["remedy"]) == ("missing", "pip install 'fusedmlp[cuda13]'")
    assert numpy["remedy"] is None
    reason = f"{numpy['reason']}; own is broken: a library does not load"
    assert (document["auto"]["choice"], document["auto"]["reason"]) == ("numpy", reason)
    text = cli("backends").stdout
    for words in (cupy["remedy"], "auto", "would choose numpy to train 784-256-10", "not load"):
        assert words in text


def test_doctor_reports_this_machine(cli, monkeypatch):
    monkeypatch.setenv("FUSEDMLP_SEED", "4")
    document = cli("doctor", "--json").document
    assert document["packages"]["fusedmlp"] == __version__
    assert document["system"]["python"] == sys.version.split()[0]
    assert document["cpu"]["usable"] >= 1
    assert {library["used_by"] for library in document["blas"]} <= {"numpy", "scipy", None}
    assert all(library["kernels"] for library in document["blas"])
    assert document["variables"]["FUSEDMLP_SEED"] == "4"
    assert set(document["gpu"]["cupy"]) >= {"state", "detail", "remedy"}
    monkeypatch.setattr(diagnostics, "hints", lambda *_: ["do this"])
    text = cli("doctor").stdout
    cache = document["folders"]["cache"]
    for words in ("Packages", "BLAS", "GPU", "FUSEDMLP_SEED=4", cache, "do this"):
        assert words in text


@pytest.mark.parametrize(
    ("features", "kernels", "environment", "word"),
    [
        ({"AVX512F"}, ["Haswell"], {}, "OPENBLAS_CORETYPE=SkylakeX"),
        ({"AVX2"}, ["Haswell"], {}, None),
        ({"AVX512F"}, ["SkylakeX"], {}, None),
        ({"AVX512F"}, ["Haswell"], {"OPENBLAS_CORETYPE": "Zen"}, None),
        (set(), [], {"NUMBA_DISABLE_JIT": "1"}, "NUMBA_DISABLE_JIT"),
    ],
)
def test_doctor_hints(features, kernels, environment, word):
    hints = diagnostics.hints(features, kernels, environment)
    assert len(hints) == (word is not None)
    assert all(word in hint for hint in hints)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 1.5),
    ],
)
def test_doctor_reads_container_limits(tmp_path, files, limit):
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(f"{content}\n")
    assert diagnostics.cgroup_limit(tmp_path) == limit


def test_doctor_describes_a_device_that_works(monkeypatch):
    class Works:
        def device(self):
            return Device("GPU 0, a card", {"driver_cuda": "13.0"})

    monkeypatch.setattr(registry, "availability", lambda: {"cupy": Availability("usable", "CuPy")})
    monkeypatch.setattr(registry, "backend_class", lambda _name: Works)
    facts = diagnostics.gpu()["cupy"]
    assert (facts["device"], facts["driver_cuda"]) == ("GPU 0, a card", "13.0")


@pytest.mark.parametrize("problem", ["Permission denied", "Not a directory"])
def test_a_cache_that_cannot_be_read_is_not_called_empty(cli, tmp_path, monkeypatch, problem):
    cache = tmp_path / "cache"
    monkeypatch.setenv("FUSEDMLP_CACHE", str(cache))
    assert f"{cache} (empty)" in cli("doctor").stdout
    if problem == "Not a directory":
        cache.touch()
    else:
        cache.mkdir()
        listing = Path.iterdir

        def refuse(path):
            if path == cache:
                raise PermissionError(errno.EACCES, problem, str(path))
            return listing(path)

        monkeypatch.setattr(Path, "iterdir", refuse)
    outcome = cli("doctor")
    assert outcome.code == 0
    assert f"{cache} cannot be read: {problem}" in outcome.stdout
    assert "(empty)" not in outcome.stdout
    folders = cli("doctor", "--json").document["folders"]
    assert folders["cached"] is None
    assert problem in folders["cache_problem"]
    listed = cli("data")
    assert listed.code == 0
    assert f"{cache} cannot be read: {problem}" in listed.stderr


def test_data_lists_the_names_and_what_is_cached(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("FUSEDMLP_CACHE", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    sets = cli("data", "--json").document["datasets"]
    assert set(sets) == {"mnist", "fashion-mnist", "digits", "moons"}
    assert sets["mnist"]["cache"] == str(tmp_path / "mnist")
    assert sets["fashion-mnist"]["cache"] is None
    text = cli("data").stdout
    assert "after a download" in text
    assert "built in" in text


@pytest.mark.parametrize(("name", "shape"), [("digits", (64, 10, 1437)), ("moons", (2, 2, 200))])
def test_data_describes_one(cli, name, shape):
    document = cli("data", name, "--json").document
    assert (document["inputs"], document["outputs"], document["rows"]["train"]) == shape
    assert 0 < document["density"] <= 1
    text = cli("data", name).stdout
    assert "scikit-learn" in text
    assert f"{shape[2]:,} train" in text


WARNING = """
import sys, warnings
from fusedmlp import cli
from fusedmlp.io import cache_folders

def names_in(folder):
    warnings.warn("two\\n lines")
    return []

cache_folders.names_in = names_in
sys.argv = ["fusedmlp", "data"]
cli.main()
"""


def test_a_warning_is_one_line_and_comes_once():
    done = subprocess.run(
        [sys.executable, "-c", WARNING], capture_output=True, text=True, check=True
    )
    assert done.stderr == "warning: two lines\n"
