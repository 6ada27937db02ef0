"""Strict reader and writer of the IDX format, the one that MNIST is published in.

A file is two zero bytes, a type code, the number of dimensions, the dimensions as big-endian
uint32, then the values, big-endian, in C order. The reader checks all of it against the file's
exact length. It knows nothing of images, labels or digests.
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

from fusedmlp.datasets.reading import reading
from fusedmlp.errors import DataUnavailableError, InvalidInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

IdxScalar = np.uint8 | np.int8 | np.int16 | np.int32 | np.float32 | np.float64

GZIP_MAGIC = b"\x1f\x8b"
_CODES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CHUNK = 1 << 20
_NAME = re.compile(r"(train|t10k|test)-(images|labels)[-.]idx\d-\w+?(\.gz)?")


@dataclass(frozen=True)
class IdxHeader:
    """What an IDX file says of itself: element type, dimensions, where the values start."""

    dtype: np.dtype[IdxScalar]
    shape: tuple[int, ...]
    offset: int

    @property
    def n_bytes(self) -> int:
        """Length of the whole file in bytes, header included."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def parse_header(head: bytes, where: str) -> IdxHeader:
    """Read an IDX header from the first bytes of a file.

    Parameters
    ----------
    head : bytes
        At least the header; anything after it is ignored.
    where : str
        The file's name, for the message.

    Raises
    ------
    DataUnavailableError
        If these are not the first bytes of an IDX file.
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
    n_dims = head[3]
    offset = 4 + 4 * n_dims
    if len(head) < offset:
        raise DataUnavailableError(
            f"{where}: truncated: {len(head)} bytes, expected a header of {offset}"
        )
    shape = struct.unpack(f">{n_dims}I", head[4:offset])
    return IdxHeader(np.dtype(_CODES[head[2]]), shape, offset)


def read_idx(path: str | Path) -> NDArray[IdxScalar]:
    """Read one IDX file, plain (memory-mapped, read-only) or gzip-compressed (loaded).

    Parameters
    ----------
    path : str or Path
        A ``.gz`` is recognised by its content, not by its name.

    Returns
    -------
    ndarray, shape as in the file
        Big-endian where the element has more than one byte, as in the file.

    Raises
    ------
    DataUnavailableError
        If the file cannot be read, is truncated, has bytes left over, or is not IDX.
    """
    path = Path(path)
    with reading(path):
        with path.open("rb") as file:
            head = file.read(4 + 4 * 255)
        if head.startswith(GZIP_MAGIC):
            payload = gunzip_file(path)
            return decode_idx(np.frombuffer(payload, np.uint8), str(path))
        header = parse_header(head, str(path))
        n_bytes = path.stat().st_size
        if n_bytes != header.n_bytes:
            raise DataUnavailableError(_length_message(str(path), header, n_bytes))
        if math.prod(header.shape) == 0:  # a map of length zero is an error on every platform
            return np.empty(header.shape, header.dtype)
        return np.memmap(path, header.dtype, "r", header.offset, header.shape)


def decode_idx(payload: NDArray[np.uint8], where: str) -> NDArray[IdxScalar]:
    """View a whole raw IDX file, shape (n_bytes,), as the array that it holds; no copy.

    Raises
    ------
    DataUnavailableError
        If it is not IDX, or its length is not what its header says.
    """
    header = parse_header(payload[: 4 + 4 * 255].tobytes(), where)
    if payload.size != header.n_bytes:
        raise DataUnavailableError(_length_message(where, header, payload.size))
    return payload[header.offset :].view(header.dtype).reshape(header.shape)


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
    payload = encode_idx(array)
    path.write_bytes(gzip.compress(payload) if path.suffix == ".gz" else payload)


def gunzip_file(path: Path) -> bytes:
    """Decompress a gzip file that holds one IDX file.

    Raises
    ------
    DataUnavailableError
        If the stream is truncated, damaged, followed by foreign bytes, or not IDX.
    """
    with path.open("rb") as file:
        return gunzip(file, str(path))


def gunzip(stream: IO[bytes], where: str) -> bytes:
    """Decompress one IDX file, never more than its own header announces.

    Raises
    ------
    DataUnavailableError
        If the stream is truncated, damaged, followed by foreign bytes, or not IDX.
    """
    try:
        with gzip.GzipFile(fileobj=stream) as file:
            content = bytearray(file.read(4 + 4 * 255))
            header = parse_header(bytes(content), where)
            # One byte past the announced end makes gzip look at what follows the stream. In
            # chunks, because the announced length is not to be trusted with an allocation.
            while len(content) <= header.n_bytes:
                chunk = file.read(min(_CHUNK, header.n_bytes + 1 - len(content)))
                if not chunk:
                    break
                content += chunk
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataUnavailableError(f"{where}: damaged gzip file: {error}") from error
    if len(content) != header.n_bytes:
        raise DataUnavailableError(_length_message(where, header, len(content)))
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
    for path in sorted(folder.iterdir(), reverse=True):  # "x.gz" before "x": plain comes last
        match = _NAME.fullmatch(path.name)
        if match and path.is_file():
            part = "t10k" if match[1] == "test" else match[1]
            found[f"{part}-{match[2]}"] = path
    return found


def _length_message(where: str, header: IdxHeader, n_bytes: int) -> str:
    relation = "truncated" if n_bytes < header.n_bytes else "too long"
    dims = " x ".join(f"{n:,}" for n in header.shape)
    return (
        f"{where}: {relation}: {n_bytes:,} bytes, "
        f"expected {header.n_bytes:,} for {dims} of {header.dtype.name}"
    )
