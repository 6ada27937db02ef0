"""Strict reader and writer of the IDX format, in which MNIST is published.

A file is two zero bytes, a type code, the number of dimensions, the dimensions as big-endian
uint32, then the values, big-endian, in C order. The reader checks all of this against the exact
length of the file. It does not interpret the values, and it checks no digest.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from fusedmlp.datasets.file_errors import (
    check_inflated_size,
    check_shape,
    convert_read_errors,
    open_regular,
)
from fusedmlp.errors import DataUnavailableError, InvalidInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

IdxScalar = np.uint8 | np.int8 | np.int16 | np.int32 | np.float32 | np.float64

GZIP_MAGIC = b"\x1f\x8b"
_LONGEST_HEADER = 4 + 4 * 255
_CODES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CHUNK = 1 << 20
_NAME = re.compile(r"(train|t10k|test)-(images|labels)[-.]idx\d-\w+?(\.gz)?")


@dataclass(frozen=True)
class IdxHeader:
    """Contents of the header: element type, dimensions, position of the values in bytes."""

    dtype: np.dtype[IdxScalar]
    shape: tuple[int, ...]
    offset: int

    @property
    def n_bytes(self) -> int:
        """Length of the whole file in bytes, header included."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    def check_length(self, n_bytes: int, where: str) -> None:
        """Raise DataUnavailableError unless ``n_bytes`` is the length of the whole file."""
        if n_bytes != self.n_bytes:
            fault = "truncated" if n_bytes < self.n_bytes else "too long"
            shape = " x ".join(f"{n:,}" for n in self.shape)
            raise DataUnavailableError(
                f"{where}: {fault}: {n_bytes:,} bytes, "
                f"expected {self.n_bytes:,} for {shape} of {self.dtype.name}"
            )


def parse_header(head: bytes, where: str) -> IdxHeader:
    """Read an IDX header from the first bytes of the file ``where``; further bytes are ignored.

    Raises
    ------
    DataUnavailableError
        If these are not the first bytes of an IDX file, or no array has that shape.
    """
    if len(head) < 4:
        raise DataUnavailableError(
            f"{where}: not an IDX file: {len(head)} bytes, expected a header of 8 bytes or more"
        )
    if head[:2] != b"\x00\x00" or head[2] not in _CODES or head[3] == 0:
        raise DataUnavailableError(
            f"{where}: not an IDX file: it starts with {head[:4].hex()}, expected 0000, a type "
            "code of 08, 09, 0b, 0c, 0d or 0e, and the number of dimensions"
        )
    offset = 4 + 4 * head[3]
    if len(head) < offset:
        raise DataUnavailableError(
            f"{where}: truncated: {len(head)} bytes, expected a header of {offset}"
        )
    dtype, shape = np.dtype(_CODES[head[2]]), struct.unpack(f">{head[3]}I", head[4:offset])
    check_shape(shape, dtype, where)
    return IdxHeader(dtype, shape, offset)


def read_idx(path: str | Path) -> NDArray[IdxScalar]:
    """Read one IDX file, plain (memory-mapped, read-only) or gzip-compressed (loaded).

    Returns
    -------
    ndarray, shape as in the file
        Big-endian where an element has more than one byte, as in the file.

    Raises
    ------
    DataUnavailableError
        If the file cannot be read, is truncated, has bytes left over, or is not IDX.
    """
    return decode_idx(read_raw(Path(path)), str(path))


def read_raw(path: Path) -> NDArray[np.uint8]:
    """Return the bytes of an IDX file, header included: memory-mapped, or loaded if compressed.

    A gzip file is recognised by its content, not by its name.

    Returns
    -------
    ndarray of uint8, shape (n_bytes,), read-only
    """
    with open_regular(path) as file:
        magic = file.read(2)
        if magic == GZIP_MAGIC:
            file.seek(0)
            return np.frombuffer(gunzip(file, path.stat().st_size, str(path)), np.uint8)
        if not magic:  # an empty file cannot be mapped
            raise DataUnavailableError(f"{path} is empty: 0 bytes")
        return np.memmap(file, np.uint8, "r")


def decode_idx(content: NDArray[np.uint8], where: str) -> NDArray[IdxScalar]:
    """View a whole raw IDX file, shape (n_bytes,), as the array that it holds; no copy."""
    header = parse_header(content[:_LONGEST_HEADER].tobytes(), where)
    header.check_length(content.size, where)
    return content[header.offset :].view(header.dtype).reshape(header.shape)


def encode_idx(array: NDArray[IdxScalar]) -> bytes:
    """Return ``array`` as the bytes of a raw IDX file.

    Raises
    ------
    InvalidInputError
        If IDX has no code for the element type, or the array has no or too many dimensions.
    """
    big_endian = array.dtype.newbyteorder(">")
    codes = {np.dtype(name): code for code, name in _CODES.items()}
    if big_endian not in codes or not 1 <= array.ndim <= 255:
        raise InvalidInputError(
            f"IDX cannot hold {array.dtype} with {array.ndim} dimensions: expected uint8, int8, "
            "int16, int32, float32 or float64 with 1 to 255"
        )
    head = struct.pack(f">HBB{array.ndim}I", 0, codes[big_endian], array.ndim, *array.shape)
    return head + array.astype(big_endian).tobytes()


def write_idx(path: str | Path, array: NDArray[IdxScalar]) -> None:
    """Write ``array`` as an IDX file; compressed when the name ends in ``.gz``."""
    path = Path(path)
    content = encode_idx(array)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def gunzip(stream: IO[bytes], compressed: int, where: str) -> bytes:
    """Decompress one IDX file of ``compressed`` bytes, never more than its own header announces."""
    try:
        with gzip.GzipFile(fileobj=stream) as file:
            content = bytearray(file.read(_LONGEST_HEADER))
            header = parse_header(bytes(content), where)
            check_inflated_size(header.n_bytes, compressed, where)
            # One byte past the announced end makes gzip check what follows the stream. The file is
            # read in chunks, because the announced length may be wrong and too large to allocate.
            while len(content) <= header.n_bytes:
                chunk = file.read(min(_CHUNK, header.n_bytes + 1 - len(content)))
                if not chunk:
                    break
                content += chunk
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataUnavailableError(f"{where}: damaged gzip file: {error}") from error
    header.check_length(len(content), where)
    return bytes(content)


def find_idx_files(folder: Path) -> dict[str, Path]:
    """Find the IDX files of a folder by their usual names.

    Both ``train-images-idx3-ubyte`` and ``train-images.idx3-ubyte`` are usual, plain or with
    ``.gz``; ``test-`` is accepted for ``t10k-``.

    Returns
    -------
    dict
        Keys ``train-images``, ``train-labels``, ``t10k-images``, ``t10k-labels``, as far as
        present. A plain file wins over its ``.gz``, because it can be memory-mapped.
    """
    found: dict[str, Path] = {}
    with convert_read_errors(folder):
        for path in sorted(folder.iterdir(), reverse=True):  # "x.gz" before "x": plain comes last
            match = _NAME.fullmatch(path.name)
            if match and path.is_file():
                part = "t10k" if match[1] == "test" else match[1]
                found[f"{part}-{match[2]}"] = path
    return found
