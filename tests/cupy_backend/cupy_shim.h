// The part of CUDA that the programs need, on one CPU thread.
//
// Blocks run one after another, the threads of a block as fibers that switch only at barriers, in
// an order that the caller picks: forwards or backwards. A kernel without races gives the same
// bits in both. Not modelled: warps, memory ordering, occupancy, rounding modes, speed.
//
// Blocks of a cooperative launch exist at once: each runs up to the grid's next barrier, then the next
// block does. Their shared memory is that of the launch, which ends at a forbidden page.
//
// Caught here: a barrier that some threads of a block or some blocks miss, shared memory read before
// it is written (it starts as NaN in every block), grids and blocks beyond the hardware's limits, any
// access to a page that the caller has forbidden (cupy_standin.py ends its arrays at such), and what the
// compiler traps (cupy_shim.py says what).
//
// Faults for tests: the barrier number `left_out` is ignored, and `planted` is the number of the fault
// that a planted source shows.

#include <cmath>
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

struct ShimDim { unsigned x, y, z; };
static ShimDim threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__ static inline
#define __shared__ static __attribute__((section("shim_shared")))
__attribute__((used)) __shared__ char shim_shared_exists; // or the linker knows no such section
extern "C" char __start_shim_shared[] __attribute__((visibility("hidden")));
extern "C" char __stop_shim_shared[] __attribute__((visibility("hidden")));

extern "C" {
int left_out = -1, planted = 0;
extern const int n_barriers;
}

namespace shim {

enum { STACK_BYTES = 64 * 1024, MAX_THREADS = 1024, MAX_FIBERS = 8 * MAX_THREADS };
enum Waits { NOT, FOR_BLOCK, FOR_GRID };

struct Fiber { jmp_buf at; bool created; Waits waits; };

static std::vector<Fiber> fibers(MAX_FIBERS);
static char* const stacks = (char*)mmap(
    nullptr, (size_t)STACK_BYTES * MAX_FIBERS, PROT_READ | PROT_WRITE,
    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0); // used as far as threads are started
static jmp_buf scheduler;
static ucontext_t scheduler_context, start_context;
static int current;
static void (*body)(void*);
static void* body_argument;

static char* dynamic_shared; // of the block that runs

static void barrier(Waits waits, int number = -2)
{
    if (number == left_out)
        return;
    fibers[current].waits = waits;
    if (!_setjmp(fibers[current].at))
        _longjmp(scheduler, 1);
}

// A fiber's life: one thread after another, so that starting a thread needs no system call.
static void run_fiber()
{
    for (;;) {
        body(body_argument);
        barrier(NOT);
    }
}

// Runs thread `index` of the block whose fibers begin at `first` until its next barrier or its end.
static void resume(int first, int index)
{
    current = first + index;
    threadIdx = {index % blockDim.x, index / blockDim.x % blockDim.y,
                 index / (blockDim.x * blockDim.y)};
    if (_setjmp(scheduler))
        return;
    Fiber& fiber = fibers[current];
    if (fiber.created)
        _longjmp(fiber.at, 1);
    fiber.created = true;
    getcontext(&start_context);
    start_context.uc_stack.ss_sp = stacks + (size_t)STACK_BYTES * current;
    start_context.uc_stack.ss_size = STACK_BYTES;
    start_context.uc_link = nullptr;
    makecontext(&start_context, run_fiber, 0);
    swapcontext(&scheduler_context, &start_context);
}

static const char* const DIVERGED =
    "some threads of a block ended or wait for other blocks while others wait at __syncthreads()";

// Runs a block to its end (NOT) or to the next barrier that it shares with other blocks.
static const char* run_block(int first, int n_threads, bool backwards, Waits* stopped)
{
    for (;;) {
        int at[3] = {};
        for (int i = 0; i < n_threads; ++i) {
            const int index = backwards ? n_threads - 1 - i : i;
            resume(first, index);
            ++at[fibers[first + index].waits];
        }
        for (Waits waits : {NOT, FOR_GRID})
            if (at[waits] == n_threads) {
                *stopped = waits;
                return nullptr;
            }
        if (at[FOR_BLOCK] < n_threads)
            return DIVERGED;
    }
}

static void enter_block(unsigned long long b)
{
    blockIdx = {(unsigned)(b % gridDim.x), (unsigned)(b / gridDim.x % gridDim.y),
                (unsigned)(b / ((unsigned long long)gridDim.x * gridDim.y))};
}

static const char* run_blocks(int n_threads, bool backwards)
{
    const unsigned long long n_blocks = (unsigned long long)gridDim.x * gridDim.y * gridDim.z;
    for (unsigned long long i = 0; i < n_blocks; ++i) {
        memset(__start_shim_shared, 0xFF, __stop_shim_shared - __start_shim_shared);
        enter_block(backwards ? n_blocks - 1 - i : i);
        Waits stopped;
        if (const char* failure = run_block(0, n_threads, backwards, &stopped))
            return failure;
        if (stopped != NOT)
            return "a launch that is not cooperative waits for other blocks";
    }
    return nullptr;
}

// Shared memory of a cooperative launch's blocks: each ends where a forbidden page begins.
struct SharedMemory {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), each, n_blocks, bytes;
    char* memory;

