"""The reference arithmetic, which strict mode computes to the last bit."""
