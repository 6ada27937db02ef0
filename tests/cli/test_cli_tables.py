"""Plain tables on the command line: train, evaluate and predict without any option."""

from __future__ import annotations

import csv
import io

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from fusedmlp import MLP
from fusedmlp.errors import ExitCode


@pytest.fixture(scope="module")
def frames():
    """The tables, and one with text, missing values, an identifier and text labels."""
    rng = np.random.default_rng(0)
    n_rows = 240
    letters = pd.DataFrame({"id": np.arange(n_rows) * 7, "size": rng.normal(5e4, 1e4, n_rows)})
    letters["subject"] = rng.choice(["offer", "invoice", "lunch"], n_rows)
    letters["kind"] = np.where(letters.subject == "offer", "spam", "ham")
    letters.loc[rng.random(n_rows) < 0.1, "size"] = np.nan
    named = {"letters": letters}
    for load in (load_iris, load_breast_cancer, load_diabetes):
        named[load.__name__.removeprefix("load_")] = load(as_frame=True).frame
    return named


@pytest.fixture
def written(frames, tmp_path):
    for name, frame in frames.items():
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    return frames


@pytest.fixture
def letters(written, cli):
    """A model of the letters, in the folder ``out``."""
    outcome = cli("train", "--dataset", "letters.csv", "--drop", "id", "--output", "out")
    assert outcome.code == 0, outcome.stderr
    return written["letters"]


@pytest.mark.parametrize(
    ("name", "figure", "least"),
    [
        ("iris", "test_accuracy", 0.9),
        ("breast_cancer", "test_accuracy", 0.93),
        ("diabetes", "test_r2", 0.1),
    ],
)
def test_the_plain_command_learns_a_plain_table(cli, written, name, figure, least):
    outcome = cli("train", "--dataset", f"{name}.csv", "--output", "out", "--json")
    assert outcome.document[figure] > least
    assert "the model has learnt little" not in outcome.stderr
    evaluated = cli("evaluate", "out", "--json").document
    assert evaluated["loss"] == pytest.approx(outcome.document["test_loss"])
    frame = written[name]
    predicted = MLP.load("out/model.safetensors", backend="numpy").predict(frame)
    document = cli("predict", "out", f"{name}.csv", "--json").document
    assert document["predictions"] == list(predicted)
    score = np.corrcoef(predicted, frame.target)[0, 1]
    assert score > (0.5 if name == "diabetes" else 0.9)


def test_what_was_decided_is_said_with_the_way_to_override_it(cli, written):
    outcome = cli("train", "--dataset", "diabetes.csv", "--epochs", 1, "--output", "out")
    assert "214 different whole numbers" in outcome.stderr
    assert "--task classification" in outcome.stderr
    outcome = cli("train", "--dataset", "iris.csv", "--task", "regression", "--epochs", 1)
    assert "test R²" in outcome.stdout
    cli("train", "--dataset", "iris.csv", "--task", "ranking").failed(
        ExitCode.USAGE, "--task 'ranking'", "regression"
    )


def test_order_and_further_columns_do_not_matter(cli, letters, tmp_path):
    expected = cli("evaluate", "out", "--part", "all", "--json").document
    assert expected["accuracy"] > 0.95
    letters[["kind", "subject", "id", "size"]].to_csv(tmp_path / "other.csv", index=False)
    found = cli("evaluate", "out", "--dataset", "other.csv", "--json").document
    assert (found["part"], found["rows"]) == ("all", 240)
    assert (found["accuracy"], found["loss"]) == (
        expected["accuracy"],
        pytest.approx(expected["loss"]),
    )
    plain = cli("predict", "out", "letters.csv").stdout
    assert cli("predict", "out", "other.csv").stdout == plain
    letters[["size", "subject"]].to_csv(tmp_path / "inputs.csv", index=False)
    assert cli("predict", "out", "inputs.csv").stdout == plain
    assert set(plain.split()) == {"prediction", "ham", "spam"}


def test_columns_that_are_not_used_are_named_once(cli, letters):
    outcome = cli("predict", "out", "letters.csv")
    assert "columns that the model does not use: id" in outcome.stderr
    assert "kind" not in outcome.stderr


@pytest.mark.parametrize("kind", ["spam", "ham"])
def test_rows_of_one_class_can_be_measured(cli, letters, tmp_path, kind):
    letters[letters.kind == kind].to_csv(tmp_path / "one.csv", index=False)
    document = cli("evaluate", "out", "--dataset", "one.csv", "--json").document
    assert document["accuracy"] > 0.95
    assert document["class_names"] == ["ham", "spam"]


def test_unknown_labels_and_missing_columns_are_refused(cli, letters, tmp_path):
    letters.replace({"kind": {"spam": "eggs"}}).to_csv(tmp_path / "eggs.csv", index=False)
    cli("evaluate", "out", "--dataset", "eggs.csv").failed(
        ExitCode.USAGE, "eggs.csv", "is 'eggs'", "not one of the labels 'ham', 'spam'"
    )
    letters[["size", "kind"]].to_csv(tmp_path / "less.csv", index=False)
    for command in (("evaluate", "out", "--dataset"), ("predict", "out")):
        cli(*command, "less.csv").failed(ExitCode.USAGE, "lacks the columns subject")


def test_unknown_texts_and_missing_values_are_predicted(cli, letters, tmp_path):
    (tmp_path / "new.csv").write_text("subject,size\nunheard,\nNA,5e4\n")
    table = list(csv.reader(io.StringIO(cli("predict", "out", "new.csv", "--proba").stdout)))
    assert table[0] == ["ham", "spam"]
    assert np.array(table[1:], float).sum(axis=1) == pytest.approx([1, 1], abs=1e-6)


