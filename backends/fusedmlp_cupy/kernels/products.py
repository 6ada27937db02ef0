"""How the kernels of products.cu are launched: matrix products for small networks.

layers.py decides which products they compute; cuBLAS computes the others. In the reference engine
they are ``np.matmul`` and the functions for what surrounds a product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp_cupy.kernels.arguments import activation_index, or_null

if TYPE_CHECKING:
    from fusedmlp.network import HiddenActivation
    from fusedmlp_cupy.kernels.arguments import Batch
    from fusedmlp_cupy.runtime.types import Argument, DeviceArray, Program

# The block of products.cu; the enumeration there holds the same numbers.
PRODUCT_EDGE: Final = 8
PRODUCT_SLICES: Final = 4

MANY_TILES: Final = 128
"""Fewest tiles of 32 x 32 for which they are used: about one for each multiprocessor of a large
device. A constant, so that the order of sums depends on the shapes alone."""


def product(
    program: Program,
    a: DeviceArray,
    b: DeviceArray,
    out: DeviceArray,
    bias: DeviceArray | None = None,
    activation: HiddenActivation = "identity",
    kept_z: DeviceArray | None = None,
) -> None:
    """Out (m, n) = a (m, k) · b (k, n), or f(a·b + bias); ``kept_z`` = a·b + bias if given."""
    (m, k), n = a.shape, b.shape[1]
    tail = (or_null(bias), or_null(kept_z), activation_index(activation), out)
    _launch(program, "product", a, b, (m, k, n), tail)


def backpropagate_delta(
    program: Program,
    delta: DeviceArray,
    W: DeviceArray,
    out: DeviceArray,
    saved: DeviceArray | None = None,
    activation: HiddenActivation = "identity",
) -> None:
    """Out (B, H) = delta (B, K) · W (H, K)ᵀ, times f'(z) from ``saved`` (B, H) if given."""
    (m, k), n = delta.shape, W.shape[0]
    tail = (or_null(saved), activation_index(activation), out)
    _launch(program, "backpropagate_delta", delta, W, (m, k, n), tail)


def gradients(
    program: Program, a: DeviceArray, delta: DeviceArray, dW: DeviceArray, db: DeviceArray
) -> None:
    """DW (H, K) = a (B, H)ᵀ · delta (B, K); db (K,) = the sum of delta's rows."""
    (k, m), n = a.shape, delta.shape[1]
    _launch(program, "gradients", a, delta, (m, k, n), (dW, db))


def sgd_gradients(
    program: Program,
    a: DeviceArray,
    delta: DeviceArray,
    W: DeviceArray,
    b: DeviceArray,
    rates: DeviceArray,
    batch: Batch,
    l2: float,
) -> None:
    """Compute the same, and take the step of plain SGD in W (H, K) and b (K,) at once."""
    (k, m), n = a.shape, delta.shape[1]
    tail = (W, b, rates, *batch.number_arguments(), W.dtype.type(l2))
    _launch(program, "sgd_gradients", a, delta, (m, k, n), tail)


def tile_of(m: int, n: int) -> int:
    """Return the width of the tiles that an output (m, n) is cut into."""
    return 32 if -(-m // 32) * -(-n // 32) >= MANY_TILES else 16


def _launch(
    program: Program,
    stem: str,
    a: DeviceArray,
    b: DeviceArray,
    sizes: tuple[int, int, int],
    tail: tuple[Argument, ...],
) -> None:
    m, _, n = sizes
    tile = tile_of(m, n)
    grid = (-(-m // tile) * -(-n // tile),)
    block = (PRODUCT_EDGE * PRODUCT_EDGE, PRODUCT_SLICES)
    program.launch(f"{stem}_{tile}", grid, block, (a, b, *map(np.int32, sizes), *tail))
