"""The Numba backend: the whole epoch in one compiled call on the CPU. Imports no Numba by itself."""

from fusedmlp_numba.backend import NumbaBackend as NumbaBackend
