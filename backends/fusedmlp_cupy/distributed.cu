// What clusters of blocks have on compute capability 9.0: their barrier, and each other's shared memory.
// All PTX of the package is here, because CUDA's headers need not be installed.
//
// No kernels, and no program of its own: sources.py puts it before cluster.cu, compiled with -DCLUSTER=
// and how many blocks a cluster has. The tests' shims have twins of what is here.
//
// Both halves of the barrier are for memory as well: what any thread of the cluster has written before,
// wherever, all see behind it (arrive releases, wait acquires). of_rank() is where another block of the
// cluster has the same place of its shared memory, which must not be used before that block has
// started, nor after it has ended.

#ifndef CLUSTER
#error "compile with -DCLUSTER= and the number of blocks in a cluster"
#endif

#ifndef CLUSTER_BARRIER
#define OF_CLUSTERS __cluster_dims__(CLUSTER, 1, 1)

__device__ void cluster_barrier()
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n\t"
                 "barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
#define CLUSTER_BARRIER() cluster_barrier()

__device__ int cluster_rank()
{
    uint32 rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return (int)rank;
}

__device__ int cluster_size()
{
    uint32 size;
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    return (int)size;
}

template <typename T>
__device__ T* of_rank(T* mine, int rank)
{
    T* other;
    asm("mapa.u64 %0, %1, %2;" : "=l"(other) : "l"(mine), "r"(rank));
    return other;
}
#endif
