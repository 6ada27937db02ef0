"""Wrong input of every kind: one clear error, its exit code, no traceback, nothing lost."""

from __future__ import annotations

import json

import numpy as np
import pytest
from clihelp import QUICK, contents

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


X = np.arange(12.0).reshape(6, 2)
Y = np.array([0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": X, "y": Y[:5]}, ("6 rows",)),
        ({"x": np.where(X == 3, np.nan, X), "y": Y}, ("nan", "finite")),
        ({"x": np.where(X == 3, np.inf, X), "y": Y}, ("inf", "finite")),
        ({"x": X.astype(str), "y": Y}, ("numbers",)),
        ({"x": X, "y": np.array([0, 1, 0, 1, -2, 1])}, ("-2", "0 to K-1")),
        ({"x": X[:0], "y": Y[:0]}, ("(0, 2)", "at least one row")),
        ({"a": X, "b": Y}, ("a, b", "x and y")),
    ],
)
def test_arrays(cli, npz, tmp_path, arrays, words):
    path = npz("set.npz", **arrays)
    cli("train", "--dataset", path).failed(ExitCode.USAGE, *words)
    assert set(contents(tmp_path)) == {"set.npz"}


def test_labels_that_are_not_whole_numbers_cannot_be_classes(cli, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    write_idx(folder / "train-images-idx3-ubyte", np.zeros((4, 2, 2), np.uint8))
    write_idx(folder / "train-labels-idx1-ubyte", np.array([0, 1, -1, 1], np.int8))
    cli("train", "--dataset", "./set").failed(ExitCode.USAGE, "-1")


@pytest.mark.parametrize("damage", ["truncated", "foreign"])
def test_damaged_idx_files(cli, tmp_path, damage):
    folder = tmp_path / "set"
    folder.mkdir()
    images = folder / "train-images-idx3-ubyte"
    write_idx(images, np.zeros((4, 2, 2), np.uint8))
    write_idx(folder / "train-labels-idx1-ubyte", np.array([0, 1, 0, 1], np.uint8))
    images.write_bytes(images.read_bytes()[:-3] if damage == "truncated" else b"GIF89a" * 9)
    word = "truncated" if damage == "truncated" else "not an IDX file"
    cli("train", "--dataset", "./set").failed(ExitCode.DATA_UNAVAILABLE, word, images.name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 99}, ("99", "upgrade fusedmlp")),
        ({"seed": None, "recipe": {}}, ("not sound", "epochs")),
        ({"kind": "shopping list"}, ("was not written by",)),
    ],
)
def test_settings_of_another_kind(cli, trained, change, words):
    path = trained / "settings.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    cli("train", "--resume", trained).failed(ExitCode.FAILURE, str(path), *words)
    absent = trained / "absent"
    cli("train", "--resume", absent).failed(ExitCode.FAILURE, str(absent), "folder of a training")


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.safetensors", "settings.json"])
@pytest.mark.parametrize("damage", ["truncated", "foreign", "absent"])
def test_damaged_files_of_a_training(cli, trained, name, damage):
    path = trained / name
    content = {"truncated": path.read_bytes()[:90], "foreign": b'{"a": 1}'}
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes(content[damage])
    before = contents(trained)
    if name == "model.safetensors":
        outcome = cli("evaluate", trained)
    elif (name, damage) == ("checkpoint.safetensors", "absent"):
        return  # starts again: tested with train
    else:
        outcome = cli("train", "--resume", trained)
    outcome.failed(ExitCode.FAILURE, str(path))
    assert contents(trained) == before


def test_a_model_of_another_shape_or_kind_than_the_data(cli, trained):
    outcome = cli("evaluate", trained, "--dataset", "moons")
    outcome.failed(ExitCode.USAGE, "64-12-10", "2 inputs", "name the data set")
    outcome = cli("predict", trained, "moons")
    outcome.failed(ExitCode.USAGE, "2 columns", "64 inputs")
    checkpoint = trained / "checkpoint.safetensors"
    outcome = cli("evaluate", checkpoint, "--dataset", "digits")
    outcome.failed(ExitCode.FAILURE, "fusedmlp-checkpoint", "fusedmlp-model")


def test_a_place_that_cannot_be_written_is_told_before_the_data_are_read(cli, tmp_path):
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


def test_bugs_keep_their_traceback(process, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import fusedmlp.cli.recipes as r\ndef boom(self): raise ZeroDivisionError('a bug')\n"
        "r.Recipe.check = boom\n"
    )
    outcome = process("train", *QUICK, env={"PYTHONPATH": str(tmp_path)})
    assert outcome.code == 1
    assert "Traceback" in outcome.stderr
    assert "ZeroDivisionError: a bug" in outcome.stderr
