// Kernels that do next to nothing, to measure launches and barriers. They are not part of the engine.

extern "C" __global__ void one(float* x) { x[threadIdx.x] += 1.0f; }

// A barrier of the whole grid: blocks count themselves in one word and wait for the others. All must
// be resident at once, so it is launched as a cooperative kernel. `counter` and `reached` begin at 0.
// Between two barriers, each block notes how far it is, and then checks that its neighbour is as far.
extern "C" __global__ void grid_barrier(
    unsigned n, unsigned* counter, unsigned* reached, unsigned* errors)
{
    for (unsigned i = 1; i <= n; ++i) {
        if (threadIdx.x == 0)
            *(volatile unsigned*)(reached + blockIdx.x) = i;
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            atomicAdd(counter, 1u);
            while (*(volatile unsigned*)counter < i * gridDim.x)
                ;
            __threadfence();
            if (*(volatile unsigned*)(reached + (blockIdx.x + 1) % gridDim.x) < i)
                atomicAdd(errors, 1u);
        }
        __syncthreads();
    }
}
