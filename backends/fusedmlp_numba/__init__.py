"""The Numba backend: the whole epoch in one compiled call on the CPU. Does not import Numba."""

from fusedmlp_numba.backend import NumbaBackend as NumbaBackend
