"""Folders of IDX files of users: names, types, and parts that do not fit together."""

from __future__ import annotations

import numpy as np
import pytest

from fusedmlp.datasets import load_dataset
from fusedmlp.datasets.idx import write_idx
from fusedmlp.errors import DataUnavailableError, InvalidInputError

RNG = np.random.default_rng(3)
X = RNG.normal(size=(12, 5))
Y = np.arange(12) % 3
IMAGES = RNG.integers(0, 256, (12, 4, 6), np.uint8)


def test_idx_folder(tmp_path):
    write_idx(tmp_path / "train-images-idx3-ubyte", IMAGES)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", Y.astype(np.uint8))
    data = load_dataset(tmp_path)
    assert isinstance(data.x_train, np.memmap)
    assert data.x_train.dtype == np.uint8
    assert data.image_shape == (4, 6)
    assert data.x_test is None
    assert data.name == tmp_path.name
    np.testing.assert_array_equal(data.y_train, Y)
    write_idx(tmp_path / "test-images-idx3-ubyte", IMAGES[:5])
    with pytest.raises(DataUnavailableError, match="no t10k-labels file"):
        load_dataset(tmp_path)
    write_idx(tmp_path / "test-labels-idx1-ubyte", Y[:5].astype(np.uint8))
    assert len(load_dataset(tmp_path).x_test) == 5


def test_idx_folder_of_floats(tmp_path):
    write_idx(tmp_path / "train-images-idx2-float", X)
    write_idx(tmp_path / "train-labels-idx1-ubyte", Y.astype(np.uint8))
    data = load_dataset(tmp_path)
    assert data.x_train.dtype == np.float64
    np.testing.assert_array_equal(data.x_train, X)


def test_idx_folder_that_does_not_fit(tmp_path):
    with pytest.raises(DataUnavailableError, match="no train-images and no train-labels"):
        load_dataset(tmp_path)
    write_idx(tmp_path / "train-images-idx3-ubyte", IMAGES)
    write_idx(tmp_path / "train-labels-idx1-ubyte", Y[:9].astype(np.uint8))
    with pytest.raises(InvalidInputError, match="12 rows of inputs"):
        load_dataset(tmp_path)
