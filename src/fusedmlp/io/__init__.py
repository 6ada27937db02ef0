"""Model files, atomic writes, ONNX, and conversion from and to other libraries."""
