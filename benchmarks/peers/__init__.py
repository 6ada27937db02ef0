"""fusedmlp beside the libraries that one would use instead, measured in the same rounds.

``nox -s benchmarks -- peers``, or ``python -m peers`` from this folder's parent. The
measuring itself is ``fusedmlp.bench``; here is what the project holds itself to: its workloads,
its targets and the page of results. The peers are installed for this alone.
"""
