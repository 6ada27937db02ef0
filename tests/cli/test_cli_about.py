"""Help, version, ``backends``, ``doctor``, ``data``: what the command says of itself and here."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from fusedmlp import __version__, diagnostics
from fusedmlp.backend import Availability
from fusedmlp.cli.recipes import DEFAULT_RECIPE
from fusedmlp.errors import ExitCode

COMMANDS = ("train", "evaluate", "predict", "reproduce", "backends", "doctor", "data")


def test_version_and_help(cli, process):
    assert cli("--version").stdout == f"fusedmlp {__version__}\n"
    text = process("--help").stdout
    assert all(command in text for command in COMMANDS)
    assert "130 interrupted" in text
    assert cli().code == ExitCode.USAGE


def test_ctrl_c_outside_a_training_exits_with_130(cli, monkeypatch):
    def interrupted(*_args, **_keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(diagnostics, "diagnose", interrupted)
    outcome = cli("doctor")
    assert outcome.code == ExitCode.INTERRUPTED
    assert outcome.stderr == "interrupted\n"


def test_a_reader_that_goes_away_is_no_error(process):
    command = [sys.executable, "-m", "fusedmlp", "data", "--json"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.close()
    assert child.wait(60) in (0, 1)
    assert child.stderr is not None
    with child.stderr:
        assert "Traceback" not in child.stderr.read()


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom fusedmlp.cli.app import build\n"
        "assert CliRunner().invoke(build(), ['train', '--help']).exit_code == 0\n"
        "heavy = {'numba', 'cupy', 'sklearn', 'scipy', 'safetensors', 'threadpoolctl'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_gives_variables_and_defaults(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = cli("train", "--help").stdout
    recipe = DEFAULT_RECIPE
    for option, variable, default in (
        ("--backend", "FUSEDMLP_BACKEND", "auto"),
        ("--dataset", "FUSEDMLP_DATASET", "mnist"),
        ("--hidden", "FUSEDMLP_HIDDEN", "256"),
        ("--lr", "FUSEDMLP_LR", f"{recipe.lr:g}"),
        ("--epochs", "FUSEDMLP_EPOCHS", str(recipe.epochs)),
        ("--schedule", "FUSEDMLP_SCHEDULE", recipe.schedule),
        ("--output", "FUSEDMLP_OUTPUT", "runs/"),
    ):
        lines = text[text.index(f"{option} ") :]
        assert f"[env var: {variable}]" in lines[:600]
        assert re.search(rf"\[default: \(?{default}", lines[:800])
    assert "FUSEDMLP_DATA]" in text
    for command in COMMANDS:
        assert cli(command, "--help").code == 0


def test_backends_gives_states_remedies_and_the_choice_of_auto(cli, monkeypatch):
    from fusedmlp import registry

    real = registry.availability()
    found = {
        "numpy": real["numpy"],
        "cupy": Availability("missing", "CuPy is not there", "pip install 'fusedmlp[cuda13]'"),
        "own": Availability("broken", "a library does not load", "reinstall it"),
    }
    monkeypatch.setattr(registry, "availability", lambda: found)
    document = cli("backends", "--json").document
    assert document["backends"]["cupy"]["state"] == "missing"
    assert document["backends"]["cupy"]["remedy"] == "pip install 'fusedmlp[cuda13]'"
    assert document["backends"]["numpy"]["remedy"] is None
    assert document["auto"]["choice"] == "numpy"
    assert document["auto"]["reason"] == document["backends"]["numpy"]["reason"]
    text = cli("backends").stdout
    assert "pip install 'fusedmlp[cuda13]'" in text
    assert "would choose numpy to train 784-256-10" in text
    assert "a library does not load" in text


def test_doctor_reports_this_machine(cli, monkeypatch):
    monkeypatch.setenv("FUSEDMLP_SEED", "4")
    document = cli("doctor", "--json").document
    assert document["packages"]["fusedmlp"] == __version__
    assert document["system"]["python"] == sys.version.split()[0]
    assert document["cpu"]["usable"] >= 1
    users = {library["used_by"] for library in document["blas"]}
    assert users <= {"numpy", "scipy", None}
    assert all(library["kernels"] for library in document["blas"])
    assert document["variables"]["FUSEDMLP_SEED"] == "4"
    assert set(document["gpu"]["cupy"]) >= {"state", "detail", "remedy"}
    text = cli("doctor").stdout
    for word in ("Packages", "BLAS", "GPU", "FUSEDMLP_SEED=4", str(document["folders"]["cache"])):
        assert word in text


def test_doctor_hints_at_narrow_kernels_on_a_wide_cpu(cli, monkeypatch):
    narrow = ["Haswell"]
    (hint,) = diagnostics.hints({"AVX512F"}, narrow, {})
    assert "OPENBLAS_CORETYPE=SkylakeX" in hint
    assert diagnostics.hints({"AVX2"}, narrow, {}) == []
    assert diagnostics.hints({"AVX512F"}, ["SkylakeX"], {}) == []
    assert diagnostics.hints({"AVX512F"}, narrow, {"OPENBLAS_CORETYPE": "Zen"}) == []
    (hint,) = diagnostics.hints((), [], {"NUMBA_DISABLE_JIT": "1"})
    assert "NUMBA_DISABLE_JIT" in hint
    monkeypatch.setattr(diagnostics, "hints", lambda *_: ["do this"])
    assert "do this" in cli("doctor").stdout


def test_doctor_reads_container_limits(tmp_path):
    assert diagnostics.cgroup_limit(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert diagnostics.cgroup_limit(tmp_path) is None
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("50000\n")
    assert diagnostics.cgroup_limit(tmp_path) == 0.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert diagnostics.cgroup_limit(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert diagnostics.cgroup_limit(tmp_path) == 1.5


def test_doctor_describes_a_device_that_works(monkeypatch):
    from fusedmlp import registry
    from fusedmlp.backend import Device

    class Works:
        def device(self):
            return Device("GPU 0, a card", {"driver_cuda": "13.0"})

    monkeypatch.setattr(registry, "availability", lambda: {"cupy": Availability("usable", "CuPy")})
    monkeypatch.setattr(registry, "backend_class", lambda _name: Works)
    assert diagnostics.gpu()["cupy"]["device"] == "GPU 0, a card"
    assert diagnostics.gpu()["cupy"]["driver_cuda"] == "13.0"


def test_data_lists_the_names_and_what_is_cached(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("FUSEDMLP_CACHE", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    document = cli("data", "--json").document
    assert set(document["datasets"]) == {"mnist", "fashion-mnist", "digits", "moons"}
    assert document["datasets"]["mnist"]["cache"] == str(tmp_path / "mnist")
    assert document["datasets"]["fashion-mnist"]["cache"] is None
    text = cli("data").stdout
    assert "after a download" in text
    assert "built in" in text


@pytest.mark.parametrize("name", ["digits", "moons"])
def test_data_describes_one(cli, name):
    document = cli("data", name, "--json").document
    expected = {"digits": (64, 10, 1437), "moons": (2, 2, 200)}[name]
    assert (document["inputs"], document["outputs"], document["rows"]["train"]) == expected
    assert 0 < document["density"] <= 1
    text = cli("data", name).stdout
    assert "scikit-learn" in text
    assert f"{expected[2]:,} train" in text
