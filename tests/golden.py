"""The golden table: hashes of the results of many small trainings, to detect any changed bit.

Each line of a file in tests/golden/ has a configuration and the hash of its final weights,
optimizer state, losses and outputs. Strict engines have one file for all machines. The bits of the
ordinary engines depend on the machine, so their file names have the properties that decide: the
bytes of a vector for Numba; NumPy's version, its instruction set and the kernels of its BLAS for
NumPy.

``python tests/golden.py`` adds the files and lines that this machine needs, and changes no line
that is there. ``FUSEDMLP_VECTOR_BYTES=64 python tests/golden.py`` does it for vectors that this
machine's registers do not hold: the bits are the same. To accept changed bits, delete lines first,
and give the reason in the commit message.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy

from fusedmlp.network import Objective
from fusedmlp.registry import backend_class
from problems import OPTIMIZERS, engine, order, problem

FOLDER = Path(__file__).parent / "golden"

DEPTHS = ((29, 6), (29, 21, 6), (29, 21, 18, 6))
"""Networks of one, two and three layers; no size is a multiple of a vector's."""

SHAPES = (
    ((2, 5, 2), 37, 37),  # computed by the kernels of narrow networks
    ((9, 8, 8, 1), 37, 10),
    ((70, 300, 40, 7), 150, 64),  # several panels of columns for every vector width
    ((150, 33, 10), 2500, 1200),
)
"""(sizes, rows, batch size) for code that depends on them."""

HIDDEN = ("sigmoid", "tanh", "relu", "identity")
GRID_OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam", "adamw", "adam with ε̂")
ADDED_HIDDEN = ("leaky_relu", "elu", "gelu", "silu")
"""Later additions, which have lines of their own at the end."""

DTYPES = ("float32", "float64")
STORAGES = ("uint8", "float32", "csr32")
OUTPUTS = ("softmax", "sigmoid", "identity", "exp")


class Case(NamedTuple):
    """One configuration of the table."""

    sizes: tuple[int, ...]
    rows: int
    batch_size: int
    dtype: str
    storage: str
    optimizer: str
    hidden: str
    output: str
    dropout: float
    weighted: bool
    objective: Objective

    @property
    def name(self):
        """The configuration as one line; different configurations have different names."""
        sizes = "-".join(map(str, self.sizes))
        weighted = "weighted " if self.weighted else ""
        return (
            f"{sizes}, {self.rows} rows by {self.batch_size}, {self.dtype}, {self.storage}, "
            f"{self.optimizer}, {self.hidden}, {self.output}, "
            f"dropout {self.dropout}, {weighted}{self.objective.reduction}, l2 {self.objective.l2}"
        )


def cases():
    """Yield dtype × storage × optimizer × output × depth, and further shapes.

    The hidden activation, dropout, sample weights and the objective vary with the case number, so
    that pairs of values occur together without the full product.
    """
    grid = itertools.product(DTYPES, STORAGES, GRID_OPTIMIZERS, OUTPUTS, DEPTHS)
    combinations = [(*line, 21, 8) for line in grid]
    for (sizes, *rows), dtype, storage in itertools.product(SHAPES, DTYPES, STORAGES):
        for optimizer, output in zip(GRID_OPTIMIZERS, itertools.cycle(OUTPUTS), strict=False):
            if len(sizes) == 4 and sizes[-1] == 1 and output == "softmax":
                output = "sigmoid"
            combinations.append((dtype, storage, optimizer, output, sizes, *rows))
    lines = [(combination, HIDDEN) for combination in combinations]
    grid = itertools.product(DTYPES, STORAGES, ("sgd", "adam", "lion"), OUTPUTS, DEPTHS[1:])
    lines += [((*line, 21, 8), ADDED_HIDDEN) for line in grid]
    for number, (combination, hidden) in enumerate(lines):
        dtype, storage, optimizer, output, sizes, rows, batch_size = combination
        reducible = output in ("softmax", "sigmoid")  # the other outputs diverge with sums
        yield Case(
            sizes,
            rows,
            batch_size,
            dtype,
            storage,
            optimizer,
            hidden[(number + number // 12) % len(hidden)],
            output,
            (0.0, 0.0, 0.3)[number // 7 % 3],
            number // 5 % 2 == 1,
            Objective(
                "sum" if reducible and number // 36 % 2 else "mean", (0.0, 0.01)[number // 11 % 2]
            ),
        )


def digest(backend, case):
    """Train a configuration and return the hash of all results."""
    task = problem(
        case.sizes,
        case.hidden,
        case.output,
        case.dropout,
        rows=case.rows,
        storage=case.storage,
        weighted=case.weighted,
    )
    built, data = engine(
        backend, task, case.optimizer, case.objective, batch_size=case.batch_size, dtype=case.dtype
    )
    rows = order(case.rows, epochs=2)
    n_batches = -(-len(rows) // case.batch_size)
    steepness = 0.02 if task.network.predicts_values else 0.5
    rates = np.linspace(steepness, steepness / 5, n_batches) * OPTIMIZERS[case.optimizer].lr
    epoch = built.train_epoch(data, rows, rates)
    batch, gradients = built.loss_and_gradients(data, rows[:7])
    state, evaluation = built.state(), built.evaluate(data)
    arrays = [built.forward(task.x), built.forward(task.x[:1]), *gradients, *state.parameters]
    arrays += [array for slot in state.slots for array in slot]
    arrays += [getattr(s, n) for s in (epoch, batch, evaluation) for n in ("losses", "correct")]
    assert all(np.isfinite(array).all() for array in arrays), f"the training diverged: {case.name}"
    hashed = hashlib.sha256()
    for array in arrays:
        hashed.update(array.tobytes())
    return hashed.hexdigest()[:16]


def numba_file():
    """Return the Numba engine's file for the vectors of this processor."""
    from fusedmlp_numba.compiler import host

    return FOLDER / f"numba-{host.VECTOR_BYTES}-byte-vectors.json"


def numpy_file():
    """Return the NumPy engine's file for the BLAS of this machine."""
    facts = backend_class("numpy")(threads=1).device().facts
    kernels = f"{facts['blas']}-{facts['blas_version']}-{facts['blas_kernels']}".lower()
    exp = np.lib.introspect.opt_func_info(func_name="^exp$")["exp"]["dd"]["current"].split()[0]
    versions = f"numpy-{np.__version__}-scipy-{scipy.__version__}"  # SciPy has the Φ of gelu
    return FOLDER / f"{versions}-{exp.lower()}-{kernels}.json"


def engines():
    """Return backend and file of the engines that compute the whole table in little time."""
    return {
        "numba": (backend_class("numba")(threads=2), numba_file()),
        "numba-strict": (backend_class("numba")(strict=True), FOLDER / "strict.json"),
        "numpy": (backend_class("numpy")(threads=1), numpy_file()),
    }


def main():
    """Add the missing lines and files."""
    FOLDER.mkdir(exist_ok=True)
    for name, (backend, file) in engines().items():
        known = json.loads(file.read_text("utf-8")) if file.exists() else {}
        table = {case.name: known.get(case.name) or digest(backend, case) for case in cases()}
        file.write_text(json.dumps(table, indent=0, ensure_ascii=False) + "\n", "utf-8")
        print(f"{name}: {len(table) - len(known)} lines added to {file}")


if __name__ == "__main__":
    sys.exit(main())
