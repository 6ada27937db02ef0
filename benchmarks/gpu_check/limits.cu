// Kernels that do next to nothing, to measure what stands around them. They are no part of the engine.

extern "C" __global__ void one(float* x) { x[threadIdx.x] += 1.0f; }

// What every barrier below is checked by: between two barriers a block notes how far it is, and then
// looks at its neighbour, which must be as far at least.
__device__ void note(volatile unsigned* reached, unsigned i)
{
    if (threadIdx.x == 0)
        reached[blockIdx.x] = i;
}

__device__ void look(const volatile unsigned* reached, unsigned i, unsigned* errors)
{
    if (threadIdx.x == 0 && reached[(blockIdx.x + 1) % gridDim.x] < i)
        atomicAdd(errors, 1u);
}

// A barrier of the whole grid by hand: blocks count themselves in one word and wait for the others.
// All must be resident at once, so it is launched as a cooperative kernel. `counter` begins at 0.
extern "C" __global__ void own_barrier(
    unsigned n, unsigned* counter, unsigned* reached, unsigned* errors)
{
    for (unsigned i = 1; i <= n; ++i) {
        note(reached, i);
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            atomicAdd(counter, 1u);
            while (*(volatile unsigned*)counter < i * gridDim.x)
                ;
            __threadfence();
        }
        __syncthreads();
        look(reached, i, errors);
    }
}
