"""Adapters to the libraries that are measured beside fusedmlp, one file each.

Only the worker process that runs a library imports its file. Each adapter uses its library in its
best ordinary form; parity with the NumPy backend is checked before anything is timed.
"""

TF32_SLACK = 32.0
"""Factor of the parity bounds for products in TF32, whose operands have 13 bits fewer than float32
ones. Sums stay in float32, and errors of their terms are independent, so that far less is lost."""
