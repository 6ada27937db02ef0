"""Dropout masks as defined in :mod:`fusedmlp.backend`, in exact integer arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fusedmlp.backend import keep_threshold

if TYPE_CHECKING:
    import numpy.typing as npt


class Mask(NamedTuple):
    """A dropout mask and the arguments that determine it.

    Parameters
    ----------
    kept
        (B, H), True for each kept unit.
    seed, step, layer
        The key, the number of steps taken before, and the index of the hidden layer from 0.
    dropout
        Probability that a unit is set to 0.
    """

    kept: npt.NDArray[np.bool_]
    seed: int
    step: int
    layer: int
    dropout: float


def fill_mask(mask: Mask) -> None:
    """Fill ``mask.kept`` for all units (B, H) of a hidden layer."""
    B, H = mask.kept.shape
    block = np.arange((H + 3) // 4, dtype=np.uint64)[None, :]
    row = np.arange(B, dtype=np.uint64)[:, None]
    words = philox4x32(
        (block, row, np.uint64(mask.step % 2**32), np.uint64(mask.layer)),
        (mask.seed % 2**32, mask.seed // 2**32),
    )
    uniform = np.stack(words, axis=-1).reshape(B, -1)[:, :H]
    mask.kept[...] = uniform < keep_threshold(mask.dropout)


def philox4x32(
    counter: tuple[npt.NDArray[np.uint64] | np.uint64, ...], key: tuple[int, int]
) -> tuple[npt.NDArray[np.uint64], ...]:
    """Philox4x32-10: four random 32-bit words for a counter (Salmon et al., SC'11, section 4.3).

    Words are stored as uint64, so that products of two 32-bit words do not overflow.
    """
    multipliers = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
    weyl = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
    low_word, word_bits = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3 = np.broadcast_arrays(*counter)
    k0, k1 = np.uint64(key[0]), np.uint64(key[1])
    for _ in range(10):
        p0, p1 = c0 * multipliers[0], c2 * multipliers[1]
        c0, c1, c2, c3 = (
            (p1 >> word_bits) ^ c1 ^ k0,
            p1 & low_word,
            (p0 >> word_bits) ^ c3 ^ k1,
            p0 & low_word,
        )
        k0, k1 = (k0 + weyl[0]) & low_word, (k1 + weyl[1]) & low_word
    return c0, c1, c2, c3
