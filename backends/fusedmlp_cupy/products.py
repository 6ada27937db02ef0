"""How the kernels of products.cu are launched, and which products they are for.

Large products are cuBLAS's: see cublas.py and device.py. The kernels have no twins of their own in
the NumPy engine: they are ``np.matmul`` and the functions there for what stands around a product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.network import HIDDEN_ACTIVATIONS
from fusedmlp_cupy.kernels import NULL

if TYPE_CHECKING:
    from fusedmlp.network import HiddenActivation
    from fusedmlp_cupy.kernels import Batch
    from fusedmlp_cupy.programs import Argument, DeviceArray, Program

STEMS: Final = ("product", "delta_below", "gradients", "sgd_gradients")
TILES: Final = (16, 32)
PRODUCTS: Final = tuple(f"{stem}_{tile}" for stem in STEMS for tile in TILES)
"""Every kernel of products.cu."""

# The block that products.cu is written for; the enum there holds the same numbers.
PRODUCT_EDGE: Final = 8
PRODUCT_SLICES: Final = 4

SMALL_PRODUCT: Final = 2**24
"""Multiplications up to which a product is small. An estimate that no device has confirmed: at a
few TFLOP/s it takes about as long as the launches that it saves."""

MANY_TILES: Final = 128
"""Tiles of 32 x 32 from which on they are used: one for each multiprocessor of a large device. The
number is a constant, so that the order of sums depends on the shapes alone."""


def is_small(m: int, k: int, n: int) -> bool:
    """Tell whether a product of (m, k) and (k, n) is for the kernels here."""
    return m * k * n <= SMALL_PRODUCT


def product(
    program: Program,
    a: DeviceArray,
    b: DeviceArray,
    out: DeviceArray,
    bias: DeviceArray | None = None,
    activation: HiddenActivation = "identity",
) -> None:
    """Out (m, n) = a (m, k) · b (k, n), or f(a·b + bias)."""
    (m, k), n = a.shape, b.shape[1]
    tail = (NULL if bias is None else bias, _number_of(activation), out)
    _launch(program, "product", a, b, (m, k, n), tail)


def delta_below(
    program: Program,
    delta: DeviceArray,
    W: DeviceArray,
    out: DeviceArray,
    values: DeviceArray | None = None,
    activation: HiddenActivation = "identity",
) -> None:
    """Out (B, H) = delta (B, K) · W (H, K)ᵀ, or (delta·Wᵀ) ⊙ f' from ``values`` = f(z) (B, H)."""
    (m, k), n = delta.shape, W.shape[0]
    tail = (NULL if values is None else values, _number_of(activation), out)
    _launch(program, "delta_below", delta, W, (m, k, n), tail)


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


def _number_of(activation: HiddenActivation) -> np.int32:
    return np.int32(HIDDEN_ACTIVATIONS.index(activation))
