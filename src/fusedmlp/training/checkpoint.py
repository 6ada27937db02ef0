"""Checkpoints: everything that a training needs to continue with the same bits, in one file.

Random generators need no state here: weights, shuffles and masks follow from the seed, the epoch
and the step. Writing is atomic, so a process killed at any moment leaves a complete checkpoint.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fusedmlp.backend import State
from fusedmlp.errors import InvalidInputError
from fusedmlp.interop import host_copy
from fusedmlp.io.parameter_files import (
    FileFormat,
    Header,
    format_errors,
    natural,
    network_to_dict,
    number,
    read_parameters,
    slot_prefixes,
    write_parameters,
)
from fusedmlp.training.history import OPTIONAL_COLUMNS, EpochRecord, History
from fusedmlp.validation import is_sparse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from fusedmlp.interop import ForeignArray
    from fusedmlp.network import Network, Parameters
    from fusedmlp.types import Inputs

BEST_PREFIX: Final = "best."


def _groups(header: Header) -> tuple[str, ...]:
    if type(header["has_best"]) is not bool:
        raise InvalidInputError(f"has_best {header['has_best']!r:.80} is neither true nor false")
    best = (BEST_PREFIX,) if header["has_best"] else ()
    return ("", *slot_prefixes(header["slots"]), *best)


CHECKPOINT_FORMAT: Final = FileFormat("fusedmlp-checkpoint", 1, "checkpoint", _groups)

_ABSENT: Final = {"strict": str(False), "labels": str(None)}
"""Settings that older checkpoints do not hold, and the values that they were made with."""

_DIGEST: Final = "sha256"
"""Mark of a fingerprint of all bytes; older checkpoints have one of a sample of rows."""

_CHUNK_BYTES: Final = 8 * 2**20
"""Bytes that are hashed at a time: a memory map or a device array is not copied as a whole."""


@dataclass(frozen=True)
class Checkpoint:
    """A training between two epochs.

    Parameters
    ----------
    state
        Parameters, optimizer slots and step.
    best
        Parameters of the best epoch so far; None without early stopping.
    history
        Records of the finished epochs.
    settings
        What decides the results, as text by name: a resumed training must agree.
    """

    network: Network
    state: State
    best: Parameters | None
    history: History
    settings: Mapping[str, str]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, atomically.

    Raises
    ------
    StorageError
        The file cannot be written; the previous checkpoint is untouched.
    """
    state = checkpoint.state
    header = {
        "network": network_to_dict(checkpoint.network),
        "step": state.step,
        "slots": len(state.slots),
        "has_best": checkpoint.best is not None,
        "history": [asdict(record) for record in checkpoint.history.records],
        "settings": dict(checkpoint.settings),
    }
    groups = {"": state.parameters}
    groups |= zip(slot_prefixes(len(state.slots)), state.slots, strict=True)
    if checkpoint.best is not None:
        groups[BEST_PREFIX] = checkpoint.best
    write_parameters(path, CHECKPOINT_FORMAT, header, groups)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    FileFormatError
        The file is truncated, not a checkpoint, or from a newer version.
    StorageError
        The file cannot be opened.
    """
    file = read_parameters(path, CHECKPOINT_FORMAT)
    header, groups = file.header, file.groups
    with format_errors(f"{path} is not a sound checkpoint"):
        slots = tuple(groups[prefix] for prefix in slot_prefixes(header["slots"]))
        state = State(groups[""], slots, natural(header["step"]))
        history = History([_record(*each) for each in enumerate(header["history"], start=1)])
        settings = {str(name): str(value) for name, value in header["settings"].items()}
        return Checkpoint(file.network, state, groups.get(BEST_PREFIX), history, settings)


def check_settings(path: Path, checkpoint: Checkpoint, settings: Mapping[str, str]) -> None:
    """Raise :class:`InvalidInputError` unless a resumed training agrees with its checkpoint."""
    for name, value in settings.items():
        before = checkpoint.settings.get(name, _ABSENT.get(name))
        if name == "data" and before is not None and _DIGEST not in before:
            raise InvalidInputError(
                f"{path} is of an older release, which recorded a sample of the data: it cannot be "
                "checked that they are the same; start anew, or finish it with that release"
            )
        if before != value:
            raise InvalidInputError(
                f"{path} was made with {name} {before}, now it is {value}: "
                "resume with the same settings and data, or start anew"
            )


def fingerprint(x: Inputs, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None) -> str:
    """Return a digest of every byte of a data set.

    With the processor's SHA instructions it takes some 30 ms for the 47 MB of MNIST.
    """
    digest = hashlib.sha256()
    parts: tuple[ForeignArray, ...] = (x,)
    if is_sparse(x):
        import scipy.sparse

        csr = scipy.sparse.csr_array(x)
        if not csr.has_canonical_format:
            csr = csr.copy()
            csr.sum_duplicates()
        parts = (csr.indptr.astype(np.int64), csr.indices.astype(np.int64), csr.data)
    for array in (*parts, host_copy("y", y), host_copy("sample_weight", sample_weight)):
        for chunk in _chunks(array):
            digest.update(f"{chunk.shape}{chunk.dtype}".encode())
            if chunk.dtype != object:  # as without weights
                digest.update(np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data)
    return f"{x.shape[0]} rows, {_DIGEST} {digest.hexdigest()[:16]}"


def _chunks(array: ForeignArray) -> Iterator[npt.NDArray[Any]]:
    """Yield some rows of an array at a time, in host memory."""
    if not array.shape:
        yield host_copy("array", array)
        return
    first = host_copy("array", array[:1])
    step = max(1, _CHUNK_BYTES // max(1, first.nbytes))
    for start in range(0, array.shape[0], step):
        yield host_copy("array", array[start : start + step])


def _record(epoch: int, entries: Mapping[str, object]) -> EpochRecord:
    """Return the record of epoch ``epoch``, from 1, checked."""
    record = EpochRecord(**entries)  # type: ignore[arg-type]
    if natural(record.epoch) != epoch or natural(record.step) < epoch:
        raise InvalidInputError(f"record {epoch} is of epoch {record.epoch}, step {record.step}")
    for name, value in entries.items():
        if value is not None or name not in OPTIONAL_COLUMNS:
            number(value)
    if not record.seconds > 0:
        raise InvalidInputError(f"epoch {epoch} took {record.seconds!r} seconds")
    return record
