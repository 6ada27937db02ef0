"""The benchmark harness: every subject in a worker process of its own, parity first, then rounds.

``measure.py`` is a run of ``fusedmlp bench``, ``scheduler.py`` does the rounds, ``worker.py`` is
the process, ``adapter.py`` what runs in it, ``document.py`` the JSON, ``results.py`` what follows
from it. The checkout's ``benchmarks`` uses the same harness with adapters to other libraries.
Nothing here decides how fast anything should be, and importing this package imports no measured
library.
"""
