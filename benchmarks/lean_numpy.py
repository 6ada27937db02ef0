"""How fast NumPy can be: 784-256-10 in a dozen in-place lines, with nothing around them.

Not an engine: one network, one loss, no checks. It is the bar that the NumPy backend, which is
general and reads like the formulas, is held to:  python benchmarks/lean_numpy.py
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.registry import backend_class
from workloads import SMALL, build, epoch, mnist_rows

if TYPE_CHECKING:
    from fusedmlp.network import Parameters


def lean_epoch(
    parameters: Parameters, x: np.ndarray, y: np.ndarray, order: np.ndarray, lr: float
) -> float:
    """Train in place on float32 rows in batches of 64; return the mean loss."""
    (W1, W2), (b1, b2) = parameters.weights, parameters.biases
    B = SMALL.batch_size
    x0, a1, z2 = np.empty((B, 784), "f4"), np.empty((B, 256), "f4"), np.empty((B, 10), "f4")
    dW1, dW2, delta1 = np.empty_like(W1), np.empty_like(W2), np.empty((B, 256), "f4")
    each, loss = np.arange(B), 0.0
    for start in range(0, len(order) - B + 1, B):
        rows = order[start : start + B]
        labels = y[rows]
        np.take(x, rows, axis=0, out=x0, mode="clip")
        np.matmul(x0, W1, out=a1)
        a1 += b1
        np.negative(a1, out=a1)
        np.exp(a1, out=a1)
        a1 += 1
        np.reciprocal(a1, out=a1)
        np.matmul(a1, W2, out=z2)
        z2 += b2
        z2 -= z2.max(axis=1, keepdims=True)
        np.exp(z2, out=z2)
        z2 /= z2.sum(axis=1, keepdims=True)
        loss -= float(np.log(z2[each, labels]).sum())
        z2[each, labels] -= 1
        z2 *= lr / B
        np.matmul(z2, W2.T, out=delta1)
        delta1 *= a1
        np.matmul(a1.T, z2, out=dW2)
        np.subtract(1, a1, out=a1)
        delta1 *= a1
        np.matmul(x0.T, delta1, out=dW1)
        W2 -= dW2
        b2 -= z2.sum(axis=0)
        W1 -= dW1
        b1 -= delta1.sum(axis=0)
    return loss / len(order)


def main(rounds: int = 5) -> None:
    """Interleave the lean loop with the NumPy backend and print the ratio's median."""
    pixels, y = mnist_rows(SMALL.rows)
    x = pixels.astype("f4") / np.float32(255)
    engine, data = build(backend_class("numpy")(), SMALL, x, y)
    parameters = engine.parameters()
    ratios = []
    for round_ in range(rounds + 1):
        order = np.random.default_rng(round_).permutation(len(y))
        began = time.perf_counter()
        lean_loss = lean_epoch(parameters, x, y, order, 0.1)
        lean = time.perf_counter() - began
        began = time.perf_counter()
        loss = epoch(engine, data, SMALL, round_)
        ours = time.perf_counter() - began
        if abs(loss - lean_loss) > 1e-3 * lean_loss + 1e-3:
            raise SystemExit(f"the two do not compute the same: losses {loss} and {lean_loss}")
        if round_:
            ratios.append(lean / ours)
            print(f"lean {len(y) / lean:,.0f} samples/s, backend {len(y) / ours:,.0f} samples/s")
    print(f"backend at {statistics.median(ratios):.2f} of the lean loop's speed")


if __name__ == "__main__":
    main()
