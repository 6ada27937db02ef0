"""The pictures of ``train --plot`` and the page of ``reproduce --html``."""

from __future__ import annotations

import base64
import io
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from clihelp import QUICK, parameters
from matplotlib.collections import PathCollection
from PIL import Image

from fusedmlp import MLP, Trainer, load_dataset
from fusedmlp.cli import workshop
from fusedmlp.cli.pictures import Pictures
from fusedmlp.cli.reproduce import FigureResult, RecipeRun
from fusedmlp.cli.reproduce_page import MoonsWatch, page
from fusedmlp.cli.workshop import MOONS_REPAIRED, MOONS_WORKSHOP
from fusedmlp.errors import ExitCode
from fusedmlp.registry import backend_class
from fusedmlp.report import environment


def pngs(folder):
    return {path.name for path in folder.glob("*.png")}


def texts(labels):
    return [label.get_text() for label in labels]


@pytest.fixture
def table(tmp_path):
    """A table of two columns and a target that is their sum."""
    rows = np.random.default_rng(0).normal(size=(80, 2))
    lines = [f"{a:.4f},{b:.4f},{a + b:.4f}" for a, b in rows]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["age,salary,score", *lines]))
    return path


def test_images_get_four_pictures_and_nothing_else_changes(cli, tmp_path):
    outcome = cli("train", *QUICK, "--plot", "--output", "with")
    assert outcome.code == 0, outcome.stderr
    names = "history.png, confusion.png, misclassified.png, weights.png"
    assert f"pictures        {names}" in outcome.stderr
    assert pngs(tmp_path / "with") == set(names.split(", "))
    for name in pngs(tmp_path / "with"):
        with Image.open(tmp_path / "with" / name) as image:
            image.verify()
    assert cli("train", *QUICK, "--output", "without").code == 0
    assert pngs(tmp_path / "without") == set()
    for found, expected in zip(parameters("with"), parameters("without"), strict=True):
        assert (found == expected).all()


def test_two_inputs_get_their_boundary_and_a_resumed_training_its_pictures(cli, tmp_path):
    assert cli("train", "--dataset", "moons", "--epochs", "1", "--output", "out").code == 0
    assert cli("train", "--resume", "out", "--epochs", "2", "--plot").code == 0
    assert pngs(tmp_path / "out") == {"history.png", "boundary.png"}


def test_quantities_get_their_predictions(cli, tmp_path, table):
    command = ("train", "--dataset", table, "--epochs", "2", "--plot", "--output", "out")
    assert cli(*command).code == 0
    assert pngs(tmp_path / "out") == {"history.png", "predicted.png"}


