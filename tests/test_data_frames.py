"""Inputs of every kind give the same bits as arrays; what is no number is named."""

from __future__ import annotations

import datetime
import pickle
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from fusedmlp import MLP, Adam, Trainer
from fusedmlp.errors import FileFormatError, InvalidInputError
from fusedmlp.validation import as_inputs
from problems import flat

RNG = np.random.default_rng(3)
X = RNG.integers(-4, 5, (40, 3)) / 4.0
Y = np.argmax(X, axis=1)


class PolarsFrame:
    """A data frame with the methods of polars that name its columns."""

    def __init__(self, columns):
        self._columns = columns

    def __len__(self):
        return len(next(iter(self._columns.values())))

    def iter_columns(self):
        for name, values in self._columns.items():
            column = Column(values)
            column.name = name
            yield column


class ArrowTable:
    """A table with the attributes of pyarrow's."""

    def __init__(self, columns):
        self._columns = columns

    def __len__(self):
        return len(next(iter(self._columns.values())))

    @property
    def column_names(self):
        return list(self._columns)

    @property
    def columns(self):
        return [Column(values) for values in self._columns.values()]


class Column:
    def __init__(self, values):
        self._values = np.asarray(values)

    def __array__(self, dtype=None, copy=None):
        return np.array(self._values, dtype)


class OnlyDLPack:
    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **words):
        return self._array.__dlpack__(**words)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def by_column(x):
    return {f"f{j}": x[:, j] for j in range(x.shape[1])}


def mapped(x, folder):
    array = np.memmap(folder / "x", x.dtype, "w+", shape=x.shape)
    array[:] = x
    return array


