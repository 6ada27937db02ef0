"""The NumPy backend: the specification with which all other engines are compared."""

from fusedmlp_numpy.backend import NumpyBackend as NumpyBackend
