"""The golden table: what comes out of many small trainings, as hashes, to notice any changed bit.

Each line of a file in tests/golden/ is a configuration and the hash of its final weights, optimizer
state, losses and outputs. Strict engines have one file, whatever the machine. The bits of the
ordinary engines depend on the machine, so their files are named by what decides: the bytes of a
vector for Numba; the kernels of the BLAS, and NumPy's version, for NumPy.

``python tests/golden.py`` adds the files that this machine needs and does not have yet, and changes
no other. To accept changed bits, delete a file first, and say why in the commit.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fusedmlp.network import Objective
from fusedmlp.registry import backend_class
from problems import OPTIMIZERS, engine, order, problem

FOLDER = Path(__file__).parent / "golden"

DEPTHS = ((29, 6), (29, 21, 6), (29, 21, 18, 6))
"""Sizes of the networks of one, two and three layers; none is a multiple of a vector."""

SHAPES = (
    ((2, 5, 2), 37, 37),  # small enough for the engine of narrow networks
    ((9, 8, 8, 1), 37, 10),
    ((70, 300, 40, 7), 150, 64),  # several panels of columns, on every vector width
    ((150, 33, 10), 2500, 1200),
)
"""Other sizes, with numbers of rows and batch sizes, for what depends on them."""

HIDDEN = ("sigmoid", "tanh", "relu", "identity")
OPTIMIZER_NAMES = ("sgd", "momentum", "nesterov", "adam", "adamw", "adam with ε̂")
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
        """The configuration on one line; equal names are equal configurations."""
        sizes = "-".join(map(str, self.sizes))
        weighted = "weighted " if self.weighted else ""
        return (
            f"{sizes}, {self.rows} rows by {self.batch_size}, {self.dtype}, {self.storage}, "
            f"{self.optimizer}, {self.hidden}, {self.output}, "
            f"dropout {self.dropout}, {weighted}{self.objective.reduction}, l2 {self.objective.l2}"
        )


def cases():
    """Return dtype × storage × optimizer × output × depth, and some other shapes.

    The hidden activation, dropout, sample weights and the objective vary along, so that each is
    seen with each of the others somewhere, without a product of all.
    """
    grid = itertools.product(DTYPES, STORAGES, OPTIMIZER_NAMES, OUTPUTS, DEPTHS)
    found = [(*line, 21, 8) for line in grid]
    for (sizes, *rows), dtype, storage in itertools.product(SHAPES, DTYPES, STORAGES):
        for optimizer, output in zip(OPTIMIZER_NAMES, itertools.cycle(OUTPUTS), strict=False):
            if len(sizes) == 4 and sizes[-1] == 1 and output == "softmax":
                output = "sigmoid"
            found.append((dtype, storage, optimizer, output, sizes, *rows))
    for number, (dtype, storage, optimizer, output, sizes, rows, batch_size) in enumerate(found):
        reducible = output in ("softmax", "sigmoid")  # the others diverge at these rates
        yield Case(
            sizes,
            rows,
            batch_size,
            dtype,
            storage,
            optimizer,
            HIDDEN[(number + number // 12) % len(HIDDEN)],
            output,
            (0.0, 0.0, 0.3)[number // 7 % 3],
            number // 5 % 2 == 1,
            Objective(
                "sum" if reducible and number // 36 % 2 else "mean", (0.0, 0.01)[number // 11 % 2]
            ),
        )


def digest(backend, case):
    """Train a configuration and return the hash of all that came out."""
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


def table(backend):
    """Return the hash of every configuration: {name: hash}."""
    return {case.name: digest(backend, case) for case in cases()}


def numba_file():
    """Return the file of this processor's vectors."""
    from fusedmlp_numba import host

    return FOLDER / f"numba-{host.VECTOR_BYTES}-byte-vectors.json"


def numpy_file():
    """Return the file of this machine's BLAS."""
    facts = backend_class("numpy")(threads=1).device().facts
    kernels = f"{facts['blas']}-{facts['blas_version']}-{facts['blas_kernels']}".lower()
    return FOLDER / f"numpy-{np.__version__}-{kernels}.json"


def engines():
    """Return each engine's backend and the file of its bits, slow ones left out."""
    return {
        "numba": (backend_class("numba")(threads=2), numba_file()),
        "numba-strict": (backend_class("numba")(strict=True), FOLDER / "strict.json"),
        "numpy": (backend_class("numpy")(threads=1), numpy_file()),
    }


def main():
    """Write the files that are not there."""
    FOLDER.mkdir(exist_ok=True)
    for name, (backend, file) in engines().items():
        if not file.exists():
            file.write_text(json.dumps(table(backend), indent=0, ensure_ascii=False) + "\n")
            print(f"{name}: wrote {file}")


if __name__ == "__main__":
    sys.exit(main())
