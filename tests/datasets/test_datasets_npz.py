"""``.npz`` files of users: what is mapped, what is converted, what is refused."""

from __future__ import annotations

import os
import re
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from fusedmlp.datasets import load_dataset, load_npz
from fusedmlp.datasets.idx import read_idx
from fusedmlp.datasets.npz import read_npy
from fusedmlp.errors import DataUnavailableError, InvalidInputError

RNG = np.random.default_rng(3)
X = RNG.normal(size=(12, 5))
Y = np.arange(12) % 3


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.npz"


def test_stored_members_are_mapped(path):
    np.savez(path, x_train=X, y_train=Y, x_test=X[:4], y_test=Y[:4])
    data = load_dataset(path)
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
    assert load_npz(path, "regression").task == "regression"
    with pytest.raises(InvalidInputError, match="2 columns, expected one column"):
        load_npz(path, "classification")
    np.savez(path, x=X, y=X[:, :2])
    with pytest.raises(InvalidInputError, match="multilabel set must be 0 or 1"):
        load_npz(path, "multilabel")


def test_class_that_only_the_test_part_has(path):
    np.savez(path, x_train=X, y_train=Y, x_test=X[:2], y_test=np.array([0, 5]))
    assert load_npz(path).n_outputs == 6


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (Y - 1, r"data: train: label -1 in row 0; expected whole numbers from 0"),
        (np.where(Y == 1, np.nan, Y), "label nan in row 1"),
        (np.where(Y == 2, np.inf, Y), "label inf in row 2"),
        (Y * 1000, "2,001 classes for 12 rows"),
        (np.full(12, 4), "every training row has label 4"),
        (Y.astype(str), "labels are <U21"),
        (Y[:7], r"12 rows of inputs and targets of shape \(7,\)"),
        (Y.reshape(12, 1, 1), r"targets of shape \(12, 1, 1\)"),
        (np.zeros((12, 0)), r"targets of shape \(12, 0\)"),
        (np.where(np.eye(12)[:, :2] > 0, np.nan, 0.5), r"targets\[0, 0\] is nan"),
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


def test_objects_are_never_unpickled(path):
    class Bomb:
        def __reduce__(self):
            return (print, ("unpickled",))

    np.savez(path, x=np.array([Bomb(), 1], object), y=Y[:2])
    with pytest.raises(DataUnavailableError, match="never unpickled"):
        load_npz(path)


def rewrite(path, change):
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:-30],
        lambda content: content[: len(content) // 2],
        lambda _content: b"",
        lambda _content: b"<!DOCTYPE html>",
        lambda content: content.replace(b"PK\x03\x04", b"PK\x03\x05", 1),
        lambda content: content.replace(b"\x93NUMPY", b"\x93NUMPI", 1),
        lambda content: content.replace(b"(12, 5)", b"(12, 6)", 1),
        lambda content: content.replace(b"\x93NUMPY\x01", b"\x93NUMPY\x07", 1),
    ],
)
def test_damaged_files(path, change):
    np.savez(path, x=X, y=Y)
    rewrite(path, change)
    with pytest.raises(DataUnavailableError, match=r"data\.npz"):
        load_npz(path)


def test_damaged_compressed_member(path):
    np.savez_compressed(path, x=RNG.normal(size=(500, 5)), y=np.arange(500) % 2)
    rewrite(path, lambda c: c[:3000] + bytes(100) + c[3100:])
    with pytest.raises(DataUnavailableError, match=r"data\.npz"):
        load_npz(path)


def test_member_that_reaches_past_the_end(path):
    np.savez(path, x=X, y=Y)
    size, larger = 128 + X.nbytes, 128 + 99 * 40
    rewrite(
        path,
        lambda content: content.replace(b"(12, 5)", b"(99, 5)").replace(
            struct.pack("<I", size), struct.pack("<I", larger)
        ),
    )
    # Newer releases of Python detect overlapping members.
    with pytest.raises(DataUnavailableError, match=r"x\.npy(' \(possible| reaches past the end)"):
        load_npz(path)


