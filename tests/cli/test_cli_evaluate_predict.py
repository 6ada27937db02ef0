"""``evaluate`` and ``predict``: figures and predictions agree with the library's."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from clihelp import contents

from fusedmlp import MLP, load_dataset
from fusedmlp.datasets.idx import write_idx
from fusedmlp.errors import ExitCode


@pytest.fixture
def mlp(trained):
    return MLP.load(trained / "model.safetensors", backend="numpy")


@pytest.fixture
def rows(tmp_path):
    """Five rows, also as rows.npy."""
    rows = load_dataset("digits").x_test[:5]
    np.save(tmp_path / "rows.npy", rows)
    return rows


def test_evaluate_agrees_with_the_library(cli, trained, mlp):
    data = load_dataset("digits")
    expected = mlp.evaluate(data.x_test, data.y_test)
    document = cli("evaluate", trained, "--json").document
    assert (document["loss"], document["accuracy"]) == (expected.loss, expected.accuracy)
    assert document["error_rate"] == pytest.approx(1 - expected.accuracy)
    matrix = np.zeros((10, 10), int)
    np.add.at(matrix, (data.y_test, mlp.predict(data.x_test)), 1)
    np.testing.assert_array_equal(document["confusion"], matrix)
    shares = matrix.diagonal() / matrix.sum(axis=1)
    assert document["class_accuracy"] == pytest.approx(shares.tolist())


def test_evaluate_shows_figures_classes_and_part(cli, trained):
    outcome = cli("evaluate", trained / "model.safetensors", "--part", "train")
    assert outcome.code == 0
    assert "train part, 1,437 rows" in outcome.stdout
    assert "error rate" in outcome.stdout
    header = next(line for line in outcome.stdout.splitlines() if line.startswith("class "))
    assert header.split() == ["class", "accuracy", *map(str, range(10))]


def test_evaluate_needs_to_know_the_data(cli, trained):
    alone = trained.parent / "alone.safetensors"
    alone.write_bytes((trained / "model.safetensors").read_bytes())
    cli("evaluate", alone).failed(ExitCode.USAGE, "settings.json", "--dataset")
    assert cli("evaluate", alone, "--dataset", "digits").code == 0
    cli("evaluate", trained, "--part", "none").failed(ExitCode.USAGE, "'none'", "test, train")


def test_evaluate_splits_as_the_training_did(cli, tmp_path):
    options = ("--dataset", "moons", "--epochs", 1, "--seed", 5)
    cli("train", *options, "--output", tmp_path / "out")
    default, same, other = (
        cli("evaluate", "out", "--part", "train", "--json", *seed).document["loss"]
        for seed in ((), ("--seed", 5), ("--seed", 6))
    )
    assert default == same != other


@pytest.mark.parametrize(
    ("targets", "shown"), [(lambda x: (x > 0.5).astype(int), "label"), (lambda x: x[:, 0], "loss")]
)
def test_evaluate_describes_other_tasks(cli, npz, targets, shown):
    x = np.random.default_rng(0).random((80, 3))
    path = npz("set.npz", x=x, y=targets(x))
    options = ("--test", 0, "--epochs", 1, "--output", "out")
    assert cli("train", "--dataset", path, *options).code == 0
    cli("evaluate", "out", "--part", "test").failed(ExitCode.USAGE, "no test part", "--part all")
    text = cli("evaluate", "out").stdout
    assert "set, all 80 rows" in text
    assert shown in text
    document = cli("evaluate", "out", "--part", "train", "--json").document
    has_accuracy = shown == "label"
    assert ("error rate" in text) == has_accuracy
    assert (document["accuracy"] is not None) == has_accuracy
    assert (document["rmse"] is None) == has_accuracy
    assert ("R²" in text) != has_accuracy


def test_predict_reads_every_kind_of_file(cli, trained, mlp, tmp_path, rows):
    np.savez(tmp_path / "rows.npz", x=rows)
    np.savetxt(tmp_path / "rows.csv", rows, delimiter=",")
    head = ",".join(f"p{i}" for i in range(64)) + ",digit"
    with_target = np.column_stack([rows, np.full(5, 3)])
    np.savetxt(tmp_path / "target.csv", with_target, delimiter=",", header=head, comments="")
    for arguments in (
        ("rows.npy",),
        ("rows.npz",),
        ("rows.csv",),
        ("target.csv", "--drop", "digit"),
        ("target.csv", "--drop", 64),
    ):
        document = cli("predict", trained, *arguments, "--json").document
        assert document["predictions"] == list(mlp.predict(rows))
    pixels = np.round(rows.reshape(5, 8, 8) * 255).astype(np.uint8)
    write_idx(tmp_path / "images-idx3-ubyte", pixels)
    assert cli("predict", trained, "images-idx3-ubyte", "--json").document["rows"] == 5
    assert cli("predict", trained, "digits", "--json").document["rows"] == 360


def test_predict_writes_csv_on_stdout_alone(process, trained, mlp, rows):
    outcome = process("predict", trained, "rows.npy")
    assert outcome.stdout == "prediction\n" + "".join(f"{k}\n" for k in mlp.predict(rows))
    table = list(csv.reader(io.StringIO(process("predict", trained, "rows.npy", "--proba").stdout)))
    assert table[0] == [str(digit) for digit in range(10)]
    np.testing.assert_array_equal(np.array(table[1:], np.float32), mlp.predict_proba(rows))


def test_predict_writes_files_and_overwrites_none(cli, trained, mlp, tmp_path, rows):
    assert cli("predict", trained, "rows.npy", "--output", "out.npy").stdout == ""
    np.testing.assert_array_equal(np.load("out.npy"), mlp.predict(rows))
    assert cli("predict", trained, "rows.npy", "--output", "out.csv").code == 0
    before = contents(tmp_path)
    for name, words in (("out.csv", ("out.csv exists", "another")), ("out.txt", (".csv or .npy",))):
        cli("predict", trained, "rows.npy", "--output", name).failed(ExitCode.USAGE, *words)
    assert contents(tmp_path) == before


def test_predict_names_the_classes(cli, tmp_path):
    (tmp_path / "set.csv").write_text("a,b,kind\n" + "0,0,hen\n1,1,cow\n" * 20)
    cli("train", "--dataset", "set.csv", "--epochs", 100, "--output", "out")
    (tmp_path / "new.csv").write_text("a,b\n0,0\n1,1\n")
    assert cli("predict", "out", "new.csv").stdout == "prediction\nhen\ncow\n"
    assert cli("predict", "out", "new.csv", "--proba").stdout.startswith("cow,hen\n")


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("absent.csv", None, ExitCode.DATA_UNAVAILABLE, ("neither a file", ".npz", "digits")),
        ("a.csv", b"", ExitCode.USAGE, ("empty",)),
        ("a.csv", b"1,2\n3\n", ExitCode.USAGE, ("line 2", "1 cell, expected 2")),
        ("a.csv", b"1,2\n3,x\n", ExitCode.USAGE, ("column 1 holds text ('2')", "--drop")),
        ("a.csv", b"1,2\n3,4\n", ExitCode.USAGE, ("2 columns", "64 inputs", "--drop")),
        ("a.csv", b"1," * 63 + b"nan\n", ExitCode.USAGE, ("column 63", "no value in row 0")),
        ("a.csv", b"\xff\xfe\x00", ExitCode.DATA_UNAVAILABLE, ("UTF-8",)),
        ("a.npy", b"\x93NUMPY\x01", ExitCode.DATA_UNAVAILABLE, ("truncated",)),
        ("a.npz", b"PK\x03\x04", ExitCode.DATA_UNAVAILABLE, ("truncated",)),
        ("a.idx", b"\x00\x00\x08\x03", ExitCode.DATA_UNAVAILABLE, ("truncated",)),
        ("a.pkl", b"\x80\x04K\x01.", ExitCode.DATA_UNAVAILABLE, ("not an IDX file",)),
    ],
)
def test_predict_refuses_unsound_files(cli, trained, tmp_path, name, content, code, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    cli("predict", trained, name).failed(code, name, *words)


def test_predict_refuses_options_that_do_not_apply(cli, trained, tmp_path, rows):
    outcome = cli("predict", trained, "rows.npy", "--drop", "x")
    outcome.failed(ExitCode.USAGE, ".csv files")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    outcome = cli("predict", trained, "a.csv", "--drop", "c")
    outcome.failed(ExitCode.USAGE, "'c'", "a, b")
    np.savez(tmp_path / "odd.npz", rows=np.zeros((2, 64)))
    cli("predict", trained, "odd.npz").failed(ExitCode.USAGE, "holds rows", "x_test")
