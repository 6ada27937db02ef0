"""Measuring: backends and other libraries, in turn, each in a process of its own.

``driver.py`` runs the rounds, ``worker.py`` is the process of one contestant, ``document.py`` what
a run leaves behind, ``figures.py`` what follows from it. ``fusedmlp bench`` is made of this, and
so are the project's own measurements in the checkout's ``benchmarks``. Nothing here decides how
fast anything should be, and importing this package loads no library that is measured.
"""
