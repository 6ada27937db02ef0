"""The IDX reader: what it returns, and that it accepts nothing but exact files."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fusedmlp.datasets.idx import decode_idx, encode_idx, find_idx_files, read_idx, write_idx
from fusedmlp.errors import DataUnavailableError, InvalidInputError

DTYPES = ("u1", "i1", "i2", "i4", "f4", "f8")
IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@given(
    hnp.arrays(
        st.sampled_from(DTYPES).map(np.dtype),
        hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5),
    ),
    st.booleans(),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_round_trip(tmp_path, array, compressed):
    path = tmp_path / ("a.gz" if compressed else "a")
    write_idx(path, array)
    back = read_idx(path)
    assert back.shape == array.shape
    assert back.dtype == array.dtype.newbyteorder(">")
    np.testing.assert_array_equal(back, array)


def test_plain_file_is_mapped_read_only(tmp_path):
    write_idx(tmp_path / "a", IMAGES)
    back = read_idx(tmp_path / "a")
    assert isinstance(back, np.memmap)
    assert not back.flags.writeable


def test_gzip_is_recognised_by_content(tmp_path):
    (tmp_path / "a").write_bytes(gzip.compress(encode_idx(IMAGES)))
    back = read_idx(tmp_path / "a")
    assert not isinstance(back, np.memmap)
    np.testing.assert_array_equal(back, IMAGES)


def zipped(content):
    """Without the time, which would give every worker of a parallel run other names of tests."""
    return gzip.compress(content, mtime=0)


RAW = encode_idx(IMAGES)
ZIPPED = zipped(RAW)


def idx_header(*shape: int) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes"),
        (b"\0\0\x08", "3 bytes"),
        (b"<!DOCTYPE html>", "starts with 3c21444f"),
        (b"\0\0\x07\x01" + bytes(20), "starts with 00000701"),
        (b"\0\0\x08\0" + bytes(20), "starts with 00000800"),
        (RAW[:10], "header of 16"),
        (RAW[:-1], r"truncated: 39 bytes, expected 40 for 2 x 3 x 4 of uint8"),
        (RAW + b"\0", r"too long: 41 bytes, expected 40"),
        (
            idx_header(*[2**31] * 3) + bytes(50),
            "3 dimensions, 2147483648 x 2147483648 x 2147483648 of uint8",
        ),
        (idx_header(*[1] * 65) + b"\0", "65 dimensions, 1 x 1"),
        (idx_header(0, 2**32 - 1, 2**32 - 1), "3 dimensions, 0 x 4294967295"),
        (zipped(idx_header(10**9)), "promises 1,000,000,008 bytes, more than its"),
        (zipped(idx_header(10_000)), "truncated: 8 bytes"),
        (ZIPPED[:-9], "damaged gzip"),
        (ZIPPED[:20] + b"\xff\xff" + ZIPPED[22:], "damaged gzip"),
        (ZIPPED + b"garbage", "damaged gzip"),
        (zipped(RAW[:-1]), "truncated: 39 bytes"),
        (zipped(RAW + b"\0"), "too long: 41 bytes"),
        (zipped(idx_header(*[2**31] * 3)), "3 dimensions, 2147483648 x"),
        (zipped(b"hello, world"), "not an IDX file"),
    ],
)
def test_anything_else_is_refused_with_the_file_and_the_reason(tmp_path, content, words):
    (tmp_path / "bad-file").write_bytes(content)
    with pytest.raises(DataUnavailableError, match=words) as caught:
        read_idx(tmp_path / "bad-file")
    assert "bad-file" in str(caught.value)


def test_large_compressed_file(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3000, 28, 28), np.uint8)
    write_idx(tmp_path / "a.gz", images)
    np.testing.assert_array_equal(read_idx(tmp_path / "a.gz"), images)


@pytest.mark.parametrize("extra", [b"", b"one more byte"])
def test_large_compressed_file_with_something_after_it(tmp_path, extra):
    content = encode_idx(np.zeros((3000, 28, 28), np.uint8))
    after = b"" if extra else b"\x01"
    (tmp_path / "a.gz").write_bytes(gzip.compress(content + after) + extra)
    with pytest.raises(DataUnavailableError, match=r"too long|damaged gzip"):
        read_idx(tmp_path / "a.gz")


def test_decoding_checks_the_length():
    with pytest.raises(DataUnavailableError, match="here: too long: 41 bytes"):
        decode_idx(np.frombuffer(RAW + b"x", np.uint8), "here")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataUnavailableError, match="No such file"):
        read_idx(tmp_path / "nothing")
    with pytest.raises(DataUnavailableError, match="it is a folder, expected a file"):
        read_idx(tmp_path)


@pytest.mark.parametrize("array", [np.zeros(3, np.int64), np.array(1, np.uint8)])
def test_what_idx_cannot_hold(array):
    with pytest.raises(InvalidInputError, match="IDX cannot hold"):
        encode_idx(array)


def test_names_in_a_folder(tmp_path):
    for name in (
        "train-images-idx3-ubyte",
        "train-images-idx3-ubyte.gz",
        "train-labels.idx1-ubyte.gz",
        "test-images-idx3-ubyte",
        "t10k-labels.idx1-ubyte",
        "notes.txt",
        "my-train-images-idx3-ubyte",
    ):
        (tmp_path / name).touch()
    found = {key: path.name for key, path in find_idx_files(tmp_path).items()}
    assert found == {
        "train-images": "train-images-idx3-ubyte",
        "train-labels": "train-labels.idx1-ubyte.gz",
        "t10k-images": "test-images-idx3-ubyte",
        "t10k-labels": "t10k-labels.idx1-ubyte",
    }