FORMS = {
    "frame": lambda x, _: pd.DataFrame(x),
    "named frame": lambda x, _: pd.DataFrame(by_column(x)),
    "same names": lambda x, _: pd.DataFrame(x, columns=["a", "a", "b"]),
    "nullable": lambda x, _: pd.DataFrame(x).astype("Float64"),
    "objects in a frame": lambda x, _: pd.DataFrame(x).astype(object),
    "categories of numbers": lambda x, _: pd.DataFrame(x).astype({1: "category"}),
    "polars": lambda x, _: PolarsFrame(by_column(x)),
    "pyarrow": lambda x, _: ArrowTable(by_column(x)),
    "records": lambda x, _: pd.DataFrame(by_column(x)).to_records(index=False),
    "lists": lambda x, _: x.tolist(),
    "tuples": lambda x, _: tuple(map(tuple, x.tolist())),
    "list of arrays": lambda x, _: list(x),
    "fractions": lambda x, _: [[Fraction(v) for v in row] for row in x.tolist()],
    "decimals": lambda x, _: np.array([[Decimal(v) for v in row] for row in x.tolist()]),
    "__array__": lambda x, _: Column(x),
    "DLPack": lambda x, _: OnlyDLPack(x),
    "masked, nothing missing": lambda x, _: np.ma.array(x, mask=False),
    "memory map": mapped,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_inputs_trains_and_predicts_the_same_bits(backend, form, tmp_path):
    given, results = FORMS[form](X, tmp_path), []
    for x, y in ((X, Y), (given, pd.Series(Y))):
        mlp = MLP([3, 4, 3], "tanh", backend=backend, seed=1)
        trainer = Trainer(Adam(0.01), epochs=2, batch_size=8)
        history = trainer.fit(mlp, x, y, sample_weight=y * 0.5 + 1.0, validation_data=(x, y))
        metrics = mlp.evaluate(x, y, sample_weight=y + 1)
        outputs = [flat(mlp.parameters), mlp.forward(x), mlp.predict_proba(x), mlp.predict(x)]
        results.append(
            (history.last.validation_loss, metrics, [each.tobytes() for each in outputs])
        )
    assert results[0] == results[1]


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok", "dia", "bsr"])
def test_sparse_inputs_of_every_format_train_and_predict_the_same_bits(backend, form, kind):
    csr = getattr(scipy.sparse, f"csr_{kind}")(X)
    results = []
    for x in (csr, csr.asformat(form)):
        mlp = MLP([3, 4, 3], "tanh", backend=backend, seed=1)
        Trainer(Adam(0.01), epochs=2, batch_size=8).fit(mlp, x, Y, validation_data=(x, Y))
        results.append([flat(mlp.parameters).tobytes(), mlp.predict_proba(x).tobytes()])
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_arrays_of_a_stored_dtype_are_not_copied_at_the_entrance(dtype, tmp_path):
    x = np.abs(X).astype(dtype)
    assert as_inputs(x) is x
    on_disk = mapped(x, tmp_path)
    assert np.shares_memory(as_inputs(on_disk), on_disk)
    sparse = scipy.sparse.csr_array(x)
    assert as_inputs(sparse) is sparse


NAMED = {"named frame", "polars", "pyarrow", "records"}


def model_of_names(form, folder):
    """Return a model that was trained on a named table, and one trained on its array."""
    on_table, on_array = (MLP([3, 4, 3], "tanh", backend="numpy", seed=1) for _ in range(2))
    trainer = Trainer(Adam(0.01), epochs=2, batch_size=8)
    trainer.fit(on_table, FORMS[form](X, folder), Y)
    trainer.fit(on_array, X, Y)
    return on_table, on_array


@pytest.mark.parametrize("form", FORMS)
def test_a_model_finds_the_columns_of_its_training_by_name(form, tmp_path):
    given, plain = model_of_names(form, tmp_path)
    assert given.feature_names == (("f0", "f1", "f2") if form in NAMED else None)
    given.save(tmp_path / "model.safetensors")
    loaded = MLP.load(tmp_path / "model.safetensors", backend="numpy")
    shuffled = by_column(X)
    other = pd.DataFrame({"more": ["text"] * len(X)} | dict(reversed(shuffled.items())))
    for mlp in (given, loaded, pickle.loads(pickle.dumps(given))):
        np.testing.assert_array_equal(mlp.predict_proba(X), plain.predict_proba(X))
        if form in NAMED:
            for x in (other, PolarsFrame(dict(other.items())), other.to_records(index=False)):
                np.testing.assert_array_equal(mlp.predict_proba(x), plain.predict_proba(X))
            assert mlp.evaluate(other, Y) == plain.evaluate(X, Y)
            with pytest.raises(InvalidInputError, match=r"lacks the columns f1 .* it has f0, g"):
                mlp.predict(pd.DataFrame({"f0": X[:, 0], "g": X[:, 1], "f2": X[:, 2]}))
            twice = pd.DataFrame(X[:, [0, 1, 2, 2]], columns=["f0", "f1", "f2", "f2"])
            with pytest.raises(InvalidInputError, match="2 columns named 'f2'"):
                mlp.predict(twice)


def test_validation_and_further_training_match_columns_by_name(tmp_path):
    frame = pd.DataFrame(by_column(X))
    backwards = frame[frame.columns[::-1]]
    trainer, results = Trainer(Adam(0.01), epochs=2, batch_size=8), []
    for x in (frame, backwards):
        mlp = MLP([3, 4, 3], "tanh", backend="numpy", seed=1)
        losses = [
            trainer.fit(mlp, rows, Y, validation_data=(x, Y)).last.validation_loss
            for rows in (frame, x)
        ]
        assert mlp.feature_names == ("f0", "f1", "f2")
        results.append((losses, flat(mlp.parameters).tobytes()))
    assert results[0] == results[1]


@pytest.mark.parametrize("names", [["f0", "f1"], ["f0", "f1", "f1"], 3])
def test_unsound_names_in_a_model_file_are_refused(names, tmp_path):
    mlp, _ = model_of_names("named frame", tmp_path)
    mlp.feature_names = names
    mlp.save(tmp_path / "model.safetensors")
    with pytest.raises(FileFormatError, match="not a sound model file"):
        MLP.load(tmp_path / "model.safetensors")


def test_only_a_table_of_uint8_alone_is_pixels():
    pixels = np.array([[0, 255], [51, 102]], np.uint8)
    mlp = MLP([2, 3], backend="numpy")
    np.testing.assert_array_equal(mlp.forward(pd.DataFrame(pixels)), mlp.forward(pixels))
    counts = pd.DataFrame({"count": pixels[:, 1], "is new": [True, False]})
    assert as_inputs(counts).tolist() == [[255, 1], [102, 0]]
    expected = mlp.forward(np.array([[255.0, 1.0], [102.0, 0.0]], np.float32))
    np.testing.assert_array_equal(mlp.forward(counts), expected)


def beside_numbers(values):
    return pd.DataFrame({"age": [30, 40], "other": values})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (beside_numbers(["3", "4"]), "column 'other' of x, row 0, is '3': text is no number"),
        (
            beside_numbers(pd.Categorical(["u", "v"])),
            "row 0, is 'u': text is .*preprocessing.Preprocessing enc",
        ),
        (beside_numbers([1, "b"]), "column 'other' of x, row 1, is 'b'"),
        (
            beside_numbers(pd.array([1, None], "Int64")),
            "row 1, is (nan|<NA>): .* drop or fill .*Preprocessing fills",
        ),
        (beside_numbers(pd.array([True, None], "boolean")), "column 'other' of x, row 1, is <NA>"),
        (beside_numbers([None, 2.5]), "column 'other' of x, row 0, is nan"),
        (beside_numbers([1.0, np.inf]), "column 'other' of x, row 1, is inf"),
        (beside_numbers(pd.to_datetime(["2020-01-01"] * 2)), "date or time 2020-01-01.*the days"),
        (beside_numbers([datetime.date(2020, 1, 1)] * 2), "the date or time 2020-01-01"),
        (beside_numbers(pd.to_timedelta([1, 2], "s")), "column 'other' .* date or time"),
        (beside_numbers([[1], [2]]), r"row 0, is \[1\] \(builtins.list\): give numbers"),
        (beside_numbers([b"a", b"b"]), "bytes are no number"),
        (pd.DataFrame({"only": ["a"]}), "column 'only' of x, row 0, is 'a'"),
        (PolarsFrame({"a": [1.0], "b": ["t"]}), "column 'b' of x, row 0, is 't'"),
        (ArrowTable({"a": [1.0], "b": [np.nan]}), "column 'b' of x, row 0, is nan"),
        (PolarsFrame({"a": [1.0], "b": [[1, 2]]}), r"column 'b' .* shape \(2,\): give one number"),
        (np.array([(1, "s")], [("a", int), ("b", "U2")]), "column 'b' of x, row 0, is 's'"),
        ([[1, 2], [3]], r"x\[0\] has 2 values, x\[1\] has 1; rows need the same length"),
        ([[1, "b"], [2, 3]], r"x\[0, 1\] is 'b': text is no number"),
        ([[1, None]], r"x\[0, 1\] is None: .* drop or fill such rows"),
        (np.ma.array([[1.0, 2.0]], mask=[[False, True]]), r"x\[0, 1\] is masked"),
        ({"a": [1]}, "x is {'a': .*dict.*: give an array, a data frame or a SciPy sparse array"),
        (None, "x is None"),
        ("file.csv", "x is 'file.csv'"),
        (7, r"x has shape \(\): give \(N, 2\)"),
        (pd.Series([1.0, 2.0]), r"x has shape \(2,\): give \(N, 2\)"),
    ],
)
def test_what_is_no_number_is_named_with_its_place(x, message):
    mlp = MLP([2, 3], backend="numpy")
    calls = [mlp.forward, mlp.predict, mlp.predict_proba]
    calls += [lambda x: mlp.evaluate(x, [0, 1]), lambda x: Trainer().fit(mlp, x, [0, 1])]
    for call in calls:
        with pytest.raises(InvalidInputError, match=message):
            call(x)


