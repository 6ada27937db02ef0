"""The network's formulas as compiled kernels, and the steps that are built from them."""
