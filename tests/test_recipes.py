"""Recipes: the defaults, how they suit other sets, and their way through JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from fusedmlp import SGD, Adam, load_dataset
from fusedmlp.cli.recipes import DEFAULT_RECIPE, SMALL_SET_EPOCHS, STEEP_ACTIVATION_LR, Recipe
from fusedmlp.cli.workshop import MNIST_REPAIRED, MNIST_WORKSHOP, MOONS_REPAIRED, MOONS_WORKSHOP
from fusedmlp.errors import InvalidInputError, UnknownNameError

NAMED = [
    DEFAULT_RECIPE,
    MNIST_REPAIRED,
    MNIST_WORKSHOP,
    MOONS_REPAIRED,
    MOONS_WORKSHOP,
]


@pytest.mark.parametrize("recipe", NAMED)
def test_named_recipes_are_sound_and_survive_json(recipe):
    recipe.check()
    assert Recipe.from_dict(json.loads(json.dumps(asdict(recipe)))) == recipe


def test_the_faithful_recipes_are_the_workshops():
    for recipe in (MNIST_WORKSHOP, MOONS_WORKSHOP):
        assert (recipe.reduction, recipe.init, recipe.dtype) == ("sum", "workshop", "float64")
        assert recipe.make_optimizer() == SGD(lr=0.01)
    trainer = MNIST_WORKSHOP.trainer()
    assert (trainer.epochs, trainer.batch_size, trainer.rows_per_epoch) == (200, 64, 256)
    assert (MOONS_WORKSHOP.hidden, MOONS_WORKSHOP.epochs) == ((5,), 20_000)


def test_the_default_suits_mnist_as_it_is():
    assert DEFAULT_RECIPE.suited_to(60_000, "classification") == DEFAULT_RECIPE


@pytest.mark.parametrize("rows", [2, 10, 200, 1437, 20_000])
def test_small_sets_get_batches_that_fit_and_enough_steps(rows):
    recipe = DEFAULT_RECIPE.suited_to(rows, "classification")
    trained_on = rows - round(rows * recipe.validation)
    assert 1 <= recipe.batch_size <= min(DEFAULT_RECIPE.batch_size, trained_on)
    assert recipe.batch_size.bit_count() == 1
    assert DEFAULT_RECIPE.epochs <= recipe.epochs <= SMALL_SET_EPOCHS


def test_a_model_takes_its_shape_and_output_from_the_data():
    data = load_dataset("moons")
    mlp = replace(DEFAULT_RECIPE, hidden=(4,)).model(data, seed=3, backend="numpy")
    assert mlp.network.sizes == (2, 4, 2)
    assert mlp.network.output == "softmax"
    assert (mlp.seed, mlp.class_names) == (3, ("upper", "lower"))
    assert DEFAULT_RECIPE.suited_to(100, "regression").optimizer == "adam"


def test_changes_replace_fields_and_a_new_optimizer_brings_its_rate():
    changed = DEFAULT_RECIPE.changed({"optimizer": "adam", "l2": 0.5})
    assert changed.make_optimizer() == Adam()
    assert changed.l2 == 0.5
    assert DEFAULT_RECIPE.changed({"optimizer": "adam", "lr": 0.7}).lr == 0.7
    assert DEFAULT_RECIPE.changed({"optimizer": DEFAULT_RECIPE.optimizer}) == DEFAULT_RECIPE


def test_steeper_activations_get_a_lower_rate_unless_one_is_given():
    assert DEFAULT_RECIPE.changed({"activation": "relu"}).lr == STEEP_ACTIVATION_LR
    assert DEFAULT_RECIPE.changed({"activation": "relu", "lr": 0.3}).lr == 0.3
    assert DEFAULT_RECIPE.changed({"activation": "relu", "optimizer": "adam"}).lr == Adam().lr
    assert DEFAULT_RECIPE.changed({"activation": "sigmoid"}) == DEFAULT_RECIPE
    suited = DEFAULT_RECIPE.suited_to(100, "regression")
    assert suited.changed({"activation": "tanh"}).lr == suited.lr


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"optimizer": "adagrad"}, UnknownNameError, "'adagrad'"),
        ({"init": "zeros"}, UnknownNameError, "'zeros'"),
        ({"dtype": "int8"}, UnknownNameError, "'int8'"),
        ({"epochs": 0}, InvalidInputError, "epochs 0"),
        ({"hidden": [0]}, InvalidInputError, "0"),
        ({"hidden": 5}, InvalidInputError, "hidden 5 is not of type tuple"),
        ({"hidden": [5, "6"]}, InvalidInputError, "hidden '6' is not of type int"),
        ({"lr": "fast"}, InvalidInputError, "lr 'fast' is not of type float"),
        ({"lr": 10**400}, InvalidInputError, "is not of type float"),
        ({"epochs": True}, InvalidInputError, "epochs True is not of type int"),
        ({"optimizer": ["adam"]}, InvalidInputError, "optimizer ['adam'] is not of type str"),
        ({"pace": 1}, InvalidInputError, "pace"),
    ],
)
def test_unsound_recipes_are_refused(change, error, word):
    with pytest.raises(error, match=word.replace("[", "\\[")):
        Recipe.from_dict(asdict(DEFAULT_RECIPE) | change)
