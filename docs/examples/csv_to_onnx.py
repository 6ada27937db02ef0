"""
From a CSV file to ONNX
=======================

Placeholder of the skeleton: the example replaces it.
"""

import fusedmlp

print(fusedmlp.__name__)
