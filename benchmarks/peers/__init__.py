"""fusedmlp beside other libraries, measured in the same rounds: ``nox -s benchmarks -- peers``.

The harness is ``fusedmlp.bench``. Here are the project's workloads, its targets and the page of
results; adapters to the libraries are in ``benchmarks/adapters``.
"""