@pytest.mark.parametrize("output", ["identity", "exp", "sigmoid"])
def test_targets_may_be_frames(output):
    y = (X[:, :2] > 0).astype(np.int64)
    results = []
    for targets in (y, pd.DataFrame(y, columns=["a", "b"]), y.astype(object), y.tolist()):
        mlp = MLP([3, 2], output=output, backend="numpy", seed=1)
        Trainer("sgd", epochs=2, batch_size=8).fit(mlp, X, targets)
        results.append((flat(mlp.parameters).tobytes(), mlp.evaluate(X, targets)))
    assert all(result == results[0] for result in results)
    text = pd.DataFrame({"a": y[:, 0], "b": ["t"] * len(y)})
    with pytest.raises(InvalidInputError, match="column 'b' of y, row 0, is 't'"):
        Trainer().fit(mlp, X, text)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (["a"] * 40, r"sample_weight\[0\] is 'a': text is no number"),
        (pd.array([None] + [1.0] * 39, "Float64"), r"sample_weight\[0\] is (nan|<NA>)"),
        (pd.DataFrame({"w": [1.0] * 40}), r"sample_weight has shape \(40, 1\)"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(weights, message):
    with pytest.raises(InvalidInputError, match=message):
        Trainer(batch_size=8).fit(MLP([3, 3], backend="numpy"), X, Y, sample_weight=weights)
