"""``fusedmlp reproduce``: faithful recipes land on the workshop's figures, broken ones do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fusedmlp import load_dataset
from fusedmlp.cli import workshop
from fusedmlp.cli.workshop import MNIST_WORKSHOP, MOONS_REPAIRED, MOONS_WORKSHOP
from fusedmlp.errors import ExitCode
from fusedmlp.registry import backend_class


@pytest.fixture(scope="module")
def backend():
    return backend_class("numpy")(threads=1)


def missed(figures, values):
    pairs = zip(figures, values, strict=True)
    return [figure.name for figure, value in pairs if not figure.is_reproduced(value)]


def test_moons_land_on_the_workshops_figures_and_the_repair_leaves_them_behind(cli):
    document = cli("reproduce", "moons", "--threads", 1, "--seed", 1, "--json").document
    assert document["reproduced"] is True
    assert [figure["workshop"] for figure in document["figures"]] == [
        0.1512, 0.0736, 0.0507, 0.0396, 0.0343,
    ]  # fmt: skip
    for figure in document["figures"]:
        low, high = figure["accepted"]
        assert low <= figure["faithful"] <= high
        assert figure["repaired"] <= figure["must_reach"] < figure["workshop"]


def test_moons_with_mean_gradients_miss_the_figures(backend):
    broken = replace(MOONS_WORKSHOP, reduction="mean", epochs=5_000)
    losses = workshop.moons_losses(broken, backend, seed=0)
    first = workshop.MOONS_FIGURES[:3]
    assert missed(first, losses) == [figure.name for figure in first]


def test_a_missed_figure_is_named_and_exits_with_4(cli, monkeypatch):
    faithful = [figure.workshop for figure in workshop.MOONS_FIGURES]

    def losses(recipe, *_):
        return [0.9, *faithful[1:]] if recipe is MOONS_WORKSHOP else [0.001] * 5

    monkeypatch.setattr(workshop, "moons_losses", losses)
    outcome = cli("reproduce", "moons")
    assert outcome.code == ExitCode.BREACHED
    assert "1 of 5 figures missed" in outcome.stderr
    assert "loss at 1,000" in outcome.stderr.splitlines()[-1]
    row = next(line for line in outcome.stdout.splitlines() if "1,000" in line)
    assert row.split()[-1] == "missed"
    assert "4 of 5 figures met" in outcome.stdout
    outcome = cli("reproduce", "moons", "--json")
    assert outcome.code == ExitCode.BREACHED
    assert outcome.document["reproduced"] is False


def test_a_repair_that_is_no_better_is_missed_too(cli, monkeypatch):
    faithful = [figure.workshop for figure in workshop.MOONS_FIGURES]
    monkeypatch.setattr(workshop, "moons_losses", lambda *_: faithful)
    assert MOONS_REPAIRED != MOONS_WORKSHOP
    assert cli("reproduce", "moons").code == ExitCode.BREACHED


def test_unknown_reproductions_list_the_known_ones(cli):
    cli("reproduce", "iris").failed(ExitCode.USAGE, "'iris'", "moons, mnist")


@pytest.mark.parametrize("figure", workshop.MOONS_FIGURES + workshop.MNIST_FIGURES)
def test_the_workshops_own_figures_are_accepted_and_must_be_surpassed(figure):
    assert figure.is_reproduced(figure.workshop)
    assert not figure.is_surpassed(figure.workshop)
    assert figure.why


@pytest.fixture(scope="module")
def mnist():
    return load_dataset("mnist", split="workshop")


@pytest.mark.slow
def test_mnist_lands_on_the_workshops_figures(backend, mnist):
    values = workshop.mnist_results(workshop.train_mnist(MNIST_WORKSHOP, backend, 3, mnist), mnist)
    assert missed(workshop.MNIST_FIGURES, values) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "caught_by"),
    [
        ({"reduction": "mean"}, "test accuracy"),
        ({"init": "glorot"}, "loss, epoch 1"),
        ({"rows_per_epoch": None, "epochs": 2}, "loss, epoch 1"),
    ],
)
def test_broken_mnist_recipes_miss_a_figure(backend, mnist, change, caught_by):
    mlp = workshop.train_mnist(replace(MNIST_WORKSHOP, **change), backend, 0, mnist)
    values = workshop.mnist_results(mlp, mnist)
    assert caught_by in missed(workshop.MNIST_FIGURES, values)


@pytest.mark.slow
def test_reproduce_mnist_as_a_whole(cli):
    outcome = cli("reproduce", "mnist", "--backend", "auto", "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.document["figures"][-1]["repaired"] >= 0.98
