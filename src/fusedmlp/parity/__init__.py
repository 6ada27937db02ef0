"""Parity of backends: the comparisons of ``fusedmlp parity``, which the tests use too.

>>> from fusedmlp.datasets import load_dataset
>>> from fusedmlp.parity import certify
>>> from fusedmlp.registry import Selection
>>> selections = [Selection(name, None, "argument", "") for name in ("numpy", "numba")]
>>> certificate = certify(selections, load_dataset("digits"))  # doctest: +SKIP
>>> certificate.breaches()  # doctest: +SKIP
[]
"""

from fusedmlp.parity.certificate import Certificate, certify
from fusedmlp.parity.comparison import Comparison

__all__ = ["Certificate", "Comparison", "certify"]