def header(shape: object, descr: object = "<f8", length: int = 118) -> bytes:
    """Return the header of an ``.npy`` file with anything in it."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!s}}}".ljust(length)
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


MEMBERS = {
    "text": (b"a text, no array at all", "x.npy: truncated, damaged or of another format"),
    "cut": (b"\x93NUMPY\x01\x00", "x.npy: truncated, damaged"),
    "version": (b"\x93NUMPY\x07" + header((3,))[7:], "unknown version (7, 0)"),
    "longer": (header((12, 6)) + bytes(480), "has 608 bytes, expected 704 for float64 of shape"),
    "too long": (header((12, 5)) + bytes(481), "has 609 bytes, expected 608"),
    "negative": (header((-12, -5)) + bytes(480), "damaged: 2 dimensions, -12 x -5"),
    "overflow": (header((2**62, 4)) + bytes(480), f"damaged: 2 dimensions, {2**62} x 4"),
    "empty and huge": (header((0, 2**40, 2**40)), "damaged: 3 dimensions, 0 x"),
    "beyond C": (header((10**40,)) + bytes(480), "damaged: 1 dimensions"),
    "66 dimensions": (header((1,) * 66, length=300) + bytes(8), "66 dimensions, 1 x 1"),
    "no bytes": (header((2**70,), "S0"), "elements of type"),
    "subarrays": (header((3,), "(2,)f8") + bytes(48), "elements of type"),
    "unknown type": (header((3,), "no type") + bytes(24), "x.npy: truncated, damaged"),
    "unclosed": (header("(3, ((((") + bytes(24), "x.npy: truncated, damaged"),
    "nested": (header("-" * 9000 + "3", length=9100) + bytes(24), "x.npy: truncated, damaged"),
    "long": (header((3,), length=20_000) + bytes(24), "x.npy: truncated, damaged"),
    "objects": (header((3,), "|O") + bytes(24), "never unpickled"),
}
"""Content of a member, and words of the error."""


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(("member", "words"), MEMBERS.values(), ids=MEMBERS)
def test_member_that_is_no_array(path, member, words, method):
    np.savez(path, y=Y)
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.writestr("x.npy", member)
    with pytest.raises(DataUnavailableError, match=re.escape(words)) as caught:
        load_npz(path)
    assert "\n" not in str(caught.value)
    (path.parent / "x.npy").write_bytes(member)
    with pytest.raises(DataUnavailableError, match=re.escape(words)):
        read_npy(path.parent / "x.npy")


METHODS = (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@pytest.mark.parametrize("method", METHODS)
def test_flipped_bytes_of_compressed_members(path, method):
    arrays = {"x": RNG.normal(size=(60, 5)), "y": np.arange(60) % 3}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array)
    content = path.read_bytes()
    assert len(load_npz(path).x_train) == 60
    positions = range(60, content.index(b"PK", 60) - 20, 37)  # between header and end of a stream
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(DataUnavailableError, match=r"data\.npz"):
            load_npz(path)


def directory(content: bytes, field: int, value: bytes) -> bytes:
    """Overwrite a field of the first member in both of its headers, at its offset in the local."""
    found = bytearray(content)
    for start in (0, content.index(b"PK\x01\x02") + 2):
        found[start + field : start + field + len(value)] = value
    return bytes(found)


@pytest.mark.parametrize(
    ("save", "field", "value", "words"),
    [
        (np.savez_compressed, 6, b"\x01\x00", "encrypted"),
        (np.savez_compressed, 8, b"\x0a\x00", "compression"),
        (np.savez_compressed, 8, b"\xee\xee", "compression"),
        (np.savez_compressed, 22, b"\xff\xff\xff\x7f", "has 2,147,483,647 bytes, expected"),
        (np.savez, 22, b"\x00\x03\x00\x00", "two sizes"),
        (np.savez, 18, b"\xff\xff\xff\x7f", "past the end"),
        (np.savez_compressed, 18, b"\xff\xff\xff\x7f", "past the end"),
    ],
)
def test_tampered_fields_of_the_directory(path, save, field, value, words):
    save(path, x=X, y=Y)
    rewrite(path, lambda content: directory(content, field, value))
    with pytest.raises(DataUnavailableError, match=r"(?i)" + words):
        load_npz(path)


def test_sizes_that_only_a_zip_bomb_has_cost_no_memory(path):
    """Header and directory agree on 3 GB; the member has the bytes of the header alone."""
    shape = (400_000_000,)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header(shape))
        archive.writestr("y.npy", header((3,)) + bytes(24))
    rewrite(path, lambda c: directory(c, 22, struct.pack("<I", 128 + 8 * shape[0])))
    tracemalloc.start()
    with pytest.raises(DataUnavailableError, match="promises 3,200,000,128 bytes, more than"):
        load_npz(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("method", METHODS)
def test_member_that_ends_before_its_array(path, method):
    """The shorter content has the right checksum, as a crafted file has."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x.npy", header((100,)) + bytes(400))
        archive.writestr("y.npy", header((3,)) + bytes(24))
    rewrite(path, lambda c: directory(c, 22, struct.pack("<I", 128 + 800)))
    with pytest.raises(DataUnavailableError, match="truncated"):
        load_npz(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("read", [load_npz, read_npy, read_idx])
def test_a_pipe_is_an_error_and_no_wait(path, read):
    os.mkfifo(path)
    with pytest.raises(DataUnavailableError, match="it is a pipe or a device, expected a file"):
        read(path)