def test_without_matplotlib_nothing_is_trained(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = cli("train", *QUICK, "--plot", "--output", "out")
    outcome.failed(ExitCode.FAILURE, "matplotlib", "pip install 'fusedmlp[plot]'")
    assert not (tmp_path / "out").exists()
    assert cli("train", *QUICK, "--output", "out").code == 0


def test_without_the_option_matplotlib_is_not_imported(process):
    code = "import sys, fusedmlp.cli.app as a; a.build(); import fusedmlp.cli.training"
    code += "; print('matplotlib' in sys.modules)"
    outcome = process(shell=f"exec '{sys.executable}' -c \"{code}\"")
    assert outcome.stdout.strip() == "False", outcome.stderr


def test_a_picture_that_fails_loses_neither_the_model_nor_the_others(cli, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no font")

    monkeypatch.setattr(Pictures, "weights", fail)
    outcome = cli("train", *QUICK, "--plot", "--output", "out", "--json")
    assert outcome.code == 0
    assert outcome.document["model"]
    assert MLP.load("out/model.safetensors").network.n_inputs == 64
    assert "weights.png could not be drawn: no font" in outcome.stderr
    assert pngs(tmp_path / "out") == {"history.png", "confusion.png", "misclassified.png"}


def test_pictures_show_the_test_rows():
    dataset = load_dataset("digits")
    mlp = MLP([64, 10], backend="numpy")
    mlp.history = Trainer("sgd", epochs=1).fit(mlp, dataset.x_train, dataset.y_train)
    drawn = Pictures(mlp, dataset)
    counts = drawn.confusion().axes[0].get_images()[0].get_array()
    assert counts.sum() == len(dataset.x_test)
    wrong = int(len(dataset.x_test) - np.trace(counts))
    assert drawn.misclassified().get_suptitle().startswith(f"{wrong} of 360 rows wrong")
    assert len([axes for axes in drawn.weights().axes if axes.get_images()]) == 10


def test_true_values_are_drawn_over_the_predicted_ones(table):
    from fusedmlp.cli.settings import DataOptions

    dataset = DataOptions(str(table), test=0.25).load(0, print)
    mlp = MLP([2, 1], output="identity", backend="numpy")
    axes = Pictures(mlp, dataset).predicted().axes[0]
    points = next(each for each in axes.collections if isinstance(each, PathCollection))
    predicted, true = np.asarray(points.get_offsets()).T
    assert true == pytest.approx(dataset.y_test[:, 0])
    assert predicted == pytest.approx(mlp.predict(dataset.x_test))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted value", "true value")


def test_a_boundary_of_a_table_names_its_columns(tmp_path):
    from fusedmlp.cli.settings import DataOptions

    rows = np.random.default_rng(0).normal(size=(60, 2))
    lines = [f"{a:.4f},{b:.4f},{'yes' if a > b else 'no'}" for a, b in rows]
    (tmp_path / "loan.csv").write_text("\n".join(["age,salary,loan", *lines]))
    dataset = DataOptions(str(tmp_path / "loan.csv")).load(0, print)
    axes = Pictures(MLP([2, 2], backend="numpy"), dataset).boundary().axes[0]
    assert axes.get_xlabel() == "age, scaled as for the network"
    assert axes.get_ylabel() == "salary, scaled as for the network"


# The page of ``reproduce``, with short trainings.


@pytest.fixture(scope="module")
def backend():
    return backend_class("numpy")(threads=1)


@pytest.fixture(scope="module")
def moons_page(backend):
    """The page's text, and the runs that it shows."""
    runs = []
    for title, recipe in (("as it was", MOONS_WORKSHOP), ("repaired", MOONS_REPAIRED)):
        short, watch = replace(recipe, epochs=2_000), MoonsWatch()
        losses = workshop.moons_losses(short, backend, 0, watch)
        runs.append(RecipeRun(title, short, losses, watch=watch))
    return page(runs, results_of(workshop.MOONS_FIGURES[:2], runs), None, facts()).html(), runs


def results_of(figures, runs):
    return [FigureResult(*each) for each in zip(figures, *(r.values for r in runs), strict=True)]


def facts():
    return environment(["fusedmlp", "reproduce", "moons", "--html", "page.html"])


def images(html, kind):
    found = re.findall(rf'src="data:image/{kind};base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(each))) for each in found]


def test_the_page_of_the_moons_has_the_frames_of_both_trainings(moons_page):
    html, runs = moons_page
    assert [image.n_frames for image in images(html, "gif")] == [3, 3]
    assert len(images(html, "png")) == 3, "losses, and the frames of both"
    for run in runs:
        assert [frame.epoch for frame in run.watch.recorder.frames] == [0, 1000, 2000]
        assert [loss for _, loss in run.watch.losses[1:]] == run.values


def test_watching_changes_no_bit_of_the_losses(moons_page, backend):
    _, runs = moons_page
    for run in runs:
        assert workshop.moons_losses(run.recipe, backend, 0) == run.values


def test_the_page_has_the_workshops_figures_beside_ours(moons_page):
    html, runs = moons_page
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    row = next(row for row in cells if row[:1] == ["loss at 1,000"] and len(row) == 7)
    assert row[1:5] == [
        "0.1512",
        f"{runs[0].values[0]:.4f}",
        "0.08–0.33",
        f"{runs[1].values[0]:.4f}",
    ]
    assert ["optimizer", "sgd", "nesterov"] in cells


def test_the_page_needs_no_other_file(moons_page):
    html, _ = moons_page
    sources = re.findall(r'(?:src|href)="([^"]{1,20})', html)
    assert sources
    assert all(each.startswith(("data:image/", "#")) for each in sources)
    assert all(f'alt="{alt}' in html for alt in ("Decision boundary every", "Loss over"))


def test_the_page_of_mnist_has_curves_confusion_and_the_worst_digits(backend):
    dataset, runs = load_dataset("digits"), []
    short = {"epochs": 3, "hidden": (16,), "batch_size": 32}
    for title, recipe in (
        ("as it was", workshop.MNIST_WORKSHOP),
        ("repaired", workshop.MNIST_REPAIRED),
    ):
        mlp = workshop.train_mnist(replace(recipe, **short), backend, 0, dataset)
        runs.append(RecipeRun(title, recipe, workshop.mnist_results(mlp, dataset), mlp))
    results = results_of(workshop.MNIST_FIGURES, runs)
    html = page(runs, results, dataset, facts()).html()
    assert len(images(html, "png")) == 6
    for title in ("As it was", "Repaired"):
        assert f"{title}: the wrong test rows of which the network is most sure" in html
    missed = sum(not result.is_met for result in results)
    assert missed, "three epochs on digits are not the workshop's figures"
    assert f"{5 - missed} of 5 figures met" in html


def test_reproduce_writes_the_page(cli, tmp_path, monkeypatch):
    short = {}
    for name in ("faithful", "repaired"):
        short[name] = replace(getattr(workshop.REPRODUCTIONS["moons"], name), epochs=1_000)
    moons = replace(workshop.REPRODUCTIONS["moons"], figures=workshop.MOONS_FIGURES[:1], **short)
    monkeypatch.setitem(workshop.REPRODUCTIONS, "moons", moons)
    outcome = cli("reproduce", "moons", "--html", "moons.html", "--json")
    assert outcome.code == 0, outcome.stderr
    assert "written to moons.html" in outcome.stderr
    html = (tmp_path / "moons.html").read_text()
    assert "all 1 figures met" in html
    assert f"{outcome.document['figures'][0]['faithful']:.4f}" in html


def test_a_page_that_cannot_be_written_is_an_error_before_the_training(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(workshop, "moons_losses", None)
    cli("reproduce", "moons", "--html", tmp_path).failed(ExitCode.USAGE, "is a folder")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    outcome = cli("reproduce", "moons", "--html", "moons.html")
    outcome.failed(ExitCode.FAILURE, "pip install 'fusedmlp[report]'")
