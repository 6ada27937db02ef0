"""
Writing a fourth backend
========================

A backend is a class in any installed package. fusedmlp finds it by an entry point, so nothing in
fusedmlp changes. This page writes a complete one, registers it, and holds it to the contract.

The backend answers a question: how much do the other engines lose to rounding? It has the formulas
of the reference engine, and computes every sum in the next wider type: float64 where the network
is float32, and NumPy's long double where it is float64.
"""

# %%
# The operations
# --------------
# The reference engine computes a network by its formulas. Products of matrices, sums and elementary
# functions come from a table of operations, :class:`fusedmlp.reference.operations.Operations`. A
# subclass replaces some of them; the engine needs no change.
#
# Shapes have the names that the docstrings of the package use: B rows of a batch, H units of a
# hidden layer, K outputs.
import numpy as np

from fusedmlp.backend import Availability, Backend, Device, Preference, check_threads
from fusedmlp.errors import InvalidInputError
from fusedmlp.reference.engine import ReferenceEngine
from fusedmlp.reference.operations import Operations

WIDER = {np.dtype("float32"): np.float64, np.dtype("float64"): np.longdouble}


class WideOperations(Operations):
    """Sums in the next wider type, rounded once to the type of the network."""

    def product(self, a, b, out):
        """Compute out (m, n) = a (m, k) · b (k, n). The matrix a may be sparse."""
        wide = WIDER[out.dtype]
        out[...] = a.astype(wide) @ b.astype(wide)

    def sum_rows(self, x, out):
        """Compute out (H,), the sum of the rows of x (B, H)."""
        out[...] = x.sum(axis=0, dtype=WIDER[x.dtype])

    def sum_columns(self, x):
        """Return the sum (B,) of each row of x (B, K)."""
        return x.sum(axis=1, dtype=WIDER[x.dtype]).astype(x.dtype)


# %%
# The backend
# -----------
# A backend has five members, which :class:`fusedmlp.backend.Backend` describes. Three rules matter
# most:
#
# - ``probe`` never raises. It says whether the backend can be used here, and what to do if not.
# - A heavy library is imported in ``probe`` and in the constructor, never at the top of the file:
#   ``fusedmlp backends`` loads this class on machines that lack the library.
# - ``preference`` is a score for ``auto``. NumPy's is 1. A backend with 0 is used on request only.
class WideBackend(Backend):
    """The reference engine with wide sums."""

    name = "wide"
    bits_depend_on_threads = True  # those of NumPy's BLAS, for float32 networks

    def __init__(self, *, device=None, threads=None):
        if device is not None:
            raise InvalidInputError(f"wide:{device} names a device: the backend has none")
        check_threads(threads)

    @classmethod
    def probe(cls):
        """Report that NumPy is always there."""
        return Availability("usable", f"NumPy {np.__version__}")

    @classmethod
    def preference(cls, workload):
        """Leave the choice to faster backends."""
        return Preference(0.0, "for measuring errors of rounding")

    def device(self):
        """Describe where it runs."""
        digits = np.finfo(np.longdouble).precision
        return Device("CPU, NumPy with wide sums", {"digits of long double": digits})

    def compile(self, spec):
        """Build the engine of one network."""
        return ReferenceEngine(spec, operations=WideOperations())


# %%
# The entry point
# ---------------
# A package declares the class in its ``pyproject.toml``. With the code above in the file
# ``fusedmlp_wide.py`` beside it, this is all that the package needs:
#
# .. code-block:: toml
#
#    [build-system]
#    requires = ["hatchling"]
#    build-backend = "hatchling.build"
#
#    [project]
#    name = "fusedmlp-wide"
#    version = "1.0"
#    dependencies = ["fusedmlp"]
#
#    [project.entry-points."fusedmlp.backends"]
#    wide = "fusedmlp_wide:WideBackend"
#
# After ``pip install .`` the backend is there: for ``fusedmlp train --backend wide``, for
# ``MLP(..., backend="wide")`` and for the variable ``FUSEDMLP_BACKEND``.
#
# On this page the class is not in a package. The next lines write the record that ``pip install``
# would write, with this script or notebook as the module. Then fusedmlp lists four backends, and
# takes the new one by its name.
import sys
import tempfile
from pathlib import Path

