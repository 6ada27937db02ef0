"""``fusedmlp demo``: the page that it writes, and what it refuses. No browser is needed here."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pandas as pd
import pytest

from fusedmlp import MLP
from fusedmlp.demo import demo_page
from fusedmlp.errors import ExitCode
from fusedmlp.preprocessing import Preprocessing, Table


def payload_of(text):
    (found,) = re.findall(r'<script type="application/json" id="model">(.*?)</script>', text)
    return json.loads(found)


def array(value):
    return np.frombuffer(base64.b64decode(value["base64"]), "<f4")


@pytest.fixture
def save(tmp_path):
    """Save a model that is not trained."""

    def save(*arguments, **options):
        mlp = MLP(*arguments, **options)
        mlp.save(tmp_path / "model.safetensors")
        return mlp

    return save


def test_a_page_to_draw_on_holds_the_model(cli, trained, tmp_path):
    outcome = cli("demo", trained, "-o", tmp_path / "page.html", "--json")
    assert outcome.code == 0, outcome.stderr
    text = (tmp_path / "page.html").read_text("utf-8")
    assert outcome.document["bytes"] == len(text.encode())
    payload, mlp = payload_of(text), MLP.load(trained / "model.safetensors")
    assert payload["network"]["sizes"] == [64, 12, 10]
    assert payload["classes"] == [str(digit) for digit in range(10)]
    assert payload["image"]["side"] == 8
    for found, W in zip(payload["network"]["weights"], mlp.parameters.weights, strict=True):
        np.testing.assert_array_equal(array(found).reshape(W.shape), W)
    # Nothing is loaded: no address, no import, and a policy that forbids both.
    assert "http:" not in text.replace("http-equiv", "")
    assert "https:" not in text
    assert not re.search(r"^\s*(import|export)\b", text, re.MULTILINE)
    assert "default-src 'none'" in text
    assert not re.search(r"\$(title|style|body|data|script)\b", text)


def test_a_page_of_the_plane_takes_the_data_of_the_training(cli, tmp_path):
    options = ("--dataset", "moons", "--hidden", "4", "--epochs", "1")
    assert cli("train", *options, "--output", "out").code == 0
    assert cli("demo", "out", "--output", "page.html").code == 0
    plane = payload_of((tmp_path / "page.html").read_text("utf-8"))["plane"]
    assert array(plane["x"]).size == 2 * array(plane["y"]).size / 2 == 400
    start = MLP((2, 4, 2)).parameters
    np.testing.assert_array_equal(array(plane["start"]["weights"][0]), start.weights[0].ravel())


def test_columns_of_a_table_keep_their_names_and_units(cli, tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"height": rng.normal(170, 10, 60), "mass": rng.normal(70, 9, 60)})
    frame["kind"] = np.where(frame.height + frame.mass > 240, "large", "small")
    frame.to_csv("table.csv", index=False)
    assert cli("train", "--dataset", "table.csv", "--epochs", "2", "--output", "out").code == 0
    outcome = cli("demo", "out", "-o", "page.html")
    assert outcome.code == 0, outcome.stderr
    payload = payload_of((tmp_path / "page.html").read_text("utf-8"))
    assert payload["classes"] == ["large", "small"]
    height, mass = payload["plane"]["columns"]
    assert (height["name"], mass["name"]) == ("height", "mass")
    shown = array(payload["plane"]["x"])[::2] * height["scale"] + height["center"]
    nearest = np.abs(shown[:, None] - frame.height.to_numpy()).min(axis=1)
    assert nearest.max() < 1e-3


def test_the_page_of_the_usual_network_is_small():
    assert len(demo_page(MLP((784, 256, 10))).encode()) < 2e6


def test_class_names_cannot_leave_their_place():
    mlp = MLP((64, 3))
    mlp.class_names = ("</script><script>alert(1)</script>", "<!--", "$title")
    text = demo_page(mlp)
    assert "<script>alert" not in text
    assert payload_of(text)["classes"] == list(mlp.class_names)


@pytest.mark.parametrize(
    ("sizes", "options", "words"),
    [
        ((30, 5, 2), {}, ("30-5-2", "2 inputs", "784")),
        ((16, 5, 2), {}, ("16-5-2", "2 inputs", "8 × 8")),
        ((64, 5, 2), {"output": "identity"}, ("predicts values", "softmax")),
        ((2, 5, 2), {}, ("settings.json", "--dataset NAME")),
    ],
)
def test_models_that_cannot_be_shown(cli, save, tmp_path, sizes, options, words):
    save(sizes, **options)
    outcome = cli("demo", "model.safetensors", "-o", "page.html")
    outcome.failed(ExitCode.USAGE, *words)
    assert not (tmp_path / "page.html").exists()


def test_data_that_do_not_fit(cli, save, trained):
    outcome = cli("demo", trained, "-o", "page.html", "--dataset", "digits")
    outcome.failed(ExitCode.USAGE, "--dataset digits", "two inputs", "leave it out")
    save((2, 5, 3))
    outcome = cli("demo", "model.safetensors", "-o", "page.html", "--dataset", "moons")
    outcome.failed(ExitCode.USAGE, "2-5-3", "moons")


def test_a_column_of_text_has_no_plane(cli, save):
    mlp = MLP((2, 3, 2))
    mlp.preprocessing = Preprocessing.fit(
        Table.of(pd.DataFrame({"colour": ["red", "blue", "red", "blue"]}))
    )
    mlp.save("model.safetensors")
    pd.DataFrame({"colour": ["red", "blue"] * 5, "y": [0, 1] * 5}).to_csv("t.csv", index=False)
    outcome = cli("demo", "model.safetensors", "-o", "page.html", "--dataset", "t.csv")
    outcome.failed(ExitCode.USAGE, "'colour'", "two columns of numbers")


def test_the_target_is_checked_first(cli, tmp_path):
    cli("demo", "nowhere", "-o", tmp_path).failed(ExitCode.USAGE, "is a folder")
    cli("demo", "nowhere").failed(ExitCode.USAGE, "--output")
    outcome = cli("demo", "nowhere", "-o", "page.html")
    assert outcome.code != ExitCode.OK
    assert "nowhere" in outcome.stderr
