"""The shim's own tests: it must catch what it is trusted to catch."""

from __future__ import annotations

import cupy_shim
import numpy as np
import pytest
from cupy_standin import unwrap

SIGNATURE = """
typedef REAL real;
#define KERNEL extern "C" __global__ void
KERNEL planted(const real* x, real* y, int n)
"""

PLANTED = {
    "reads past the end": ("x[i] + x[i + 1]", "outside the arrays"),
    "diverges at a barrier": ("(i ? x[i] : (__syncthreads(), x[i]))", "wait at __syncthreads"),
    "races": ("x[i] + y[(i + 1) % n]", "other results"),
    "reads shared memory unwritten": ("({ __shared__ real s; s; })", ""),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_the_shim_catches(device, tmp_path, fault):
    """Every fault that the shim is said to catch, planted into a kernel of four threads."""
    expression, message = PLANTED[fault]
    body = f"{{ const int i = threadIdx.x; if (i < n) y[i] = {expression}; }}\n"
    planted = cupy_shim.Kernels(SIGNATURE + body, "float", tmp_path)
    x, y = device.upload(np.ones(4, np.float32)), device.upload(np.ones(4, np.float32))
    args = unwrap(x), unwrap(y), np.int32(4)
    if message:
        with pytest.raises(AssertionError, match=message):
            planted("planted", (1,), (4,), args)
    else:
        planted("planted", (1,), (4,), args)
        assert np.isnan(y.get()).all()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((np.float32(1),), "takes 3 arguments"),
        ((np.ones(1), np.ones(1), np.int32(1)), "is float64, the kernel reads float32"),
        ((np.ones(1, "f4"), np.ones(1, "f4"), np.int64(1)), "is int64, the kernel reads int32"),
        ((np.ones(1, "f4"), np.ones(1, "f4"), 1), "no width is known"),
        ((np.ones(1, "f4"), np.int32(0), np.int32(1)), "not a pointer"),
        ((np.ones((2, 2), "f4").T[:1], np.ones(1, "f4"), np.int32(1)), "not contiguous"),
    ],
)
def test_the_shim_checks_arguments(tmp_path, args, message):
    planted = cupy_shim.Kernels(SIGNATURE + "{ }\n", "float", tmp_path)
    with pytest.raises(AssertionError, match=message):
        planted("planted", (1,), (1,), args)