def test_an_identifier_among_the_inputs_is_refused(cli, tmp_path):
    rows = "".join(f"name {i},{i % 5},{i % 2}\n" for i in range(400))
    (tmp_path / "people.csv").write_text(f"name,a,y\n{rows}")
    cli("train", "--dataset", "people.csv").failed(
        ExitCode.USAGE, "column 'name' has 320 different texts", "leave the column out"
    )
    assert cli("train", "--dataset", "people.csv", "--drop", "name", "--epochs", 1).code == 0


def test_a_test_file(cli, letters, tmp_path):
    letters[:200].to_csv(tmp_path / "a.csv", index=False)
    letters[200:].to_csv(tmp_path / "b.csv", index=False)
    options = ("--dataset", "a.csv", "--test", "b.csv", "--drop", "id", "--epochs", 3)
    document = cli("train", *options, "--output", "two", "--json").document
    assert document["test_rows"] == 40
    assert cli("evaluate", "two", "--json").document["loss"] == pytest.approx(document["test_loss"])
    cli("train", "--dataset", "a.csv", "--test", 1.5).failed(ExitCode.USAGE, "--test 1.5", "[0, 1)")


def test_a_model_that_has_learnt_nothing_is_said_so(cli, tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(300, 3)), columns=list("abc"))
    frame.assign(y=(rng.random(300) < 0.2).astype(int)).to_csv(tmp_path / "noise.csv", index=False)
    outcome = cli("train", "--dataset", "noise.csv", "--epochs", 5)
    assert "about the share of the largest class" in outcome.stderr
    assert "--target" in outcome.stderr
    frame.assign(y=rng.normal(size=300)).to_csv(tmp_path / "noise.csv", index=False)
    assert "no better than the mean" in cli("train", "--dataset", "noise.csv", "--epochs", 5).stderr


def test_early_stopping_keeps_the_best_epoch(cli, written, tmp_path):
    options = ("--dataset", "breast_cancer.csv", "--lr", 0.02, "--patience", 3, "--json")
    document = cli("train", *options, "--output", "out").document
    losses = pd.read_csv(tmp_path / "out/history.csv").validation_loss
    assert document["best_epoch"] == losses.argmin() + 1
    assert document["epochs"] == document["best_epoch"] + 3
    assert (
        losses.min() == document["validation_loss"] or document["epochs"] > document["best_epoch"]
    )


def test_a_resumed_training_of_a_table_ends_at_the_same_model(cli, written, tmp_path):
    for folder, epochs in (("whole", (6,)), ("parts", (2, 6))):
        cli("train", "--dataset", "diabetes.csv", "--epochs", epochs[0], "--output", folder)
        for more in epochs[1:]:
            assert cli("train", "--resume", folder, "--epochs", more).code == 0
    whole, parts = (tmp_path / f"{name}/model.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


@pytest.mark.parametrize("header", ["2019,2020,y", "0,1,2", ",b,y"])
def test_headers_follow_the_same_rule_in_all_commands(cli, tmp_path, header):
    index = header.startswith(",")
    rows = [f"{i if index else i % 7},{i * 0.5},{i % 2}" for i in range(60)]
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    assert cli("train", "--dataset", "t.csv", "--epochs", 1, "--output", "out").code == 0
    expected = cli("predict", "out", "t.csv", "--json").document["predictions"]
    assert len(expected) == 60
    frame = pd.read_csv(tmp_path / "t.csv").iloc[:, int(index) : -1]
    frame[frame.columns[::-1]].to_csv(tmp_path / "inputs.csv", index=False)
    assert cli("predict", "out", "inputs.csv", "--json").document["predictions"] == expected
    assert (
        cli("evaluate", "out", "--dataset", "t.csv", "--part", "all", "--json").document["rows"]
        == 60
    )
    data = cli("data", "t.csv", "--json").document
    assert data["rows"] == {"train": 48, "test": 12}
    assert data["inputs"] == (1 if index else 2)


def test_numbers_with_underscores_are_refused_by_all_commands(cli, written, tmp_path):
    rows = "".join(f"{i},{i},{i % 2}\n" for i in range(60))
    (tmp_path / "t.csv").write_text(f"a,b,y\n{rows}")
    (tmp_path / "odd.csv").write_text(f"a,b,y\n{rows}1_000,2,1\n")
    assert cli("train", "--dataset", "t.csv", "--epochs", 1, "--output", "out").code == 0
    for command in (("train", "--dataset"), ("predict", "out"), ("evaluate", "out", "--dataset")):
        cli(*command, "odd.csv").failed(ExitCode.USAGE, "line 62", "'1_000' is no number")


def test_the_matrix_of_many_classes_has_no_empty_lines(cli, tmp_path):
    rows = "".join(f"{i % 12},{i % 5},class number {i % 12}\n" for i in range(240))
    (tmp_path / "t.csv").write_text(f"a,b,y\n{rows}")
    cli("train", "--dataset", "t.csv", "--epochs", 2, "--output", "out")
    table = cli("evaluate", "out").stdout.split("\n\n")[1].strip().splitlines()
    assert "confusion" in " ".join(table[14:])  # of a matrix that has no place in the terminal
    assert all(line.strip() for line in table)
    assert len(cli("evaluate", "out", "--json").document["confusion"]) == 12
