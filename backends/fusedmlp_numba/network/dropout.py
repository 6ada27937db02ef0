"""Dropout masks: Philox4x32-10 for several counters at a time, and the masks' application.

The random words are defined in :mod:`fusedmlp.backend`, bit for bit; twins are the NumPy kernels of
the same names. What a mask does to the deltas is in activations.py.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.simd.vector_memory import load, load_as, store, store_partial
from fusedmlp_numba.simd.vectors import (
    Vector,
    broadcast,
    inline_kernel,
    lane_count,
    lane_indices,
    truncate_to_uint32,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.types import FloatArray

WORDS: Final = 4
"""32-bit words of one counter: neighbouring columns."""

ROUNDS: Final = 10

SHIFTS: Final = (0, 8, 16, 24) if sys.byteorder == "little" else (24, 16, 8, 0)
"""Bit positions of the bytes of neighbouring columns in a 32-bit word of the mask."""


class MaskStream(NamedTuple):
    """What determines a layer's mask in a step; see :mod:`fusedmlp.backend`.

    All are ``uint64``: with a signed number among them, Numba would compute in floating point.
    """

    seed: np.uint64
    step: np.uint64
    layer: np.uint64
    threshold: np.uint64


@kernel
def dropout_mask(
    kept: npt.NDArray[np.uint8],
    a: FloatArray,
    stream: MaskStream,
    factor: float,
    columns: tuple[int, int],
    first_row: int,
) -> None:
    """Draw the units that are kept in a range of columns; a ← a ⊙ kept · factor.

    Parameters
    ----------
    kept
        (B, width), becomes 0 and 1.
    a
        (B, width), the activation.
    factor
        1 / (1 − dropout).
    columns
        Whole vectors of a, and multiples of 4.
    first_row
        Number in the batch of the first row.
    """
    first, last = columns
    width, lanes, blocks = a.shape[1], lane_count(a), last // WORDS
    step, layer = broadcast(stream.step), broadcast(stream.layer)
    numbers, together = lane_indices(step), lane_count(step)
    for i in range(len(a)):
        row = broadcast(np.uint64(first_row + i))
        for block in range(first // WORDS, blocks, together):
            counter = numbers + np.uint64(block)
            words = philox4x32(counter, row, step, layer, stream.seed)
            at = i * width + block * WORDS
            store_partial(kept, at, mask_bytes(words, stream.threshold), blocks - block)
        for j in range(first, last, lanes):
            at = i * width + j
            value = load(a, at)
            store(a, at, value * load_as(kept, at, value) * factor)


@inline_kernel
def philox4x32(
    c0: Vector, c1: Vector, c2: Vector, c3: Vector, seed: np.uint64
) -> tuple[Vector, Vector, Vector, Vector]:
    """Philox4x32-10: four random 32-bit words for a counter (Salmon et al., SC'11, section 4.3).

    Words are held in uint64, as scalars or lanes, so that the 32 × 32 bit products are complete.
    """
    low_word, word_bits = np.uint64(0xFFFFFFFF), np.uint64(32)
    k0, k1 = seed, seed >> word_bits
    for _ in range(ROUNDS):
        # Only lower halves matter between products. They are masked right before each product,
        # where LLVM then recognises a single 32 × 32 bit multiplication.
        p0 = (c0 & low_word) * np.uint64(0xD2511F53)
        p1 = (c2 & low_word) * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> word_bits) ^ c1 ^ k0, p1, (p0 >> word_bits) ^ c3 ^ k1, p0
        k0 = k0 + np.uint64(0x9E3779B9)
        k1 = k1 + np.uint64(0xBB67AE85)
    return c0 & low_word, c1 & low_word, c2 & low_word, c3 & low_word


@inline_kernel
def mask_bytes(words: tuple[Vector, Vector, Vector, Vector], threshold: np.uint64) -> Vector:
    """Return lanes of uint32, whose bytes are 1 where the counter's words are below threshold."""
    sign = np.uint64(63)
    # A negative difference has its highest bit set.
    mask = ((words[0] - threshold) >> sign) << SHIFTS[0]
    mask = mask | (((words[1] - threshold) >> sign) << SHIFTS[1])
    mask = mask | (((words[2] - threshold) >> sign) << SHIFTS[2])
    mask = mask | (((words[3] - threshold) >> sign) << SHIFTS[3])
    return truncate_to_uint32(mask)
