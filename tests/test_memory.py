"""Data sets larger than memory: training maps the file and copies nothing of it but batches."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from fusedmlp.network import Network
from fusedmlp.registry import backend_class
from problems import Problem, engine

BOUND_MIB = 128
"""Private memory that training on a mapped file may take above what it had before: 64 MiB for the
nonzero entries that the numba engine may keep, and as much for everything else."""

CODE = """
import sys, threading, numpy as np
from fusedmlp import MLP, Trainer
name, path, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
def private_kib():
    fields = dict(l.split(":") for l in open("/proc/self/status"))
    return int(fields["RssAnon"].split()[0])
def train(x):
    mlp = MLP([784, 16, 10], backend=name, threads=1)
    y = np.arange(len(x)) % 10
    return Trainer(epochs=1, batch_size=256, validation=0.1).fit(mlp, x, y)
x = np.memmap(path, np.uint8, "r", shape=(rows, 784))
train(x[:4096])                     # imports and compilation are not the data's
before, found, ended = private_kib(), [], threading.Event()
def watch():
    while not ended.wait(0.005):
        found.append(private_kib())
watcher = threading.Thread(target=watch)
watcher.start()
train(x)
ended.set()
watcher.join()
print((max(found) - before) / 1024)
"""


ROWS = 96 * 4096


@pytest.fixture(scope="module", params=[0.15, 1.0])
def pixels(request, tmp_path_factory):
    """300 MB of pixels, of which a copy in any form would break the bound."""
    density, path = request.param, tmp_path_factory.mktemp("memory") / "pixels"
    rng = np.random.default_rng(0)
    block = rng.integers(1, 256, (4096, 784), np.uint8) * (rng.random((4096, 784)) < density)
    content = block.astype(np.uint8).tobytes()
    with path.open("wb") as file:
        for _ in range(ROWS // 4096):
            file.write(content)
    yield path
    path.unlink()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_a_mapped_file_is_not_copied(pixels, name):
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CODE), name, str(pixels), str(ROWS)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(found.stdout) < BOUND_MIB


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_multiplies_sparse_rows_as_they_are(dtype):
    """A batch made dense would be 20 times the weights; fuller rows are as fast dense."""
    D, rows, rng = 40_000, 200, np.random.default_rng(0)
    x = scipy.sparse.random_array((rows, D), density=1e-3, format="csr", rng=rng, dtype=dtype)
    task = Problem(Network((D, 10, 2)), x, rng.integers(0, 2, rows), None)
    built, data = engine(backend_class("numpy")(), task, "adam", batch_size=rows, dtype=dtype)
    weights = D * 10 * np.dtype(dtype).itemsize
    tracemalloc.start()
    built.train_epoch(data, np.arange(rows), np.full(1, 0.01))
    trained = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    outputs = built.forward(x)
    predicted = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert trained < 4 * weights
    assert predicted < weights
    np.testing.assert_allclose(outputs, built.forward(x.toarray()), rtol=1e-4)
    dense = Problem(task.network, x.toarray(), task.y, None)
    other, data = engine(backend_class("numpy")(), dense, "adam", batch_size=rows, dtype=dtype)
    other.train_epoch(data, np.arange(rows), np.full(1, 0.01))
    for a, b in zip(built.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
