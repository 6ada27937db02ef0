"""Data sets from ``.npz`` files; what was stored uncompressed is memory-mapped.

``numpy.savez`` stores members as they are, so an array inside is a run of bytes in the file, and
a set larger than memory can be trained on from there. ``numpy.load`` ignores ``mmap_mode`` for
these files, hence this module. Pickled members are refused.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import IO, TYPE_CHECKING

import numpy as np

from fusedmlp.datasets.labels import as_dataset, as_rows
from fusedmlp.datasets.reading import reading
from fusedmlp.errors import DataUnavailableError, InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from fusedmlp.datasets.dataset import Dataset, Task

_LOCAL_HEADER = struct.Struct("<26xHH")  # …, lengths of the name and extra fields
_KEYS = ("x_train, y_train and, both or neither, x_test, y_test", "x and y")


def load_npz(path: Path, task: Task | None = None) -> Dataset:
    """Load a data set from an ``.npz`` file.

    Parameters
    ----------
    path : Path
        Holds ``x_train``, ``y_train`` and optionally ``x_test``, ``y_test``; or ``x`` and ``y``,
        which then are the training part. Inputs (N, D) or images (N, rows, columns); targets as
        in :func:`fusedmlp.datasets.labels.as_dataset`.
    task : str or None
        Overrules what the targets look like.

    Raises
    ------
    DataUnavailableError
        If the file is unreadable or damaged, or holds pickled objects.
    InvalidInputError
        If keys are missing, or arrays do not fit together.
    """
    try:
        with reading(path), zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            names = _choose_keys(path, list(members))
            arrays = {
                name: _read_member(path, archive, members[key]) for name, key in names.items()
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DataUnavailableError(f"{path}: damaged or not an .npz file: {error}") from error
    x_train, image_shape = as_rows(arrays["x_train"], f"{path}: x_train")
    x_test = None
    if "x_test" in arrays:
        x_test, _ = as_rows(arrays["x_test"], f"{path}: x_test")
        if x_test.dtype != x_train.dtype and np.uint8 not in (x_test.dtype, x_train.dtype):
            x_test = x_test.astype(x_train.dtype)
    return as_dataset(
        name=path.stem,
        x_train=x_train,
        y_train=arrays["y_train"],
        x_test=x_test,
        y_test=arrays.get("y_test"),
        source=str(path),
        image_shape=image_shape,
        task=task,
    )


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
    """Return where a member's bytes start.

    The directory at the end of a zip gives the position of the member's local header; that
    header's own name and extra fields may differ in length from those in the directory. Opening
    the member has checked the header's signature.
    """
    with path.open("rb") as file:
        file.seek(info.header_offset)
        head = file.read(_LOCAL_HEADER.size)
    name_bytes, extra_bytes = _LOCAL_HEADER.unpack(head)
    return int(info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes)
