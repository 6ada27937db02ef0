"""The NumPy backend: the readable specification that every other engine is compared with."""

from fusedmlp_numpy.backend import NumpyBackend as NumpyBackend
