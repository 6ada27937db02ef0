"""Wrong input of every kind: one clear error, its exit code, no traceback, nothing lost."""

from __future__ import annotations

import json
import os
from itertools import product

import numpy as np
import pytest
from clihelp import QUICK, contents
from safetensors.numpy import save_file

from fusedmlp.datasets.idx import write_idx
from fusedmlp.errors import ExitCode


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--activation softsign", ("--activation 'softsign'", "sigmoid", "relu")),
        ("--optimizer adagrad", ("--optimizer 'adagrad'", "nesterov", "adamw")),
        ("--schedule warm", ("--schedule 'warm'", "one-cycle")),
        ("--dtype float16", ("--dtype 'float16'", "float32", "float64")),
        ("--dataset cifar", ("--dataset 'cifar'", "mnist", "digits")),
        ("--dataset mnist --split half", ("--split 'half'", "canonical", "workshop")),
        ("--dataset mnist --source ftp", ("--source 'ftp'", "mirror", "pypi")),
        ("--hidden 12,x", ("'12,x'", "256,128")),
        ("--hidden 0", ("0", "at least 1")),
        ("--batch-size 5000", ("5000", "1293")),
        ("--batch-size 0", ("--batch-size 0", "at least 1")),
        ("--epochs 0", ("--epochs 0", "at least 1")),
        ("--lr -1", ("--lr -1", "above 0")),
        ("--lr nan", ("--lr nan", "finite")),
        ("--dropout 1", ("--dropout 1", "[0, 1)")),
        ("--l2 -0.1", ("--l2 -0.1", "at least 0")),
        ("--validation 1", ("--validation 1", "[0, 1)")),
        ("--seed -1", ("--seed -1",)),
        ("--threads 0", ("--threads 0", "at least 1")),
        ("--data-dir here", ("--data-dir 'here'", "digits", "leave it out")),
    ],
)
def test_options(cli, tmp_path, options, words):
    base = () if "--dataset" in options else QUICK
    cli("train", *base, *options.split()).failed(ExitCode.USAGE, *words)
    assert contents(tmp_path) == {}
    assert not (tmp_path / "runs").exists()


def test_an_unknown_backend_is_named_with_the_choices_before_any_work(cli, tmp_path):
    outcome = cli("train", "--backend", "tpu")
    outcome.failed(ExitCode.USAGE, "'tpu'", "numpy", "numba", "cupy", "auto")
    assert "mnist" not in outcome.stderr
    cli("train", *QUICK, "--backend", "cupy:x").failed(ExitCode.USAGE, "'x'", "cupy:0")
    assert list(tmp_path.iterdir()) == []


def test_an_unavailable_backend_is_an_error_with_its_remedy_and_no_fallback(cli, monkeypatch):
    from fusedmlp import registry
    from fusedmlp.backend import Availability

    missing = registry.unavailable("cupy", Availability("missing", "no CuPy", "pip install it"))

    def refuse(*_args, **_keywords):
        raise missing

    monkeypatch.setattr("fusedmlp.cli.backend_choice.create", refuse)
    outcome = cli("train", *QUICK, "--backend", "cupy")
    outcome.failed(ExitCode.BACKEND_UNAVAILABLE, "no CuPy", "pip install it")


def test_misused_options_keep_the_usage_exit_code(cli):
    assert cli("train", "--no-such-option").code == ExitCode.USAGE
    assert cli("train", "--epochs", "many").code == ExitCode.USAGE
    assert cli("no-such-command").code == ExitCode.USAGE


def test_data_that_do_not_fit(cli, npz, tmp_path):
    path = npz("set.npz", x=np.ones((6, 2)), y=np.zeros(5))
    cli("train", "--dataset", path).failed(ExitCode.USAGE, "set", "6 rows")
    folder = tmp_path / "set"
    folder.mkdir()
    images = folder / "train-images-idx3-ubyte"
    images.write_bytes(b"GIF89a" * 9)
    write_idx(folder / "train-labels-idx1-ubyte", np.array([0, 1], np.uint8))
    outcome = cli("train", "--dataset", "./set")
    outcome.failed(ExitCode.DATA_UNAVAILABLE, "not an IDX file", images.name)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 99}, ("99", "upgrade fusedmlp")),
        ({"recipe": {}}, ("not sound", "it has no hidden")),
        ({"recipe": [1]}, ("not sound", "[1]")),
        ({"kind": "shopping list"}, ("was not written by",)),
        ({"seed": None}, ("not sound", "seed None is not of type int")),
        ({"seed": "0"}, ("not sound", "seed '0' is not of type int")),
        ({"dataset": ["digits"]}, ("not sound", "dataset ['digits'] is not of type str")),
        ({"data_dir": 5}, ("not sound", "data_dir 5 is not of type str")),
        ({"threads": 1.5}, ("not sound", "threads 1.5 is not of type int")),
        ({"strict": "no"}, ("not sound", "strict 'no' is not of type bool")),
    ],
)
def test_settings_of_another_kind(cli, trained, change, words):
    path = trained / "settings.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    cli("train", "--resume", trained).failed(ExitCode.DATA_UNAVAILABLE, str(path), *words)


NESTED = "[" * 100_000 + "]" * 100_000
"""Python 3.13 reads a depth of 9,000, older ones less than 1,500."""


