"""``load_dataset``: names, options, splits, the built-in sets, and what a Dataset insists on."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits as sklearn_digits
from sklearn.datasets import make_moons
from sklearn.model_selection import train_test_split

from fusedmlp import datasets
from fusedmlp.datasets import (
    DATASET_NAMES,
    Dataset,
    default_cache_dir,
    load_dataset,
    load_digits,
    load_moons,
)
from fusedmlp.datasets.published import FASHION_MNIST, MNIST
from fusedmlp.datasets.sources import Locations, default_data_dir, load_published
from fusedmlp.errors import DataUnavailableError, InvalidInputError, UnknownNameError


def test_moons_are_scikit_learns():
    data = load_dataset("moons", seed=5)
    x, y = make_moons(200, noise=0.2, random_state=5)
    np.testing.assert_array_equal(data.x_train, x)
    np.testing.assert_array_equal(data.y_train, y)
    assert data.x_test.shape == (1000, 2)
    assert data.y_train.dtype == data.y_test.dtype == np.int64
    again = load_moons(seed=5)
    np.testing.assert_array_equal(again.x_test, data.x_test)
    assert not np.isin(data.x_test, x).any()
    assert not np.isin(data.x_test, load_moons(1000, seed=6).x_train).any()
    small = load_moons(40, noise=0.0, n_test=10)
    assert (len(small.x_train), len(small.x_test)) == (40, 10)


@pytest.mark.parametrize(
    "options",
    [{"n_samples": 1}, {"n_test": 0}, {"noise": -1.0}, {"noise": np.nan}, {"seed": -1}],
)
def test_moons_out_of_range(options):
    with pytest.raises(InvalidInputError, match=f"{next(iter(options))}="):
        load_moons(**options)


def test_digits():
    data = load_dataset("digits", seed=1)
    x, y = sklearn_digits(return_X_y=True)
    assert len(data.x_train) + len(data.x_test) == len(x) == 1797
    assert data.x_train.dtype == np.float32
    assert data.x_train.max() == 1.0
    assert data.image_shape == (8, 8)
    everything = np.concatenate([data.x_train, data.x_test]) * 16
    assert everything.sum() == x.sum()
    shares = np.bincount(data.y_test) / np.bincount(y)
    assert abs(shares - 0.2).max() < 0.01
    np.testing.assert_array_equal(load_digits(1).x_test, data.x_test)
    assert not np.array_equal(load_digits(2).x_test, data.x_test)
    assert len(load_dataset("digits", test=0.5).x_test) == 899


@pytest.mark.parametrize("test_size", [0.0, 0.005, 1.0, -1.0, 200.0, float("nan")])
def test_digits_share_out_of_range(test_size):
    with pytest.raises(InvalidInputError, match=f"test_size={test_size}"):
        load_dataset("digits", test=test_size)


@pytest.fixture
def locations(tmp_path, raw) -> Locations:
    for name, content in raw.items():
        (tmp_path / name).write_bytes(content)
    return Locations(cache_dir=tmp_path / "cache", data_dir=tmp_path)


def test_canonical_split(published, locations, arrays):
    data = load_published(published, locations, source=None, split=None, report=print)
    parts = (data.x_train, data.y_train, data.x_test, data.y_test)
    for part, (name, array) in zip(parts, arrays.items(), strict=True):
        np.testing.assert_array_equal(part, array.reshape(part.shape), err_msg=name)
    assert isinstance(data.x_train, np.memmap)
    assert isinstance(data.x_test, np.memmap)
    assert not data.x_train.flags.writeable
    assert data.x_train.dtype == np.uint8
    assert data.y_train.dtype == np.int64
    assert data.image_shape == (4, 4)
    assert data.class_names == ("x", "y", "z")
    assert "canonical split" in data.source


def test_workshop_split_is_scikit_learns(published, locations, arrays):
    data = load_published(published, locations, source=None, split="workshop", report=print)
    x, y = (
        np.concatenate([a, b])
        for a, b in zip(list(arrays.values())[:2], list(arrays.values())[2:], strict=True)
    )
    expected = train_test_split(x.reshape(25, 16), y, test_size=0.2, random_state=42)
    found = (data.x_train, data.x_test, data.y_train, data.y_test)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(data.x_test) == 5
    assert data.x_train.dtype == np.uint8


def test_unknown_split(published, locations):
    with pytest.raises(UnknownNameError, match="unknown split 'half': choose one of canonical"):
        load_published(published, locations, source=None, split="half", report=print)


def test_options_reach_the_published_set(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        "fusedmlp.datasets.load_published", lambda *args, **kw: seen.append((args, kw))
    )
    load_dataset("mnist", source="dir", split="workshop", data_dir=tmp_path, cache_dir="~")
    (published, where), options = seen.pop()
    assert published.name == "mnist"
    assert where.data_dir == tmp_path
    assert str(where.cache_dir) != "~"
    assert (options["source"], options["split"]) == ("dir", "workshop")
    monkeypatch.setenv("FUSEDMLP_DATA", str(tmp_path / "d"))
    monkeypatch.setenv("FUSEDMLP_CACHE", str(tmp_path / "c"))
    load_dataset("fashion-mnist")
    (published, where), options = seen.pop()
    assert published.name == "fashion-mnist"
    assert (where.data_dir, where.cache_dir) == (tmp_path / "d", tmp_path / "c")
    assert options["report"]("nothing happens") is None


@pytest.mark.parametrize("source", ["dir", None])
def test_a_folder_that_was_asked_for_is_never_replaced(
    tmp_path, monkeypatch, raw, published, source
):
    """The cache has the set, and so another source would be there at once."""
    monkeypatch.setitem(datasets._PUBLISHED, "mnist", published)
    for name, content in raw.items():
        (tmp_path / "cache" / "tiny").mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache" / "tiny" / name).write_bytes(content)
    given = {"source": source, "cache_dir": tmp_path / "cache"}
    with pytest.raises(DataUnavailableError, match=r"dir: .* is not a folder\n.*--data-dir"):
        load_dataset("mnist", data_dir=tmp_path / "absent", **given)
    with pytest.raises(DataUnavailableError, match="dir: no IDX files in"):
        load_dataset("mnist", data_dir=tmp_path, **given)
    if source is None:  # the variable is a habit, not a request
        monkeypatch.setenv("FUSEDMLP_DATA", str(tmp_path))
        lines = []
        load_dataset("mnist", report=lines.append, **given)
        assert "no IDX files" in lines[0]
        assert "using the cache" in lines[0]


def test_a_folder_and_another_source_exclude_each_other(tmp_path):
    with pytest.raises(InvalidInputError, match="exclude each other"):
        load_dataset("mnist", data_dir=tmp_path, source="mirror")


@pytest.mark.parametrize("name", ["mnits", "MNIST"])
def test_unknown_name(name):
    with pytest.raises(UnknownNameError, match=f"unknown data set '{name}'") as caught:
        load_dataset(name)
    assert all(known in str(caught.value) for known in DATASET_NAMES)


def test_paths(tmp_path):
    with pytest.raises(DataUnavailableError, match="no such file or folder"):
        load_dataset(tmp_path / "none.npz")
    with pytest.raises(DataUnavailableError, match="no such file or folder"):
        load_dataset("none.csv")
    (tmp_path / "a.txt").touch()
    with pytest.raises(InvalidInputError, match=r"expected a folder of IDX files, an \.npz"):
        load_dataset(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("moons", {"split": "workshop"}),
        ("digits", {"source": "cache"}),
        ("moons", {"data_dir": "x"}),
        ("digits", {"target": 1}),
        ("mnist", {"target": "a"}),
        ("mnist", {"task": "regression"}),
        ("a.npz", {"target": "a"}),
        ("a.csv", {"split": "canonical"}),
    ],
)
def test_option_that_would_be_ignored_is_refused(name, option):
    with pytest.raises(InvalidInputError, match=f"{next(iter(option))}=.* does not apply"):
        load_dataset(name, **option)


def good() -> Dataset:
    return Dataset(
        name="good",
        x_train=np.array([[0, 1], [0, 0], [0, 255]], np.uint8),
        y_train=np.array([0, 1, 1]),
        x_test=np.zeros((1, 2), np.uint8),
        y_test=np.array([2]),
        n_outputs=3,
        task="classification",
        class_names=("a", "b", "c"),
        source="here",
        image_shape=(1, 2),
    )


def test_summary_is_plain_data():
    summary = good().summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary == {
        "name": "good",
        "task": "classification",
        "source": "here",
        "rows": {"train": 3, "test": 1},
        "inputs": 2,
        "outputs": 3,
        "dtype": "uint8",
        "image_shape": [1, 2],
        "class_names": ["a", "b", "c"],
        "class_counts": {"train": [1, 2, 0], "test": [0, 0, 1]},
        "density": pytest.approx(1 / 3),
        "bytes": 6 + 24 + 2 + 8,
        "memory_mapped": False,
    }


def test_summary_of_other_tasks():
    y = np.array([[0.0, 1], [1, 1], [0, 1]])
    parts = {"x_test": None, "y_test": None, "n_outputs": 2, "class_names": None}
    data = dataclasses.replace(good(), **parts, y_train=y, task="multilabel", image_shape=None)
    assert data.summary()["class_counts"] == {"train": [1, 3], "test": None}
    assert data.summary()["rows"] == {"train": 3, "test": None}
    data = dataclasses.replace(data, task="regression")
    assert data.summary()["class_counts"] == {"train": None, "test": None}


def test_density_looks_at_a_sample_of_many_rows():
    x = np.zeros((10_000, 3), np.float32)
    x[::5, 0] = 1
    data = dataclasses.replace(
        good(), x_train=x, y_train=np.zeros(10_000, np.int64), x_test=None, y_test=None
    )
    assert data.summary()["density"] == pytest.approx(1 / 3)  # every fifth row is looked at


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x_test": None}, "must come together"),
        ({"x_train": np.zeros(3, np.uint8)}, r"x_train has shape \(3,\)"),
        ({"x_train": np.zeros((0, 2), np.uint8)}, r"x_train has shape \(0, 2\)"),
        ({"x_train": np.zeros((3, 2), np.int64)}, "x_train is int64, expected uint8"),
        ({"x_train": np.zeros((3, 2), ">f4")}, "x_train is >f4"),
        ({"y_train": np.zeros(2, np.int64)}, r"y_train has shape \(2,\), expected \(3,\)"),
        ({"y_train": np.zeros(3, np.int32)}, "y_train is int32, expected int64"),
        ({"x_test": np.zeros((1, 3), np.uint8)}, "x_test has 3 columns"),
        ({"x_test": np.zeros((1, 2))}, "columns of float64, expected 2 of uint8"),
        ({"class_names": ("a",)}, "1 class name for 3 outputs"),
        ({"task": "regression"}, r"y_train has shape \(3,\), expected \(3, 3\)"),
    ],
)
def test_parts_that_do_not_fit(change, words):
    with pytest.raises(InvalidInputError, match=words):
        dataclasses.replace(good(), **change)


def test_import_is_light():
    heavy = ("sklearn", "scipy", "urllib.request", "subprocess", "platformdirs", "numba")
    code = f"import sys, fusedmlp.datasets; print([m for m in {heavy} if m in sys.modules])"
    path = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_environment_variables(monkeypatch, tmp_path):
    assert default_data_dir() is None
    monkeypatch.setenv("FUSEDMLP_DATA", str(tmp_path / "d"))
    assert default_data_dir() == tmp_path / "d"
    assert default_cache_dir().name == "fusedmlp"
    monkeypatch.setenv("FUSEDMLP_CACHE", "~/c")
    assert default_cache_dir() == Path.home() / "c"


def test_tables_are_complete_and_hashes_are_of_raw_files():
    for published in (MNIST, FASHION_MNIST):
        assert [file.n_bytes for file in published.files] == [47040016, 60008, 7840016, 10008]
        assert all(len(bytes.fromhex(file.sha256)) == 32 for file in published.files)
        assert all(url.startswith("http") and url.endswith("/") for url in published.mirrors)
        assert len(published.class_names) == 10
    digests = {file.sha256 for published in (MNIST, FASHION_MNIST) for file in published.files}
    assert len(digests) == 8
