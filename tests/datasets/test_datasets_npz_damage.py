"""Damaged and crafted ``.npz`` and ``.npy`` files: one error each, before anything is allocated."""

from __future__ import annotations

import os
import re
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from fusedmlp.datasets import load_npz
from fusedmlp.datasets.idx import read_idx
from fusedmlp.datasets.npz import read_npy
from fusedmlp.errors import DataUnavailableError

RNG = np.random.default_rng(3)
X = RNG.normal(size=(12, 5))
Y = np.arange(12) % 3


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.npz"


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
