"""Data sets from ``.npz`` files; what was stored uncompressed is memory-mapped.

``numpy.savez`` does not compress: each array is a contiguous range of bytes in the file, and a set
larger than memory can be trained on from there. ``numpy.load`` ignores ``mmap_mode`` for these
files, so this module maps the members itself. Pickled members are refused.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import IO, TYPE_CHECKING

import numpy as np

from fusedmlp.datasets.file_errors import convert_read_errors
from fusedmlp.datasets.options import AS_STORED, TableOptions
from fusedmlp.datasets.raw_data import RawData, as_dataset, as_rows
from fusedmlp.errors import DataUnavailableError, InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from fusedmlp.datasets.dataset import Dataset

_LOCAL_HEADER = struct.Struct("<26xHH")  # …, lengths of the name and extra fields
_KEYS = ("x_train, y_train and, both or neither, x_test, y_test", "x and y")


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
    try:
        with convert_read_errors(path), zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            names = _choose_keys(path, list(members))
            arrays = {
                name: _read_member(path, archive, members[key]) for name, key in names.items()
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DataUnavailableError(f"{path}: damaged or not an .npz file: {error}") from error
    x_train, image_shape = as_rows(arrays["x_train"], f"{path}: x_train")
    raw = RawData(path.stem, str(path), x_train, arrays["y_train"], image_shape=image_shape)
    if "x_test" in arrays:
        x_test, _ = as_rows(arrays["x_test"], f"{path}: x_test")
        if x_test.dtype != x_train.dtype and np.uint8 not in (x_test.dtype, x_train.dtype):
            x_test = x_test.astype(x_train.dtype)
        raw.x_test, raw.y_test = x_test, arrays["y_test"]
    return as_dataset(raw, options)


def _choose_keys(path: Path, found: list[str]) -> dict[str, str]:
    """Return which member holds x_train, y_train, x_test and y_test."""
    if {"x_train", "y_train"} <= set(found):
        test = [key for key in ("x_test", "y_test") if key in found]
        if len(test) != 1:
            return {key: key for key in ("x_train", "y_train", *test)}
    elif {"x", "y"} <= set(found):
        return {"x_train": "x", "y_train": "y"}
    raise InvalidInputError(
        f"{path}: holds {', '.join(found) or 'nothing'}; expected {' or '.join(_KEYS)}"
    )


def _read_member(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo
) -> NDArray[np.generic]:
    """Memory-map a stored member, load a compressed one."""
    with archive.open(info) as stream:
        shape, is_fortran, dtype = _read_array_header(path, info, stream)
        header_bytes = stream.tell()
        n_values = int(np.prod(shape, dtype=object)) if shape else 1
        if header_bytes + n_values * dtype.itemsize != info.file_size:
            raise DataUnavailableError(
                f"{path}: {info.filename} has {info.file_size:,} bytes, expected "
                f"{header_bytes + n_values * dtype.itemsize:,} for {dtype} of shape {shape}"
            )
        if info.compress_type != zipfile.ZIP_STORED or n_values == 0:
            values = np.frombuffer(stream.read(), dtype)
            return values.reshape(shape, order="F" if is_fortran else "C")
    offset = _data_offset(path, info) + header_bytes
    if offset + n_values * dtype.itemsize > path.stat().st_size:
        raise DataUnavailableError(f"{path}: truncated: {info.filename} reaches past the end")
    return np.memmap(path, dtype, "r", offset, shape, "F" if is_fortran else "C")


def _read_array_header(
    path: Path, info: zipfile.ZipInfo, stream: IO[bytes]
) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        else:
            shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    except ValueError as error:
        raise DataUnavailableError(f"{path}: {info.filename}: {error}") from error
    if dtype.hasobject:
        raise DataUnavailableError(
            f"{path}: {info.filename} holds Python objects, which are never unpickled; "
            "expected numbers: save it with a numeric dtype"
        )
    return shape, is_fortran, dtype


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Return the position of a member's first byte.

    The directory at the end of a zip gives the position of the member's local header. The name and
    extra fields of that header may differ in length from those in the directory. The header's
    signature was checked when the member was opened.
    """
    with path.open("rb") as file:
        file.seek(info.header_offset)
        head = file.read(_LOCAL_HEADER.size)
    name_bytes, extra_bytes = _LOCAL_HEADER.unpack(head)
    return int(info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes)
