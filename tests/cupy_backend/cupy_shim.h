// A GPU in the smallest sense: what kernels.cu needs of CUDA, on one CPU thread.
//
// Blocks run one after another, the threads of a block as fibers that switch only at barriers, in
// an order that the caller picks: forwards or backwards. A kernel without races gives the same
// bits in both. Not modelled: warps, memory ordering, occupancy, rounding modes, speed.
//
// Caught here: a barrier that some threads of a block miss, shared memory read before it is
// written (it starts as NaN in every block), grids and blocks beyond the hardware's limits, and
// any access to a page that the caller has forbidden (cupy_standin.py ends its arrays at such).

#include <cmath>
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ucontext.h>
#include <vector>

struct ShimDim { unsigned x, y, z; };
static ShimDim threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__ static inline
#define __shared__ static __attribute__((section("shim_shared")))
__attribute__((used)) __shared__ char shim_shared_exists; // or the linker knows no such section
extern "C" char __start_shim_shared[] __attribute__((visibility("hidden")));
extern "C" char __stop_shim_shared[] __attribute__((visibility("hidden")));

namespace shim {

enum { STACK_BYTES = 64 * 1024, MAX_THREADS = 1024 };

struct Fiber { jmp_buf at; bool created, finished; };

static std::vector<Fiber> fibers(MAX_THREADS);
static std::vector<char> stacks((size_t)STACK_BYTES * MAX_THREADS);
static jmp_buf scheduler;
static ucontext_t scheduler_context, start_context;
static int current;
static void (*body)(void*);
static void* body_argument;

static void barrier()
{
    if (!_setjmp(fibers[current].at))
        _longjmp(scheduler, 1);
}

// A fiber's life: one thread after another, so that starting a thread needs no system call.
static void run_fiber()
{
    for (;;) {
        body(body_argument);
        fibers[current].finished = true;
        barrier();
    }
}

// Runs fiber `index` until its next barrier or its end.
static void resume(int index)
{
    current = index;
    threadIdx = {index % blockDim.x, index / blockDim.x % blockDim.y,
                 index / (blockDim.x * blockDim.y)};
    if (_setjmp(scheduler))
        return;
    Fiber& fiber = fibers[index];
    if (fiber.created)
        _longjmp(fiber.at, 1);
    fiber.created = true;
    getcontext(&start_context);
    start_context.uc_stack.ss_sp = &stacks[(size_t)STACK_BYTES * index];
    start_context.uc_stack.ss_size = STACK_BYTES;
    start_context.uc_link = nullptr;
    makecontext(&start_context, run_fiber, 0);
    swapcontext(&scheduler_context, &start_context);
}

// Runs one block; false where some threads ended while others wait at a barrier.
static bool run_block(int n_threads, bool backwards)
{
    memset(__start_shim_shared, 0xFF, __stop_shim_shared - __start_shim_shared);
    for (int i = 0; i < n_threads; ++i)
        fibers[i].finished = false;
    for (;;) {
        int finished = 0;
        for (int i = 0; i < n_threads; ++i) {
            const int index = backwards ? n_threads - 1 - i : i;
            resume(index);
            finished += fibers[index].finished;
        }
        if (finished == n_threads)
            return true;
        if (finished)
            return false;
    }
}

static const char* run_blocks(int n_threads, bool backwards)
{
    const unsigned long long n_blocks = (unsigned long long)gridDim.x * gridDim.y * gridDim.z;
    for (unsigned long long i = 0; i < n_blocks; ++i) {
        const unsigned long long b = backwards ? n_blocks - 1 - i : i;
        blockIdx = {(unsigned)(b % gridDim.x), (unsigned)(b / gridDim.x % gridDim.y),
                    (unsigned)(b / ((unsigned long long)gridDim.x * gridDim.y))};
        if (!run_block(n_threads, backwards))
            return "some threads of a block ended while others wait at __syncthreads()";
    }
    return nullptr;
}

static sigjmp_buf fault;

static void on_fault(int) { siglongjmp(fault, 1); }

static const char* after_fault()
{
    for (Fiber& fiber : fibers) // those that were under way can never be resumed
        fiber.created = false;
    return "a thread read or wrote outside the arrays";
}

static const char* launch(
    const unsigned* grid, const unsigned* block, bool backwards, void (*kernel)(void*), void* args)
{
    blockDim = {block[0], block[1], block[2]};
    gridDim = {grid[0], grid[1], grid[2]};
    const unsigned long long n_threads = (unsigned long long)block[0] * block[1] * block[2];
    if (n_threads < 1 || n_threads > MAX_THREADS || block[2] > 64)
        return "the block has no threads or more than 1024";
    if (!grid[0] || !grid[1] || !grid[2] || grid[0] > 0x7FFFFFFFu || grid[1] > 65535u ||
        grid[2] > 65535u)
        return "the grid is empty or beyond the hardware's limits";
    body = kernel;
    body_argument = args;

    struct sigaction catching = {}, before_segv, before_bus;
    catching.sa_handler = on_fault;
    catching.sa_flags = SA_NODEFER;
    sigaction(SIGSEGV, &catching, &before_segv);
    sigaction(SIGBUS, &catching, &before_bus);
    const char* failure = sigsetjmp(fault, 1) ? after_fault() : run_blocks((int)n_threads, backwards);
    sigaction(SIGSEGV, &before_segv, nullptr);
    sigaction(SIGBUS, &before_bus, nullptr);
    return failure;
}

} // namespace shim

#define __syncthreads() shim::barrier()
