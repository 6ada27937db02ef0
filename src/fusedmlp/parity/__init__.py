"""Parity of backends: the comparisons that tests and ``fusedmlp parity`` share.

>>> from fusedmlp.datasets import load_dataset
>>> from fusedmlp.parity import certify
>>> from fusedmlp.registry import Selection, select
>>> certificate = certify(selections("numpy,numba"), load_dataset("digits"))  # doctest: +SKIP
>>> certificate.breaches()  # doctest: +SKIP
[]
"""

from fusedmlp.parity.certificate import Certificate, certify
from fusedmlp.parity.comparison import Comparison

__all__ = ["Certificate", "Comparison", "certify"]
