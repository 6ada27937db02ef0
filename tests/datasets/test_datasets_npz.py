"""``.npz`` files of users: what is mapped, what is converted, what is refused."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from fusedmlp.datasets import load_dataset, load_npz
from fusedmlp.errors import InvalidInputError

RNG = np.random.default_rng(3)
X = RNG.normal(size=(12, 5))
Y = np.arange(12) % 3


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.npz"


def test_stored_members_are_mapped(path):
    np.savez(path, x_train=X, y_train=Y, x_test=X[:4], y_test=Y[:4])
    data = load_dataset(path, scale="none")
    assert isinstance(data.x_train, np.memmap)
    assert isinstance(data.x_test, np.memmap)
    assert not data.x_train.flags.writeable
    np.testing.assert_array_equal(data.x_train, X)
    np.testing.assert_array_equal(data.x_test, X[:4])
    assert data.y_train.dtype == np.int64
    np.testing.assert_array_equal(data.y_train, Y)
    assert (data.name, data.task, data.n_outputs) == ("data", "classification", 3)
    assert data.summary()["memory_mapped"] is True


def test_compressed_members_are_loaded(path):
    np.savez_compressed(path, x=X, y=Y)
    data = load_npz(path)
    assert not isinstance(data.x_train, np.memmap)
    np.testing.assert_array_equal(data.x_train, X)
    assert data.x_test is None
    assert data.y_test is None
    assert data.summary()["rows"] == {"train": 12, "test": None}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_column_major_arrays(path, save):
    save(path, x=np.asfortranarray(X), y=Y)
    np.testing.assert_array_equal(load_npz(path).x_train, X)


@pytest.mark.parametrize(("version", "zip64"), [((1, 0), True), ((2, 0), False)])
def test_member_headers_of_other_lengths(path, version, zip64):
    # With zip64 the extra field of the local header differs from the directory's, as zip allows.
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in (("x.npy", X), ("y.npy", Y)):
            with archive.open(name, "w", force_zip64=zip64) as member:
                np.lib.format.write_array(member, array, version=version)
    np.testing.assert_array_equal(load_npz(path).x_train, X)


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        (np.uint8, np.uint8),
        (np.float32, np.float32),
        (np.float64, np.float64),
        (">f8", np.float64),
        (np.float16, np.float32),
        (np.int16, np.float32),
        (np.bool_, np.float32),
        (np.int64, np.float64),
        (np.uint16, np.float32),
    ],
)
def test_input_types(path, dtype, kept):
    x = RNG.integers(0, 2, (12, 5)).astype(dtype)
    for save in (np.savez, np.savez_compressed):
        save(path, x=x, y=Y)
        data = load_npz(path)
        assert data.x_train.dtype == kept
        np.testing.assert_array_equal(data.x_train, x)


def test_images_become_rows_and_stay_mapped(path):
    x = RNG.integers(0, 256, (12, 4, 6), np.uint8)
    np.savez(path, x=x, y=Y)
    data = load_npz(path)
    assert isinstance(data.x_train, np.memmap)
    assert data.image_shape == (4, 6)
    np.testing.assert_array_equal(data.x_train, x.reshape(12, 24))


def test_one_input_column(path):
    np.savez(path, x=X[:, 0], y=Y)
    assert load_npz(path).x_train.shape == (12, 1)


def test_test_part_follows_the_type_of_the_training_part(path):
    np.savez(path, x_train=X, y_train=Y, x_test=X[:4].astype(np.float32), y_test=Y[:4])
    assert load_npz(path).x_test.dtype == np.float64
    pixels = np.zeros((4, 5), np.uint8)
    np.savez(path, x_train=X, y_train=Y, x_test=pixels, y_test=Y[:4])
    with pytest.raises(InvalidInputError, match="columns of uint8, expected 5 of float64"):
        load_npz(path)  # pixels beside scaled numbers are a mistake, not a type to convert


def test_test_part_that_the_type_of_the_training_part_cannot_hold(path):
    test = X[:4].copy()
    test[2, 1] = 1e300
    np.savez(path, x_train=X.astype(np.float32), y_train=Y, x_test=test, y_test=Y[:4])
    with pytest.raises(InvalidInputError, match=r"x_test as float32\[2, 1\] is inf"):
        load_npz(path)


BINARY = np.array([[0, 1], [1, 1], [0, 0]] * 4)


@pytest.mark.parametrize(
    ("y", "task", "dtype", "shape", "n_outputs"),
    [
        (Y, "classification", np.int64, (12,), 3),
        (Y.astype(float), "classification", np.int64, (12,), 3),
        (Y[:, None], "classification", np.int64, (12,), 3),
        (Y.astype(bool), "classification", np.int64, (12,), 2),
        (Y + 0.5, "regression", np.float64, (12, 1), 1),
        (X[:, :2], "regression", np.float64, (12, 2), 2),
        (BINARY, "multilabel", np.float64, (12, 2), 2),
        (BINARY.astype(bool), "multilabel", np.float64, (12, 2), 2),
    ],
)
def test_targets(path, y, task, dtype, shape, n_outputs):
    np.savez(path, x=X, y=y)
    data = load_npz(path)
    assert (data.task, data.y_train.dtype, data.y_train.shape) == (task, dtype, shape)
    assert data.n_outputs == n_outputs
    np.testing.assert_array_equal(data.y_train.reshape(12, -1), y.reshape(12, -1))


def test_task_overrules(path):
    np.savez(path, x=X.astype(np.float32), y=Y)
    data = load_dataset(path, task="regression")
    assert (data.task, data.y_train.dtype) == ("regression", np.float32)
    np.savez(path, x=X, y=BINARY)
    assert load_dataset(path, task="regression").task == "regression"
    with pytest.raises(InvalidInputError, match="2 columns; classification needs one column"):
        load_dataset(path, task="classification")
    np.savez(path, x=X, y=X[:, :2])
    with pytest.raises(InvalidInputError, match="multilabel needs 0 and 1"):
        load_dataset(path, task="multilabel")


def test_one_hot_targets_are_said_to_be_labels_and_can_be_classes(path):
    lines = []
    np.savez(path, x=X, y=np.eye(3)[Y])
    assert load_dataset(path, report=lines.append, test=0).task == "multilabel"
    assert "3 columns of zeros and ones, one in each row" in lines[0]
    assert "--task classification" in lines[0]
    data = load_dataset(path, task="classification", test=0)
    np.testing.assert_array_equal(data.y_train, Y)


def test_labels_are_numbered_in_order_and_kept(path):
    np.savez(path, x_train=X, y_train=Y - 1, x_test=X[:2], y_test=np.array([0, 5]))
    data = load_npz(path)
    assert data.labels == (-1, 0, 1, 5)
    assert data.class_names == ("-1", "0", "1", "5")
    np.testing.assert_array_equal(data.y_train, Y)
    np.testing.assert_array_equal(data.y_test, [1, 3])


def test_tables_are_split_and_scaled(path):
    np.savez(path, x=X * [1, 10, 100, 1000, 0] + 5, y=Y)
    data = load_dataset(path)
    assert (len(data.x_train), len(data.x_test)) == (10, 2)
    np.testing.assert_allclose(data.x_train.std(axis=0), [1, 1, 1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(data.x_train.mean(axis=0), 0, atol=1e-12)
    assert data.preprocessing.n_inputs == 5


@pytest.mark.parametrize("x", [X.astype(np.uint8), X.reshape(3, 4, 5)])
def test_pixels_and_images_stay_as_they_are(path, x):
    np.savez(path, x=x, y=Y[: len(x)])
    data = load_dataset(path)
    np.testing.assert_array_equal(data.x_train, x.reshape(len(x), -1))
    assert data.preprocessing is None
    assert data.x_test is None
    with pytest.raises(InvalidInputError, match="scale 'standard' is for tables"):
        load_dataset(path, scale="standard")


def test_large_files_stay_mapped_unless_asked(path, monkeypatch):
    monkeypatch.setattr("fusedmlp.datasets.raw_data.MOST_MAPPED_BYTES", 100)
    np.savez(path, x=X, y=Y)
    lines = []
    assert isinstance(load_dataset(path, report=lines.append).x_train, np.memmap)
    assert any("neither scaled nor split" in line for line in lines)
    assert load_dataset(path, scale="standard").preprocessing is not None


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.where(Y == 1, np.nan, Y), "row 1 has no target"),
        (np.where(Y == 2, np.inf, Y), "row 2 has the target inf"),
        (np.full(12, 4), "every row has the target 4; expected at least two classes"),
        (Y.astype(str), "targets are <U21"),
        (Y[:7], r"12 rows of inputs and targets of shape \(7,\)"),
        (Y.reshape(12, 1, 1), r"targets have shape \(12, 1, 1\)"),
        (np.zeros((12, 0)), r"targets have shape \(12, 0\)"),
        (np.where(np.eye(12)[:, :2] > 0, np.nan, 0.5), "row 0 has no target"),
        (X[:, :2].astype("M8[s]"), "targets are datetime64"),
    ],
)
def test_bad_targets(path, y, words):
    np.savez(path, x=X, y=y)
    with pytest.raises(InvalidInputError, match=words):
        load_npz(path)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((0, 5)), r"shape \(0, 5\), expected at least one row"),
        (np.array(3.0), r"shape \(\)"),
        (X.astype(str), "inputs are <U"),
        (X + 1j, "inputs are complex128"),
    ],
)
def test_bad_inputs(path, x, words):
    np.savez(path, x=x, y=Y[: len(np.atleast_1d(x))])
    with pytest.raises(InvalidInputError, match=words):
        load_npz(path)


def test_values_that_are_not_finite(path):
    x = X.copy()
    x[7, 2] = np.inf
    np.savez_compressed(path, x=x, y=Y)
    with pytest.raises(InvalidInputError, match=r"x_train: inputs\[7, 2\] is inf"):
        load_npz(path)


@pytest.mark.parametrize(
    "keys", [("x",), ("a", "y"), ("x_train", "x"), ("x_train", "y_train", "x_test"), ()]
)
def test_keys(path, keys):
    np.savez(path, **dict.fromkeys(keys, X))
    with pytest.raises(InvalidInputError, match="expected x_train, y_train and") as caught:
        load_npz(path)
    assert (", ".join(keys) or "nothing") in str(caught.value)
