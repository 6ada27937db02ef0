"""The reference engine: a network's formulas on host arrays, over a table of operations.

The NumPy backend runs it, and so does strict mode on the CPU. It is the specification that every
other engine is compared with. It is not fast: nothing here is fused, compiled or threaded.
"""
