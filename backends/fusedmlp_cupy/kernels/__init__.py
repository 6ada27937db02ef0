"""The CUDA sources, how they are assembled to programs, and how each kernel is launched."""
