"""Recipes: the defaults, how they suit other sets, and their way through JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fusedmlp import SGD, Adam, load_dataset
from fusedmlp.errors import InvalidInputError, UnknownNameError
from fusedmlp.recipes import (
    MNIST_REPAIRED,
    MNIST_REPAIRED_ON_ITS_SPLIT,
    MNIST_WORKSHOP,
    MOONS_REPAIRED,
    MOONS_WORKSHOP,
    SMALL_SET_EPOCHS,
    STEEP_ACTIVATION_LR,
    Recipe,
)

NAMED = [
    MNIST_REPAIRED,
    MNIST_REPAIRED_ON_ITS_SPLIT,
    MNIST_WORKSHOP,
    MOONS_REPAIRED,
    MOONS_WORKSHOP,
]


@pytest.mark.parametrize("recipe", NAMED)
def test_named_recipes_are_sound_and_survive_json(recipe):
    recipe.check()
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_the_faithful_recipes_are_the_workshops():
    for recipe in (MNIST_WORKSHOP, MOONS_WORKSHOP):
        assert (recipe.reduction, recipe.init, recipe.dtype) == ("sum", "workshop", "float64")
        assert recipe.make_optimizer() == SGD(lr=0.01)
    trainer = MNIST_WORKSHOP.trainer()
    assert (trainer.epochs, trainer.batch_size, trainer.rows_per_epoch) == (200, 64, 256)
    assert (MOONS_WORKSHOP.hidden, MOONS_WORKSHOP.epochs) == ((5,), 20_000)


def test_the_default_suits_mnist_as_it_is():
    assert MNIST_REPAIRED.suited_to(60_000, "classification") == MNIST_REPAIRED


@pytest.mark.parametrize("rows", [2, 10, 200, 1437, 20_000])
def test_small_sets_get_batches_that_fit_and_enough_steps(rows):
    recipe = MNIST_REPAIRED.suited_to(rows, "classification")
    trained_on = rows - round(rows * recipe.validation)
    assert 1 <= recipe.batch_size <= min(MNIST_REPAIRED.batch_size, trained_on)
    assert recipe.batch_size.bit_count() == 1
    assert MNIST_REPAIRED.epochs <= recipe.epochs <= SMALL_SET_EPOCHS


def test_a_model_takes_its_shape_and_output_from_the_data():
    data = load_dataset("moons")
    mlp = replace(MNIST_REPAIRED, hidden=(4,)).model(data, seed=3, backend="numpy")
    assert mlp.network.sizes == (2, 4, 2)
    assert mlp.network.output == "softmax"
    assert (mlp.seed, mlp.class_names) == (3, ("upper", "lower"))
    assert MNIST_REPAIRED.suited_to(100, "regression").optimizer == "adam"


def test_changes_replace_fields_and_a_new_optimizer_brings_its_rate():
    changed = MNIST_REPAIRED.changed({"optimizer": "adam", "epochs": None, "l2": 0.5})
    assert changed.make_optimizer() == Adam()
    assert (changed.epochs, changed.l2) == (MNIST_REPAIRED.epochs, 0.5)
    assert MNIST_REPAIRED.changed({"optimizer": "adam", "lr": 0.7}).lr == 0.7
    assert MNIST_REPAIRED.changed({"optimizer": MNIST_REPAIRED.optimizer}) == MNIST_REPAIRED


def test_steeper_activations_get_a_lower_rate_unless_one_is_given():
    assert MNIST_REPAIRED.changed({"activation": "relu"}).lr == STEEP_ACTIVATION_LR
    assert MNIST_REPAIRED.changed({"activation": "relu", "lr": 0.3}).lr == 0.3
    assert MNIST_REPAIRED.changed({"activation": "relu", "optimizer": "adam"}).lr == Adam().lr
    assert MNIST_REPAIRED.changed({"activation": "sigmoid"}) == MNIST_REPAIRED
    suited = MNIST_REPAIRED.suited_to(100, "regression")
    assert suited.changed({"activation": "tanh"}).lr == suited.lr


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"optimizer": "lion"}, UnknownNameError, "'lion'"),
        ({"init": "zeros"}, UnknownNameError, "'zeros'"),
        ({"dtype": "int8"}, UnknownNameError, "'int8'"),
        ({"epochs": 0}, InvalidInputError, "epochs 0"),
        ({"hidden": [0]}, InvalidInputError, "0"),
        ({"hidden": 5}, InvalidInputError, "not a list"),
        ({"lr": "fast"}, InvalidInputError, "wrong kind"),
        ({"pace": 1}, InvalidInputError, "pace"),
    ],
)
def test_unsound_recipes_are_refused(change, error, word):
    with pytest.raises(error, match=word.replace("[", "\\[")):
        Recipe.from_dict(MNIST_REPAIRED.to_dict() | change)
