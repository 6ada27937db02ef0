"""Dense matrix products in panels: the register-tiled micro-kernel, packing, and blocking."""
