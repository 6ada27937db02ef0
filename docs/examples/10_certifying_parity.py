"""
Certifying parity
=================

Three backends compute one network. How far do their results differ, and what is equal to the last
bit? The command ``fusedmlp parity`` measures it, and this page shows its parts in Python.
"""

# %%
# Operation by operation
# ----------------------
# A check runs one operation of an engine on random numbers. Its bound is 16·eps·√depth, where eps
# is the distance from 1 to the next number of the type, and depth is the number of terms in the
# sum. A difference far below its bound is rounding; one above it is a fault.
from collections import defaultdict

from fusedmlp.parity.checks import parity_checks
from fusedmlp.parity.comparison import compare
from fusedmlp.registry import backend_class

backends = backend_class("numba")(), backend_class("numpy")()
found = defaultdict(list)
for check in parity_checks():
    for pair in zip(*(check.run(backend, "float32") for backend in backends), strict=True):
        found[check.name.partition(", ")[0]].append(
            compare(check.name, ("numba", "numpy"), "float32", *pair)
        )

print(f"{'operation':34}{'arrays':>7}{'largest difference / bound':>28}")
for operation, comparisons in found.items():
    largest = max(each.found / each.bound if each.bound else 0.0 for each in comparisons)
    print(f"{operation:34}{len(comparisons):7}{largest:28.4f}")
    assert all(each.is_met for each in comparisons)

# %%
# The command does this in float32 and float64, compares gradients with finite differences, follows
# whole trainings step by step and compares hashes. It exits with 4 if a bound is breached, so it
# can stand in a script that decides about a release:
#
# .. code-block:: sh
#
#    fusedmlp parity --backends numpy,numba --dataset digits --json > parity.json
#    fusedmlp parity --html parity.html
#
# A training for any number of threads
# ------------------------------------
# A hash of the trained weights changes if a single bit does. With Numba it is the same for one
# thread and for more: each number is added up by one thread, in an order that does not depend on
# how many there are.
import hashlib
import os

import numpy as np

from fusedmlp import MLP, Trainer, load_dataset

data = load_dataset("digits")


def digest(arrays):
    """Return the beginning of the SHA-256 of arrays."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def trained(backend, threads=None, strict=False, hidden=256, epochs=2):
    """Return a trained model."""
    mlp = MLP(
        [64, hidden, 10],
        hidden="relu",
        dropout=0.1,
        backend=backend,
        threads=threads,
        strict=strict,
    )
    Trainer("adam", epochs=epochs, batch_size=96).fit(mlp, data.x_train, data.y_train)
    return mlp


counts = sorted({1, 2, 3, os.cpu_count() or 1})
hashes = {threads: digest(trained("numba", threads).parameters) for threads in counts}
for threads, each in hashes.items():
    print(f"threads {threads}: {each}")
assert len(set(hashes.values())) == 1

# %%
# NumPy's products run in a BLAS library that may divide them by the number of threads, so its
# backend does not promise this. A backend says so itself:
for backend in ("numpy", "numba"):
    print(f"{backend}: bits depend on threads: {backend_class(backend).bits_depend_on_threads}")

# %%
# A row alone or among others
# ---------------------------
# Does a prediction depend on the rows that happen to be in the same call? Many libraries choose
# another kernel for one row than for a thousand, and round differently. Here are the probabilities
# of 300 rows in calls of different sizes, with the numbers of rows whose bits differ from those of
# the single call.
rows = data.x_train[:300].astype("float32")


def differing(mlp, size):
    """Return how many rows differ between one call and calls of ``size`` rows."""
    whole = mlp.predict_proba(rows)
    calls = [mlp.predict_proba(rows[start : start + size]) for start in range(0, len(rows), size)]
    return int((whole != np.concatenate(calls)).any(axis=1).sum())


sizes = (1, 2, 7, 64, 299)
print("rows in a call " + "".join(f"{size:6}" for size in sizes))
for backend in ("numba", "numpy"):
    mlp = trained(backend)
    different = [differing(mlp, size) for size in sizes]
    print(f"{backend:15}" + "".join(f"{count:6}" for count in different))
    if backend == "numba":
        assert not any(different)

# %%
# The row for NumPy is what its BLAS does on this machine.
#
# Strict mode
# -----------
# Different backends round differently, so their weights agree to some digits and not in all bits.
# In strict mode, sums have a fixed order and functions such as exp are defined to the last bit.
# Then the trained weights are equal on all backends. It is ten to twenty times slower.
for strict in (False, True):
    hashes = {
        backend: digest(trained(backend, strict=strict, hidden=16, epochs=1).parameters)
        for backend in ("numpy", "numba")
    }
    print("strict" if strict else "ordinary", hashes)
assert hashes["numpy"] == hashes["numba"]

# %%
# :doc:`Strict mode </strict>` says what is guaranteed, :doc:`Parity </parity>` what is compared and
# how the bounds follow.