    SharedMemory(size_t n_blocks, size_t bytes) : n_blocks(n_blocks), bytes(bytes)
    {
        each = (bytes + page - 1) / page * page + page;
        memory = (char*)mmap(
            nullptr, each * n_blocks, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(memory, 0xFF, each * n_blocks);
        for (size_t b = 0; b < n_blocks; ++b)
            mprotect(memory + (b + 1) * each - page, page, PROT_NONE);
    }
    ~SharedMemory() { munmap(memory, each * n_blocks); }
    char* of(size_t block) { return memory + (block + 1) * each - page - bytes; }
};

static const char* run_grid(int n_threads, bool backwards, size_t shared_bytes)
{
    const int n_blocks = (int)gridDim.x;
    if (gridDim.y != 1 || gridDim.z != 1 || n_blocks * n_threads > MAX_FIBERS)
        return "more blocks than can be resident at once";
    if (__stop_shim_shared - __start_shim_shared > (long)sizeof shim_shared_exists)
        return "a program of cooperative kernels has __shared__ arrays: all blocks would share them";
    SharedMemory shared(n_blocks, shared_bytes);
    for (;;) {
        int n_ended = 0;
        for (int i = 0; i < n_blocks; ++i) {
            const int b = backwards ? n_blocks - 1 - i : i;
            blockIdx = {(unsigned)b, 0, 0};
            dynamic_shared = shared.of(b);
            Waits stopped;
            if (const char* failure = run_block(b * n_threads, n_threads, backwards, &stopped))
                return failure;
            n_ended += stopped == NOT;
        }
        if (n_ended == n_blocks)
            return nullptr;
        if (n_ended)
            return "some blocks ended while others wait for the grid";
    }
}

static sigjmp_buf fault;

static void on_fault(int signal) { siglongjmp(fault, signal); }

static const char* run(bool cooperative, int n_threads, bool backwards, size_t shared_bytes)
{
    switch (sigsetjmp(fault, 1)) {
    case 0:
        return cooperative ? run_grid(n_threads, backwards, shared_bytes)
                           : run_blocks(n_threads, backwards);
    case SIGILL: return "a thread used an index, a shift or a number beyond its range";
    default: return "a thread read or wrote outside the arrays";
    }
}

static const char* launch(
    const unsigned* grid, const unsigned* block, bool backwards, bool cooperative,
    size_t shared_bytes, void (*kernel)(void*), void* args)
{
    blockDim = {block[0], block[1], block[2]};
    gridDim = {grid[0], grid[1], grid[2]};
    const unsigned long long n_threads = (unsigned long long)block[0] * block[1] * block[2];
    if (n_threads < 1 || n_threads > MAX_THREADS || block[2] > 64)
        return "the block has no threads or more than 1024";
    if (!grid[0] || !grid[1] || !grid[2] || grid[0] > 0x7FFFFFFFu || grid[1] > 65535u ||
        grid[2] > 65535u)
        return "the grid is empty or beyond the hardware's limits";
    if (shared_bytes && !cooperative)
        return "only cooperative launches have dynamic shared memory here";
    body = kernel;
    body_argument = args;

    const int caught[] = {SIGSEGV, SIGBUS, SIGILL};
    struct sigaction catching = {}, before[3];
    catching.sa_handler = on_fault;
    catching.sa_flags = SA_NODEFER;
    for (int i = 0; i < 3; ++i)
        sigaction(caught[i], &catching, &before[i]);
    const char* failure = run(cooperative, (int)n_threads, backwards, shared_bytes);
    if (failure)
        for (Fiber& fiber : fibers) // those that were under way can never be resumed
            fiber.created = false;
    for (int i = 0; i < 3; ++i)
        sigaction(caught[i], &before[i], nullptr);
    return failure;
}

} // namespace shim

#define __syncthreads() shim::barrier(shim::FOR_BLOCK, __COUNTER__)
#define GRID_BARRIER(word) shim::barrier(shim::FOR_GRID, __COUNTER__)
#define DYNAMIC_SHARED(name) char* const name = shim::dynamic_shared
