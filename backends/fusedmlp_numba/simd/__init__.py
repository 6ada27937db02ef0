"""LLVM building blocks of kernels: vector values, memory operations, elementary functions."""