import fusedmlp

with tempfile.TemporaryDirectory() as site:
    record = Path(site) / "fusedmlp_wide-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: fusedmlp-wide\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text("[fusedmlp.backends]\nwide = __main__:WideBackend\n")
    sys.path.append(site)

    for name, found in fusedmlp.availability().items():
        print(f"{name:6} {found.state}")
    chosen, backend = fusedmlp.MLP([64, 32, 10], backend="wide").select_backend()
    sys.path.remove(site)

print(f"{chosen} is {backend.device()}")
assert isinstance(backend, WideBackend)

# %%
# Using it
# --------
# A model takes the name of a backend, or a backend that is built already. All of them train the
# same network on the same batches, in float32. The new backend in float64 gives the exact answer
# for comparison.
data = fusedmlp.load_dataset("digits")
start = fusedmlp.MLP([64, 32, 10], hidden="tanh").parameters  # exact in float32 and in float64


def weights_after_training(backend, dtype="float32"):
    """Return all weights after three epochs, as one vector."""
    mlp = fusedmlp.MLP([64, 32, 10], hidden="tanh", backend=backend, dtype=dtype)
    mlp.parameters = start
    fusedmlp.Trainer("nesterov", epochs=3).fit(mlp, data.x_train, data.y_train)
    return np.concatenate([array.ravel() for array in mlp.parameters])


exact = weights_after_training(backend, "float64")
for name, each in {"numpy": "numpy", "numba": "numba", "wide": backend}.items():
    error = np.sqrt(np.mean((weights_after_training(each) - exact) ** 2))
    print(f"{name:6} root-mean-square error of a weight: {error:.1e}")
    assert error < 1e-5

# %%
# Roundings of sums are only a part of the error. The activations and the weights themselves are
# rounded to float32 too, and ``wide`` does not change that.
#
# Holding it to the contract
# --------------------------
# ``fusedmlp parity --backends numpy,wide`` compares every operation, the gradients and whole
# trainings, which takes half a minute. Here are its checks of operations, in float32.
from fusedmlp.parity.checks import parity_checks
from fusedmlp.parity.comparison import compare
from fusedmlp.registry import backend_class

backends = WideBackend(), backend_class("numpy")()
comparisons = [
    compare(check.name, ("wide", "numpy"), "float32", *pair)
    for check in parity_checks()
    for pair in zip(*(check.run(backend, "float32") for backend in backends), strict=True)
]
breaches = [each.describe() for each in comparisons if not each.is_met]
print(f"{len(comparisons)} comparisons, {len(breaches)} outside their bounds")
assert not breaches

# %%
# The tests of fusedmlp hold each engine to the same contract: inputs that it must refuse, arrays
# that it must not write to, states that move to another backend. They take the backend from two
# fixtures. In a checkout of fusedmlp this is the whole test file of a backend:
#
# .. code-block:: python
#
#    import pytest
#    from fusedmlp_wide import WideBackend
#    from test_contract import *
#    from test_gradients import *
#    from test_parity import *
#
#
#    @pytest.fixture(scope="session")
#    def backend():
#        return WideBackend()
#
#
#    compiled_backend = backend
#
# The tests of fusedmlp run exactly this on the class of this page.
#
# From here
# ---------
# - A backend with arithmetic of its own subclasses :class:`fusedmlp.backend.Engine` in place of the
#   reference engine. ``train_epoch`` is the member that decides its speed: one call trains on many
#   batches.
# - Strict mode and options such as ``cupy+tf32`` are optional.
#   :doc:`Extending fusedmlp </extending>` says what they take.
