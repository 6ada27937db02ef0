// Barriers of clusters of blocks, which compute capability 9.0 has. Follows limits.cu.

extern "C" __global__ void __cluster_dims__(8, 1, 1) cluster_barrier(
    unsigned n, unsigned* counter, unsigned* reached, unsigned* errors)
{
    const unsigned first = blockIdx.x - blockIdx.x % 8, next = first + (blockIdx.x + 1) % 8;
    for (unsigned i = 1; i <= n; ++i) {
        note(reached, i);
        __threadfence();
        asm volatile("barrier.cluster.arrive.aligned;" ::: "memory");
        asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
        if (threadIdx.x == 0 && ((volatile unsigned*)reached)[next] < i)
            atomicAdd(errors, 1u);
    }
}
