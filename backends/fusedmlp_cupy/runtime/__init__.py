"""The device below the engine: CuPy behind typed calls, memory, streams, cuBLAS, CUDA graphs."""
