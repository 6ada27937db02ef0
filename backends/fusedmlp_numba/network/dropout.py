"""Dropout masks, compiled: Philox4x32-10, several counters at a time, and the masks' use.

The words are defined in :mod:`fusedmlp.backend`, bit for bit; the twins are the NumPy kernels of
the same names. What a mask does to the deltas is in kernels.py.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.simd.vectors import (
    Vector,
    broadcast,
    inline_kernel,
    lane_count,
    lane_indices,
    load,
    load_as,
    store,
    store_partial,
    truncate_to_uint32,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.types import FloatArray

WORDS: Final = 4
"""32-bit words of one counter: neighbouring columns."""

ROUNDS: Final = 10

SHIFTS: Final = (0, 8, 16, 24) if sys.byteorder == "little" else (24, 16, 8, 0)
"""Where the bytes of neighbouring columns stand in a 32-bit word of the mask."""


@kernel
def dropout_mask(
    kept: npt.NDArray[np.uint8],
    a: FloatArray,
    factor: float,
    seed: np.uint64,
    step: np.uint64,
    layer: np.uint64,
    threshold: np.uint64,
    first: int,
    last: int,
    first_row: int,
) -> None:
    """Draw which units are kept in columns first to last; a ← a ⊙ kept · factor.

    Parameters
    ----------
    kept
        (B, width), becomes 0 and 1; defined in :mod:`fusedmlp.backend`.
    a
        (B, width), the activation.
    factor
        1 / (1 − dropout).
    seed, step, layer, threshold
        Of ``uint64``; with a signed number among them Numba would compute in floating point.
    first, last
        Whole vectors of a, and multiples of 4.
    first_row
        Number in the batch of the first row.
    """
    width, lanes, blocks = a.shape[1], lane_count(a), last // WORDS
    step_lanes, layer_lanes = broadcast(step), broadcast(layer)
    numbers, together = lane_indices(step_lanes), lane_count(step_lanes)
    for i in range(len(a)):
        row = broadcast(np.uint64(first_row + i))
        for block in range(first // WORDS, blocks, together):
            counter = numbers + np.uint64(block)
            words = philox4x32(counter, row, step_lanes, layer_lanes, seed)
            at = i * width + block * WORDS
            store_partial(kept, at, mask_bytes(words, threshold), blocks - block)
        for j in range(first, last, lanes):
            at = i * width + j
            value = load(a, at)
            store(a, at, value * load_as(kept, at, value) * factor)


@inline_kernel
def philox4x32(
    c0: Vector, c1: Vector, c2: Vector, c3: Vector, seed: np.uint64
) -> tuple[Vector, Vector, Vector, Vector]:
    """Philox4x32-10: four random 32-bit words for a counter (Salmon et al., SC'11, section 4.3).

    Words travel in uint64, numbers or lanes, so that the 32 × 32 bit products are whole.
    """
    low_word, word_bits = np.uint64(0xFFFFFFFF), np.uint64(32)
    k0, k1 = seed, seed >> word_bits
    for _ in range(ROUNDS):
        # Only lower halves matter from here to there: cut off right before each product, where
        # LLVM then sees that one instruction computes it.
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
    # A difference below 0 has its highest bit set.
    mask = ((words[0] - threshold) >> sign) << SHIFTS[0]
    mask = mask | (((words[1] - threshold) >> sign) << SHIFTS[1])
    mask = mask | (((words[2] - threshold) >> sign) << SHIFTS[2])
    mask = mask | (((words[3] - threshold) >> sign) << SHIFTS[3])
    return truncate_to_uint32(mask)
