"""``fusedmlp train``: what it writes and says, how options act, and resuming."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from clihelp import QUICK, contents, parameters

from fusedmlp import MLP, load_dataset
from fusedmlp.cli.options import option_fields
from fusedmlp.cli.recipes import DEFAULT_RECIPE, Recipe
from fusedmlp.cli.settings import RunOptions
from fusedmlp.cli.training import Result
from fusedmlp.errors import ExitCode

FILES = {
    "checkpoint.safetensors", "history.csv", "history.jsonl", "model.safetensors", "settings.json",
}  # fmt: skip


def recipe_of(folder):
    return json.loads(Path(folder, "settings.json").read_text())["recipe"]


def test_train_saves_the_model_and_its_history_and_says_what_came_out(cli, tmp_path):
    outcome = cli("train", *QUICK, "--output", "out")
    assert outcome.code == 0
    assert set(contents(tmp_path / "out")) == FILES
    data = load_dataset("digits")
    measured = MLP.load("out/model.safetensors", backend="numpy").evaluate(data.x_test, data.y_test)
    assert f"test accuracy   {measured.accuracy:.4f}" in outcome.stdout
    assert "samples/s" in outcome.stdout
    assert len((tmp_path / "out/history.csv").read_text().splitlines()) == 3
    assert "epoch 2/2  loss" in outcome.stderr
    assert "validation accuracy" in outcome.stderr
    assert "numpy (requested by FUSEDMLP_BACKEND)" in outcome.stderr


def test_json_is_one_object_alone_on_stdout(process):
    outcome = process("train", *QUICK, "--json", "--seed", 3)
    assert outcome.code == 0
    document = outcome.document
    assert document.keys() == {field.name for field in fields(Result)}
    assert (document["backend"], document["epochs"], document["seed"]) == ("numpy", 2, 3)
    assert 0 < document["test_accuracy"] <= 1
    assert document["samples_per_s"] > 0
    assert "epoch 1/2" in outcome.stderr
    assert "\x1b" not in outcome.stdout + outcome.stderr


def test_auto_says_why_it_chose(cli, monkeypatch):
    from fusedmlp import registry

    numpy_alone = {"numpy": registry.known_backends()["numpy"]}
    monkeypatch.setattr(registry, "known_backends", lambda: numpy_alone)
    monkeypatch.delenv("FUSEDMLP_BACKEND")
    outcome = cli("train", *QUICK)
    assert outcome.code == 0
    assert "numpy (auto: always available" in outcome.stderr
    assert "requested by argument" in cli("train", *QUICK, "--backend", "numpy").stderr


def test_options_reach_the_network_and_the_trainer(cli):
    given = {
        "hidden": "9,7", "activation": "tanh", "optimizer": "adam", "lr": 0.002,
        "batch-size": 50, "epochs": 1, "dropout": 0.1, "l2": 0.001, "schedule": "cosine",
        "validation": 0.25, "dtype": "float64",
    }  # fmt: skip
    options = [part for name, value in given.items() for part in (f"--{name}", value)]
    assert cli("train", "--dataset", "digits", *options, "--output", "out").code == 0
    expected = {name.replace("-", "_"): value for name, value in given.items()}
    assert recipe_of("out").items() >= (expected | {"hidden": [9, 7]}).items()
    network = MLP.load("out/model.safetensors").network
    assert (network.sizes, network.hidden, network.dropout) == ((64, 9, 7, 10), "tanh", 0.1)


def test_every_field_of_the_recipe_has_an_option_or_a_fixed_default():
    fixed = {field.name for field in fields(Recipe)} - option_fields(Recipe).keys()
    assert fixed == {"reduction", "init", "rows_per_epoch"}


def test_variables_stand_in_for_options_and_the_command_line_wins(cli, monkeypatch):
    variables = {"EPOCHS": "1", "HIDDEN": "5", "DATASET": "moons", "SEED": "8", "DATA": "/nowhere"}
    for name, value in variables.items():
        monkeypatch.setenv(f"FUSEDMLP_{name}", value)
    document = cli("train", "--json").document
    assert (document["dataset"], document["epochs"], document["seed"]) == ("moons", 1, 8)
    assert MLP.load(document["model"]).network.sizes == (2, 5, 2)
    assert cli("train", "--json", "--seed", 9).document["seed"] == 9


def test_another_optimizer_brings_its_own_learning_rate(cli):
    cli("train", *QUICK, "--optimizer", "adam", "--output", "adam")
    cli("train", *QUICK, "--output", "usual")
    assert (recipe_of("adam")["lr"], recipe_of("usual")["lr"]) == (0.001, DEFAULT_RECIPE.lr)


def test_each_training_gets_a_folder_of_its_own(cli):
    first, second = (cli("train", *QUICK, "--json").document["output"] for _ in range(2))
    assert first != second
    assert first.startswith("runs/digits-2")


@pytest.mark.parametrize(
    ("task", "output"), [("multilabel", "sigmoid"), ("regression", "identity")]
)
def test_other_tasks_get_their_output_layer(cli, npz, task, output):
    rng = np.random.default_rng(0)
    x = rng.random((200, 3))
    y = (x[:, :2] > 0.5).astype(float) if task == "multilabel" else x @ rng.random((3, 2))
    path = npz("set.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    outcome = cli("train", "--dataset", path, "--epochs", 60, "--hidden", 16, "--json")
    document = outcome.document
    network = MLP.load(document["model"]).network
    assert (network.output, network.n_outputs) == (output, 2)
    assert document["test_loss"] < (1.2 if task == "multilabel" else 0.02)
    assert (document["test_accuracy"] is None) == (task == "regression")


def test_a_set_without_test_part_gives_no_test_figures(cli, tmp_path):
    rows = "\n".join(f"{i % 7},{i % 3},{'ab'[i % 2]}" for i in range(60))
    (tmp_path / "table.csv").write_text(f"p,q,kind\n{rows}\n")
    outcome = cli("train", "--dataset", "table.csv", "--epochs", 1, "--json", "--test", 0)
    assert outcome.document["test_accuracy"] is None
    assert MLP.load(outcome.document["model"]).class_names == ("a", "b")


def test_an_output_with_a_training_in_it_is_refused_and_untouched(cli, trained):
    before = contents(trained)
    outcome = cli("train", *QUICK, "--output", trained, "--seed", 1)
    outcome.failed(ExitCode.USAGE, str(trained), "--resume", "another --output")
    assert contents(trained) == before


def test_resuming_for_more_epochs_gives_the_bits_of_one_training(cli, tmp_path):
    options = ("--dataset", "digits", "--hidden", 12, "--schedule", "constant")
    cli("train", *options, "--epochs", 5, "--output", "whole")
    cli("train", *options, "--epochs", 2, "--output", "parts")
    outcome = cli("train", "--resume", "parts", "--epochs", 5)
    assert outcome.code == 0
    assert "2 epochs of 5 finished, 3 to go" in outcome.stderr
    for one, other in zip(parameters("whole"), parameters("parts"), strict=True):
        np.testing.assert_array_equal(one, other)
    assert cli("train", "--resume", "parts", "--json").document["epochs"] == 5


def test_resuming_a_finished_training_says_so_and_repeats_its_results(cli):
    before = cli("train", *QUICK, "--output", "out", "--json").document
    outcome = cli("train", "--resume", "out/checkpoint.safetensors", "--json")
    assert outcome.code == 0
    assert "nothing left to do" in outcome.stderr
    assert outcome.document == before | {"compile_seconds": outcome.document["compile_seconds"]}


def test_a_training_killed_before_its_first_checkpoint_starts_again(cli, tmp_path, trained):
    before = contents(trained)["model.safetensors"]
    for name in ("checkpoint.safetensors", "model.safetensors"):
        (trained / name).unlink()
    assert cli("train", "--resume", trained).code == 0
    assert contents(trained)["model.safetensors"] == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--hidden", 13), ("--hidden 13", "12", "leave the option out")),
        (("--batch-size", 10), ("--batch-size 10", "64")),
        (("--epochs", 3, "--strict"), ("--strict on", "has off", "leave the option out")),
        (("--output", "x"), ("--output x",)),
    ],
)
def test_a_resume_refuses_what_would_change_the_training(cli, trained, options, words):
    before = contents(trained)
    cli("train", "--resume", trained, *options).failed(ExitCode.USAGE, *words)
    assert contents(trained) == before
    assert cli("train", "--resume", trained, "--hidden", 12, "--dataset", "digits").code == 0


def test_settings_of_a_release_without_an_option_get_its_default(cli, trained):
    settings = trained / "settings.json"
    document = json.loads(settings.read_text())
    new = [name for name, each in option_fields(RunOptions).items() if each.option.is_new]
    assert new == ["strict"]
    assert document.pop("strict") is False
    settings.write_text(json.dumps(document))
    assert cli("train", "--resume", trained, "--epochs", 3).code == 0


def test_strict_training_has_one_model_on_every_backend_and_stays_strict(cli, tmp_path):
    def check_equal(outcomes):
        for outcome in outcomes:
            assert outcome.code == 0
            assert "strict arithmetic" in outcome.stderr
        models = [contents(tmp_path / name)["model.safetensors"] for name in ("numpy", "numba")]
        assert models[0] == models[1]

    options = (*QUICK, "--strict", "--schedule", "constant")
    check_equal(
        [cli("train", *options, "--backend", name, "--output", name) for name in ("numpy", "numba")]
    )
    for name in ("numpy", "numba"):
        assert json.loads((tmp_path / name / "settings.json").read_text())["strict"] is True
    more = ("--epochs", 3, "--strict")
    check_equal(
        cli("train", "--resume", name, *more, "--backend", other)
        for name, other in (("numpy", "numba"), ("numba", "numpy"))
    )


def test_a_resume_may_start_in_another_folder(cli, tmp_path, monkeypatch, npz):
    rng = np.random.default_rng(1)
    npz("set.npz", x=rng.random((100, 3)), y=rng.integers(0, 2, 100))
    options = ("--schedule", "one-cycle", "--epochs", 1, "--output", "out")
    cli("train", "--dataset", "set.npz", *options)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    outcome = cli("train", "--resume", "../out", "--epochs", 2)
    assert outcome.code == 0, outcome.stderr
    assert "one-cycle schedule depends on the number of epochs" in outcome.stderr


def test_divergence_is_an_error_and_keeps_the_last_sound_epoch(cli, npz, tmp_path):
    rng = np.random.default_rng(2)
    path = npz("set.npz", x=rng.random((64, 3)), y=rng.random(64))
    options = ("--dataset", path, "--optimizer", "sgd", "--schedule", "constant")
    outcome = cli("train", *options, "--lr", "1e30", "--output", "at-once")
    outcome.failed(ExitCode.FAILURE, "epoch 1", "lower the learning rate")
    assert not (tmp_path / "at-once/model.safetensors").exists()
    outcome = cli("train", *options, "--lr", "8", "--hidden", "none", "--output", "later")
    outcome.failed(ExitCode.FAILURE, "NaN or infinite")
    assert "stopped after epoch" in outcome.stderr
    assert all(np.isfinite(array).all() for array in parameters("later"))


@pytest.mark.slow
def test_the_default_recipe_reaches_its_promise_on_mnist(process):
    outcome = process("train", "--json", env={"FUSEDMLP_BACKEND": "auto"})
    assert outcome.code == 0, outcome.stderr
    assert outcome.document["test_accuracy"] >= 0.98
    assert "(auto: " in outcome.stderr


def test_tensorboard_gets_every_epoch(cli, tmp_path):
    assert cli("train", *QUICK, "--output", "out", "--tensorboard", "board").code == 0
    (first,) = (tmp_path / "board").iterdir()
    assert cli("train", "--resume", "out", "--epochs", 3, "--tensorboard", "board").code == 0
    assert len(list((tmp_path / "board").iterdir())) == 2
    assert b"loss/train" in first.read_bytes()


def test_without_tensorboard_nothing_begins(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    outcome = cli("train", *QUICK, "--output", "out", "--tensorboard", "board")
    outcome.failed(ExitCode.FAILURE, "pip install 'fusedmlp[tensorboard]'")
    assert list(tmp_path.iterdir()) == []
