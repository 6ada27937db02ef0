"""Arrays from ``.npz`` and ``.npy`` files; what was stored uncompressed is memory-mapped.

``numpy.savez`` does not compress: each array is a contiguous range of bytes in the file, and a set
larger than memory can be trained on from there. ``numpy.load`` ignores ``mmap_mode`` for these
files, so this module maps the members itself. Sizes are compared with the file before anything is
allocated. Pickled members are refused.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zipfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Literal

import numpy as np

from fusedmlp.datasets.file_errors import (
    check_inflated_size,
    check_shape,
    decoding,
    open_regular,
)
from fusedmlp.datasets.options import AS_STORED, TableOptions
from fusedmlp.datasets.raw_data import RawData, as_dataset, as_rows
from fusedmlp.datasets.targets import RawTargets
from fusedmlp.errors import DataUnavailableError, InvalidInputError
from fusedmlp.validation import check_finite

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from fusedmlp.datasets.dataset import Dataset

_LOCAL_HEADER = struct.Struct("<26xHH")  # …, lengths of the name and extra fields
_ARRAY_HEADER_BYTES = 12 + 10_000  # magic, version and length; NumPy refuses a longer header
_CHUNK = 1 << 20
_KEYS = "x_train, y_train and, both or neither, x_test, y_test or x and y"


def load_npz(path: Path, options: TableOptions = AS_STORED) -> Dataset:
    """Load a data set from an ``.npz`` file.

    Parameters
    ----------
    path : Path
        Holds ``x_train``, ``y_train`` and optionally ``x_test``, ``y_test``; or ``x`` and ``y``,
        which then are the training part. Inputs (N, D) or images (N, rows, columns); targets as
        in :meth:`fusedmlp.datasets.targets.TargetCoding.of`.
    options
        ``task``, ``test``, ``scale`` and ``seed`` apply.

    Raises
    ------
    DataUnavailableError
        If the file is unreadable or damaged, or holds pickled objects.
    InvalidInputError
        If keys are missing, or arrays do not fit together.
    """
    arrays = read_npz(path, _choose_keys, _KEYS)
    x_train, image_shape = as_rows(arrays["x_train"], f"{path}: x_train")
    y_train = RawTargets(arrays["y_train"], path.stem)
    raw = RawData(path.stem, str(path), x_train, y_train, image_shape=image_shape)
    if "x_test" in arrays:
        x_test, _ = as_rows(arrays["x_test"], f"{path}: x_test")
        if x_test.dtype != x_train.dtype and np.uint8 not in (x_test.dtype, x_train.dtype):
            with np.errstate(over="ignore"):  # infinite values are found below
                x_test = x_test.astype(x_train.dtype)
            check_finite(f"{path}: x_test as {x_train.dtype}", x_test)
        raw.x_test, raw.y_test = x_test, RawTargets(arrays["y_test"], f"{path.stem}: y_test")
    return as_dataset(raw, options)


def read_npz(
    path: Path, choose: Callable[[list[str]], Mapping[str, str] | None], expected: str
) -> dict[str, NDArray[np.generic]]:
    """Read arrays from an ``.npz`` file: stored ones memory-mapped, compressed ones loaded.

    ``choose`` takes the keys in the file and returns the key of each array to read, by the name of
    the array; or None if one is missing, which is an InvalidInputError about ``expected``.
    """
    with open_regular(path) as file:
        with decoding(str(path)):
            archive = zipfile.ZipFile(file)
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        chosen = choose(list(members))
        if chosen is None:
            shown = [name if name.isprintable() else repr(name) for name in list(members)[:20]]
            raise InvalidInputError(
                f"{path}: holds {', '.join(shown) or 'nothing'}"
                f"{', …' if len(members) > len(shown) else ''}; expected {expected}"
            )
        return {
            name: _read_member(path, file, archive, members[key]) for name, key in chosen.items()
        }


def read_npy(path: Path) -> NDArray[np.generic]:
    """Memory-map the array of an ``.npy`` file."""
    with open_regular(path) as file:
        size = path.stat().st_size
        header = _parse_header(file.read(_ARRAY_HEADER_BYTES), size, str(path))
        return _map(file, header, 0)


def _choose_keys(found: list[str]) -> dict[str, str] | None:
    """Return which member holds x_train, y_train, x_test and y_test."""
    if {"x_train", "y_train"} <= set(found):
        test = [key for key in ("x_test", "y_test") if key in found]
        if len(test) != 1:
            return {key: key for key in ("x_train", "y_train", *test)}
    elif {"x", "y"} <= set(found):
        return {"x_train": "x", "y_train": "y"}
    return None


@dataclass(frozen=True, slots=True)
class _ArrayHeader:
    """The checked header of an ``.npy`` file: its array, and the position of the first value."""

    shape: tuple[int, ...]
    order: Literal["C", "F"]
    dtype: np.dtype[np.generic]
    offset: int


def _read_member(
    path: Path, file: IO[bytes], archive: zipfile.ZipFile, info: zipfile.ZipInfo
) -> NDArray[np.generic]:
    """Memory-map a stored member, load a compressed one."""
    where = f"{path}: {info.filename}"
    is_stored = info.compress_type == zipfile.ZIP_STORED
    with decoding(where):
        stream = archive.open(info)
        start = _data_offset(file, info)
    if start + info.compress_size > path.stat().st_size:
        raise DataUnavailableError(f"{path}: truncated: {info.filename} reaches past the end")
    if is_stored and info.file_size != info.compress_size:
        raise DataUnavailableError(f"{where}: damaged: it has two sizes, and is not compressed")
    with stream:
        content = bytearray(_read(stream, min(_ARRAY_HEADER_BYTES, info.file_size), where))
        header = _parse_header(bytes(content), info.file_size, where)
        if info.compress_type == zipfile.ZIP_DEFLATED:
            check_inflated_size(info.file_size, info.compress_size, where)
        if not is_stored:
            # In chunks: the promised size may be wrong and too large to allocate.
            while chunk := _read(stream, min(_CHUNK, info.file_size - len(content)), where):
                content += chunk
            if len(content) != info.file_size:
                raise DataUnavailableError(
                    f"{where}: truncated: {len(content):,} bytes, expected {info.file_size:,}"
                )
            values = np.frombuffer(content, header.dtype, offset=header.offset)
            return values.reshape(header.shape, order=header.order)
    return _map(file, header, start)


def _read(stream: IO[bytes], n_bytes: int, where: str) -> bytes:
    with decoding(where):
        return stream.read(n_bytes)


def _map(file: IO[bytes], header: _ArrayHeader, start: int) -> NDArray[np.generic]:
    """Memory-map the values of the ``.npy`` file that begins at byte ``start`` of ``file``."""
    if 0 in header.shape:  # nothing to map
        return np.empty(header.shape, header.dtype)
    return np.memmap(file, header.dtype, "r", start + header.offset, header.shape, header.order)


def _parse_header(head: bytes, size: int, where: str) -> _ArrayHeader:
    """Read the first bytes of an ``.npy`` file, and check that ``size`` is its whole length."""
    stream = io.BytesIO(head)
    # NumPy warns of files from Python 2; they are read as any other.
    with decoding(where), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise DataUnavailableError(f"{where}: unknown version {version} of the .npy format")
        # The third version differs in the encoding of field names alone, and numbers have none.
        read = np.lib.format.read_array_header_2_0
        if version == (1, 0):
            read = np.lib.format.read_array_header_1_0
        shape, is_fortran, dtype = read(stream)
    if dtype.hasobject:
        raise DataUnavailableError(
            f"{where} holds Python objects, which are never unpickled; "
            "expected numbers: save it with a numeric dtype"
        )
    if dtype.itemsize == 0 or dtype.subdtype is not None:
        raise DataUnavailableError(f"{where} has elements of type {dtype!s:.80}, expected numbers")
    shape = tuple(int(n) for n in shape)  # True and False are whole numbers to NumPy's reader
    check_shape(shape, dtype, where)
    expected = stream.tell() + math.prod(shape) * dtype.itemsize
    if expected != size:
        raise DataUnavailableError(
            f"{where} has {size:,} bytes, expected {expected:,} for {dtype!s:.80} of shape {shape}"
        )
    return _ArrayHeader(shape, "F" if is_fortran else "C", dtype, stream.tell())


def _data_offset(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Return the position of a member's first byte.

    The directory at the end of a zip gives the position of the member's local header. The name and
    extra fields of that header may differ in length from those in the directory. The header's
    signature was checked when the member was opened.
    """
    file.seek(info.header_offset)
    name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    return int(info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes)
