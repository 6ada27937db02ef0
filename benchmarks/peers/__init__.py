"""fusedmlp beside the libraries that one would use instead, measured in the same rounds.

``nox -s benchmarks -- peers``, or ``python -m peers`` from this folder's parent. Not part of the
package and not a test of it: the peers are installed for this alone.
"""