def test_files_nested_deeper_than_python_reads(cli, trained):
    (trained / "settings.json").write_text(NESTED)
    cli("train", "--resume", trained).failed(ExitCode.DATA_UNAVAILABLE, "settings.json")
    model = trained / "model.safetensors"
    save_file({"a": np.ones(3)}, model, metadata={"fusedmlp": NESTED})
    cli("predict", model, "digits").failed(ExitCode.DATA_UNAVAILABLE, str(model), "not JSON")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("make", ["mkfifo", "mkdir"])
@pytest.mark.parametrize("name", ["settings.json", "checkpoint.safetensors", "model.safetensors"])
def test_a_folder_or_pipe_in_the_place_of_a_file(cli, trained, name, make):
    (trained / name).unlink()
    getattr(os, make)(trained / name)
    reading = ("evaluate",) if name == "model.safetensors" else ("train", "--resume")
    cli(*reading, trained).failed(ExitCode.DATA_UNAVAILABLE, name, "is a ")


LONG = "x" * 300
"""A name that the system refuses, as it does a path below a folder without permission."""


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("data", f"{LONG}.npz"), ExitCode.DATA_UNAVAILABLE),
        (("data", f"{LONG}/set.csv"), ExitCode.DATA_UNAVAILABLE),
        (("predict", "trained", f"{LONG}.npy"), ExitCode.DATA_UNAVAILABLE),
        (("predict", LONG, "moons"), ExitCode.FAILURE),
        (("train", "--resume", LONG), ExitCode.FAILURE),
    ],
)
def test_a_path_that_the_system_refuses(cli, trained, command, code):
    cli(*command).failed(code, LONG, "File name too long")


def test_a_folder_that_is_not_there(cli, tmp_path):
    absent = tmp_path / "absent"
    cli("train", "--resume", absent).failed(ExitCode.FAILURE, str(absent), "folder of a training")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *product(
            ("model.safetensors", "checkpoint.safetensors", "settings.json"),
            ("truncated", "foreign"),
        ),
        ("model.safetensors", "absent"),
        ("settings.json", "absent"),
    ],
)
def test_damaged_files_of_a_training(cli, trained, name, damage):
    path = trained / name
    content = path.read_bytes()[:90] if damage == "truncated" else b'{"a": 1}'
    path.unlink()
    if damage != "absent":
        path.write_bytes(content)
    before = contents(trained)
    reading = ("evaluate",) if name == "model.safetensors" else ("train", "--resume")
    code = ExitCode.FAILURE if damage == "absent" else ExitCode.DATA_UNAVAILABLE
    cli(*reading, trained).failed(code, str(path))
    assert contents(trained) == before


def test_a_model_of_another_shape_or_kind_than_the_data(cli, trained):
    outcome = cli("evaluate", trained, "--dataset", "moons")
    outcome.failed(ExitCode.USAGE, "64-12-10", "2 inputs", "name the data set")
    outcome = cli("predict", trained, "moons")
    outcome.failed(ExitCode.USAGE, "2 columns", "64 inputs")
    checkpoint = trained / "checkpoint.safetensors"
    outcome = cli("evaluate", checkpoint, "--dataset", "digits")
    outcome.failed(ExitCode.DATA_UNAVAILABLE, "fusedmlp-checkpoint", "fusedmlp-model")


def test_a_folder_that_cannot_be_written_is_an_error_before_the_data_are_read(cli, tmp_path):
    (tmp_path / "file").write_text("mine")
    outcome = cli("train", *QUICK, "--output", "file/below")
    outcome.failed(ExitCode.FAILURE, "file/below", "choose another folder")
    (tmp_path / "runs").write_text("mine too")
    cli("train", *QUICK).failed(ExitCode.FAILURE, "runs", "--output")
    assert contents(tmp_path) == {"file": b"mine", "runs": b"mine too"}


def test_a_full_disk_keeps_the_files_of_earlier_epochs(process, trained):
    """A limit on file sizes stands in for the full disk: writing fails half-way the same."""
    before = contents(trained)
    limit = "ulimit -f 4"  # blocks of 1,024 bytes; the checkpoint needs more
    outcome = process("train", "--resume", trained, "--epochs", 30, shell=limit)
    outcome.failed(ExitCode.FAILURE, "cannot write", str(trained), "free space")
    after = contents(trained)
    for name in ("model.safetensors", "checkpoint.safetensors"):
        assert after[name] == before[name]
    assert not [name for name in after if name.endswith(".tmp")]


def test_no_network_is_one_error_with_the_manual_way(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("FUSEDMLP_CACHE", str(tmp_path / "cache"))
    outcome = cli("train", "--source", "cache")
    outcome.failed(ExitCode.DATA_UNAVAILABLE, "By hand", "--data-dir", "FUSEDMLP_DATA")
    assert not (tmp_path / "runs").exists()


def test_a_folder_without_the_data_set_is_an_error_and_no_download(cli, tmp_path):
    outcome = cli("data", "mnist", "--data-dir", tmp_path)
    outcome.failed(ExitCode.DATA_UNAVAILABLE, f"no IDX files in {tmp_path}", "By hand")
    assert "trying" not in outcome.stderr
    outcome = cli("train", "--data-dir", tmp_path, "--source", "mirror")
    outcome.failed(ExitCode.USAGE, "exclude each other")


def test_bugs_keep_their_traceback(process, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import fusedmlp.cli.recipes as r\ndef boom(self): raise ZeroDivisionError('a bug')\n"
        "r.Recipe.check = boom\n"
    )
    outcome = process("train", *QUICK, env={"PYTHONPATH": str(tmp_path)})
    assert outcome.code == 1
    assert "Traceback" in outcome.stderr
    assert "ZeroDivisionError: a bug" in outcome.stderr
