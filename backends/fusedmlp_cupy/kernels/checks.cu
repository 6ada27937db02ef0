// Checks of arrays that are on the device already: the rules of fusedmlp/validation.py.
//
// A program of its own, compiled for the first such array, and no part of training. Like kernels.cu it
// includes nothing, strides over the grid and uses no atomics.

typedef long long int64;

#define KERNEL extern "C" __global__ void

enum { SUM_THREADS = 256 }; // arguments.py holds the same number

// out (n_parts,): the smallest i of part p with x[i] NaN or infinite, or n. x is (n,); part p is
// every n_parts-th run of SUM_THREADS numbers.
template <typename Stored>
__device__ void first_non_finite(const Stored* x, int64 n, int n_parts, int64* out)
{
    __shared__ int64 lanes[SUM_THREADS];
    const int lane = threadIdx.x;
    for (int part = blockIdx.x; part < n_parts; part += gridDim.x) {
        int64 first = n;
        for (int64 i = (int64)part * SUM_THREADS + lane; i < n; i += (int64)n_parts * SUM_THREADS)
            if (x[i] - x[i] != 0) { // NaN for both
                first = i;
                break;
            }
        lanes[lane] = first;
        for (int half = SUM_THREADS / 2; half > 0; half /= 2) {
            __syncthreads();
            if (lane < half && lanes[lane + half] < lanes[lane])
                lanes[lane] = lanes[lane + half];
        }
        if (lane == 0)
            out[part] = lanes[0];
        __syncthreads(); // before the lanes are overwritten
    }
}

KERNEL first_non_finite_float32(const float* x, int64 n, int n_parts, int64* out)
{
    first_non_finite(x, n, n_parts, out);
}

KERNEL first_non_finite_float64(const double* x, int64 n, int n_parts, int64* out)
{
    first_non_finite(x, n, n_parts, out);
}
