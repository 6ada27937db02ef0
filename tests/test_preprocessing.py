"""Preprocessing of tables: scikit-learn's transformers as data that models store."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, RobustScaler, StandardScaler

from fusedmlp import MLP, Trainer
from fusedmlp.errors import FileFormatError, InvalidInputError, UnknownNameError
from fusedmlp.network import Network, initialise
from fusedmlp.preprocessing import Preprocessing, Table, TargetScale

SCALERS = {
    "standard": StandardScaler(), "robust": RobustScaler(), "none": FunctionTransformer()
}  # fmt: skip


def frame(n_rows=300, seed=0):
    rng = np.random.default_rng(seed)
    found = pd.DataFrame(
        {
            "age": rng.integers(18, 90, n_rows).astype(float),
            "color": rng.choice(["red", "green", "blue"], n_rows),
            "income": rng.lognormal(10, 1, n_rows),
            "constant": np.full(n_rows, 0.1),
            "year": rng.integers(1990, 2020, n_rows),
            "member": rng.random(n_rows) < 0.3,
        }
    )
    found.loc[rng.random(n_rows) < 0.1, "age"] = np.nan
    found.loc[rng.random(n_rows) < 0.1, "color"] = None
    return found


@pytest.mark.parametrize("scale", SCALERS)
def test_inputs_are_those_of_scikit_learns_transformers(scale):
    train, new = frame(), frame(seed=1)
    new.loc[3, "color"] = "violet"  # unknown
    new.loc[4, "income"] = np.nan  # never missing in training
    numbers = ["age", "income", "constant", "year", "member"]
    imputed = make_pipeline(
        FunctionTransformer(lambda x: x.astype(float)), SimpleImputer(strategy="median")
    )
    theirs = make_union(
        make_column_transformer(
            (make_pipeline(imputed, SCALERS[scale]), numbers),
            (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["color"]),
        ),
        make_pipeline(FunctionTransformer(lambda x: x[["age"]].isna().astype(float))),
    ).fit(train)
    ours = Preprocessing.fit(Table.of(train), scale)
    # In ours each column's inputs stand together: age, age missing, color, income, …
    order = [0, 9, 5, 6, 7, 8, 1, 2, 3, 4]
    for rows in (train, new):
        expected = theirs.transform(rows)[:, order]
        np.testing.assert_allclose(ours.transform(rows), expected, rtol=1e-12, atol=1e-12)


def test_rare_texts_share_one_input():
    counts = np.arange(1, 151)
    texts = [f"t{i:03}" for i, n in enumerate(counts) for _ in range(n)]
    ours = Preprocessing.fit(Table.of(pd.DataFrame({"a": texts})))
    theirs = OneHotEncoder(
        max_categories=101, handle_unknown="infrequent_if_exist", sparse_output=False
    ).fit(pd.DataFrame({"a": texts}))
    new = pd.DataFrame({"a": ["t149", "t000", "t050", "unknown", "t100"]})
    np.testing.assert_array_equal(ours.transform(new), theirs.transform(new))


def test_columns_are_matched_by_name_and_others_ignored():
    ours = Preprocessing.fit(Table.of(frame()), target="y")
    new = frame(seed=2)
    expected = ours.transform(new)
    shuffled = new[["year", "member", "age", "constant", "income", "color"]].assign(other=1, y=0)
    np.testing.assert_array_equal(ours.transform(shuffled), expected)
    assert ours.ignored(Table.of(shuffled)) == ["other"]
    by_position = new.to_numpy(dtype=object)
    np.testing.assert_array_equal(ours.transform(by_position), expected)
    with pytest.raises(InvalidInputError, match="lacks the columns age, year that"):
        ours.transform(new.drop(columns=["year", "age"]))
    with pytest.raises(InvalidInputError, match="has 5 columns, the model was trained on 6: age"):
        ours.transform(by_position[:, 1:])


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("income", "high", r"column 'income' holds text \('high'\); .* trained on numbers"),
        ("income", np.inf, "column 'income' is inf in row 0: expected finite"),
        ("age", pd.Timestamp(0), "column 'age' holds datetime64.*: expected numbers or text"),
    ],
)
def test_values_that_do_not_fit(column, values, words):
    ours = Preprocessing.fit(Table.of(frame()))
    with pytest.raises(InvalidInputError, match=words):
        ours.transform(frame().assign(**{column: values}))


def test_numbers_in_a_column_of_text_are_read_as_text():
    ours = Preprocessing.fit(Table.of(pd.DataFrame({"a": ["1", "2", "x"], "b": [1.0, 2.0, 3.0]})))
    found = ours.transform(pd.DataFrame({"a": [2, 1], "b": [1.0, 1.0]}))
    np.testing.assert_array_equal(found[:, :3], [[0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"a": [np.nan, np.nan]}, "column 'a' has no value in any training row"),
        ({"a": [1.0, -np.inf]}, "column 'a' is -inf in training row 1"),
        ({"a": [f"id {i}" for i in range(201)]}, "201 different texts in 201 rows"),
    ],
)
def test_columns_that_cannot_be_inputs(columns, words):
    with pytest.raises(InvalidInputError, match=words):
        Preprocessing.fit(Table.of(pd.DataFrame(columns)))


def test_unknown_scale():
    with pytest.raises(UnknownNameError, match=r"'minmax'.*standard, robust or none|'minmax'"):
        Preprocessing.fit(Table.of(frame()), "minmax")


def test_a_model_keeps_its_preprocessing(tmp_path):
    ours = Preprocessing.fit(Table.of(frame()), target="y")
    assert Preprocessing.from_dict(json.loads(json.dumps(ours.to_dict()))) == ours
    mlp = MLP([ours.n_inputs, 4, 2], backend="numpy")
    plain = mlp.predict_proba(ours.transform(frame(seed=3)))
    mlp.preprocessing = ours
    mlp.save(tmp_path / "model.safetensors")
    loaded = MLP.load(tmp_path / "model.safetensors", backend="numpy")
    assert loaded.preprocessing == ours
    np.testing.assert_array_equal(loaded.predict_proba(frame(seed=3)), plain)
    y = np.arange(300) % 2
    assert loaded.evaluate(frame(seed=3), y) == mlp.evaluate(frame(seed=3), y)


def test_training_goes_through_the_preprocessing():
    ours, data, y = Preprocessing.fit(Table.of(frame())), frame(), np.arange(300) % 2
    on_inputs, on_table = (MLP([ours.n_inputs, 4, 2], backend="numpy") for _ in range(2))
    on_table.preprocessing = ours
    Trainer(epochs=1).fit(on_inputs, ours.transform(data), y)
    Trainer(epochs=1, validation=0.0).fit(on_table, data, y, validation_data=(data, y))
    for a, b in zip(on_inputs.parameters, on_table.parameters, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("columns"),
        lambda data: data.update(columns=3),
        lambda data: data["columns"][0].update(scale=0.0),
        lambda data: data["columns"][0].update(center=float("nan")),
        lambda data: data["columns"][0].update(fill="x"),
        lambda data: data["columns"][1].update(categories=[1, 2]),
        lambda data: data["columns"].pop(),  # fewer inputs than the network has
    ],
)
def test_malformed_preprocessing_in_a_file_is_refused(tmp_path, change):
    from fusedmlp.io.model_files import ModelFile, load_model, save_model

    ours = Preprocessing.fit(Table.of(frame()))
    network = Network((ours.n_inputs, 2))

    class Malformed:
        def to_dict(self):
            data = ours.to_dict()
            change(data)
            return data

    path = tmp_path / "model.safetensors"
    parameters = initialise(network, 0)
    save_model(path, ModelFile(network, parameters, 0, preprocessing=Malformed()))
    with pytest.raises(FileFormatError, match="not a sound model file"):
        load_model(path)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_last_layer_undoes_the_scaling_of_targets(dtype):
    rng = np.random.default_rng(0)
    y = (rng.normal(size=(50, 2)) * [1e-3, 1e5] + [7, 2e5]).astype(dtype)
    scale = TargetScale.fit(y)
    np.testing.assert_allclose(scale.apply(y).std(axis=0), 1, rtol=1e-4)
    mlp = MLP([3, 5, 2], output="identity", backend="numpy", dtype=dtype)
    x = rng.normal(size=(9, 3)).astype(dtype)
    scaled = mlp.forward(x)
    mlp.parameters = scale.fold(mlp.parameters)
    np.testing.assert_allclose(mlp.forward(x), scaled * scale.scale + scale.center, rtol=1e-5)


def test_constant_targets_are_only_shifted():
    y = np.full((5, 1), 3.0)
    np.testing.assert_array_equal(TargetScale.fit(y).apply(y), 0)
