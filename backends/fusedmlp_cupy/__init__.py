"""The CuPy backend: the engine for NVIDIA GPUs. Importing this package does not import CuPy."""

from fusedmlp_cupy.backend import CupyBackend as CupyBackend
