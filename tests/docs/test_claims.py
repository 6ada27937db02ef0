"""What the landing page claims: the same bits for any number of threads, and for a row alone.

On MNIST's shapes and through the public model, as a reader would check it. The engine's own tests
have more shapes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from fusedmlp import MLP, Trainer
from fusedmlp.registry import backend_class

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from peers.documents import machines  # noqa: E402 - after the path is set
from peers.questions import headline  # noqa: E402


@pytest.fixture(scope="module")
def pixels():
    rng = np.random.default_rng(0)
    x = rng.integers(1, 256, (300, 784)).astype(np.uint8) * (rng.random((300, 784)) < 0.2)
    return x.astype(np.uint8), rng.integers(0, 10, 300)


def trained(backend, x, y):
    mlp = MLP([784, 256, 10], hidden="sigmoid", backend=backend, seed=3)
    Trainer("adam", epochs=1, batch_size=64, validation=0.1).fit(mlp, x, y)
    return mlp


def test_training_has_the_same_bits_for_any_number_of_threads(pixels):
    x, y = pixels
    found = set()
    for threads in (1, 2, 3):
        mlp = trained(backend_class("numba")(threads=threads), x, y)
        arrays = (*mlp.parameters.weights, *mlp.parameters.biases, mlp.predict_proba(x))
        found.add(b"".join(each.tobytes() for each in arrays))
    assert len(found) == 1


@pytest.mark.parametrize("scale", [False, True], ids=["pixels", "floats"])
def test_a_row_has_the_same_bits_alone_and_among_others(pixels, scale):
    x, y = pixels
    mlp = trained("numba", x, y)
    inputs = (x / 255).astype(np.float32) if scale else x
    together = mlp.predict_proba(inputs)
    for at in (0, 1, 150, 299):
        np.testing.assert_array_equal(mlp.predict_proba(inputs[at : at + 1])[0], together[at])
    np.testing.assert_array_equal(mlp.predict_proba(inputs[100:140]), together[100:140])


def test_strict_mode_has_the_same_bits_for_a_row_alone(pixels):
    x, _ = pixels
    for name in ("numpy", "numba"):
        mlp = MLP([784, 16, 10], backend=backend_class(name)(strict=True), seed=3)
        together = mlp.predict_proba(x[:40])
        for at in (0, 39):
            np.testing.assert_array_equal(mlp.predict_proba(x[at : at + 1])[0], together[at])


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_first_pages_quote_the_results(page):
    text = " ".join((ROOT / page).read_text("utf-8").split())
    assert headline(machines()) in text
