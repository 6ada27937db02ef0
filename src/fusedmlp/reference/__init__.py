"""The reference engine: the formulas of a network on host arrays, over a table of operations.

The NumPy backend and strict mode on the CPU use it. It is the specification with which all other
engines are compared. It is not optimised: nothing here is fused, compiled or threaded.
"""
