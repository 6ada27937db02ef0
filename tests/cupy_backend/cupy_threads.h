// The part of CUDA that the programs need, with every CUDA thread a thread of the process.
//
// This is the shim for sanitizers, a program of its own: it replays launches that cupy_sanitizers.py
// has recorded and writes what the kernels wrote. ThreadSanitizer then sees two accesses to one
// place that nothing puts in order, and AddressSanitizer an access outside an array, since every
// array, and every shared one, ends where its recorded bytes end. cupy_shim.h runs the same kernels
// much faster and deterministically, and catches what needs no sanitizer.
//
// All blocks of a launch run at once, so that races between blocks are seen as well. Nothing but barriers
// may order threads here: no lock, no atomic, no pool. So under ThreadSanitizer, which knows no fences,
// the grid's barrier is one of pthreads; under the others it is the kernel's own.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <pthread.h>
#include <string>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(from, bytes)
#define ASAN_UNPOISON_MEMORY_REGION(from, bytes)
#endif

struct ShimDim { unsigned x, y, z; };
static thread_local ShimDim threadIdx, blockIdx;
static ShimDim blockDim, gridDim;

#define __global__
#define __device__ static inline

namespace shim {

enum { SHARED_BYTES = 256 * 1024, GAP = 64, MOST_BLOCKS = 2 };

static int left_out = -1; // number of the barrier that is ignored: a fault to be found
static int planted = 0;   // number of the fault that a planted source is to show

// Two barriers that take turns: with one alone, a thread that is fast enough to be at the next
// barrier would seem to be in order with one that is slow to leave the last.
struct Block { pthread_barrier_t barriers[2]; char *shared, *dynamic; };
static thread_local Block* block;
static thread_local unsigned passed;

static void barrier(int number)
{
    if (number != left_out)
        pthread_barrier_wait(&block->barriers[passed++ % 2]);
}

// The same for all threads of a cooperative launch.
static pthread_barrier_t grid_barriers[2];
static thread_local unsigned passed_by_grid;

static void grid_barrier(int number)
{
    if (number != left_out)
        pthread_barrier_wait(&grid_barriers[passed_by_grid++ % 2]);
}

// Where in a block's shared memory each array lies: settled before main, one place for each
// instantiation of the function that it stands in.
static long taken = GAP;

static long take(long bytes)
{
    const long offset = taken;
    taken += (bytes + GAP - 1) / GAP * GAP + GAP;
    return offset;
}

template <typename Key, typename T> struct Place { static const long offset; };
template <typename Key, typename T> const long Place<Key, T>::offset = take(sizeof(T));

template <typename Key, typename T> T& shared()
{
    char* at = block->shared + Place<Key, T>::offset;
    ASAN_UNPOISON_MEMORY_REGION(at, sizeof(T));
    return *reinterpret_cast<T*>(at);
}

struct Thread { Block* block; ShimDim thread, index; void (*kernel)(void*); void* args; };

static void* run_thread(void* argument)
{
    const Thread& mine = *static_cast<Thread*>(argument);
    block = mine.block;
    threadIdx = mine.thread;
    blockIdx = mine.index;
    mine.kernel(mine.args);
    return nullptr;
}

static void require(bool holds, const char* what)
{
    if (!holds) {
        fprintf(stderr, "%s\n", what);
        exit(2);
    }
}

// Runs a launch with at most MOST_BLOCKS blocks in each direction: the loops stride over the rest. A
// cooperative one has all of them.
static void launch(
    const unsigned* grid, const unsigned* size, const size_t* options, void (*kernel)(void*), void* args)
{
    const bool cooperative = options[0];
    const size_t dynamic_bytes = options[1];
    blockDim = {size[0], size[1], size[2]};
    const unsigned most = cooperative ? grid[0] : MOST_BLOCKS;
    gridDim = {grid[0] < most ? grid[0] : most, grid[1] < most ? grid[1] : most, 1};
    require(grid[2] == 1 && taken <= SHARED_BYTES, "more than this shim was made for");
    const unsigned n_blocks = gridDim.x * gridDim.y, n_threads = size[0] * size[1] * size[2];
    if (cooperative)
        for (auto& each : grid_barriers)
            require(!pthread_barrier_init(&each, nullptr, n_blocks * n_threads), "no barrier");
    std::vector<Block> blocks(n_blocks);
    std::vector<Thread> threads;
    for (unsigned b = 0; b < n_blocks; ++b) {
        for (auto& each : blocks[b].barriers)
            require(!pthread_barrier_init(&each, nullptr, n_threads), "no barrier");
        blocks[b].shared = static_cast<char*>(aligned_alloc(GAP, SHARED_BYTES));
        memset(blocks[b].shared, 0xFF, SHARED_BYTES); // NaN
        ASAN_POISON_MEMORY_REGION(blocks[b].shared, SHARED_BYTES);
        blocks[b].dynamic = static_cast<char*>(malloc(dynamic_bytes));
        memset(blocks[b].dynamic, 0xFF, dynamic_bytes);
        for (unsigned t = 0; t < n_threads; ++t)
            threads.push_back({&blocks[b],
                               {t % size[0], t / size[0] % size[1], t / (size[0] * size[1])},
                               {b % gridDim.x, b / gridDim.x, 0}, kernel, args});
    }
    pthread_attr_t small_stacks;
    pthread_attr_init(&small_stacks);
    pthread_attr_setstacksize(&small_stacks, 256 * 1024);
    std::vector<pthread_t> running(threads.size());
    for (size_t i = 0; i < threads.size(); ++i)
        require(!pthread_create(&running[i], &small_stacks, run_thread, &threads[i]), "no thread");
    for (pthread_t& each : running)
        pthread_join(each, nullptr);
    for (Block& each : blocks) {
        for (auto& barrier : each.barriers)
            pthread_barrier_destroy(&barrier);
        ASAN_UNPOISON_MEMORY_REGION(each.shared, SHARED_BYTES);
        free(each.shared);
        free(each.dynamic);
    }
    if (cooperative)
        for (auto& each : grid_barriers)
            pthread_barrier_destroy(&each);
}

// The recorded launches: see cupy_sanitizers.py.
struct Reader {
    const char* at;
    const char* end;

    const char* bytes(size_t n)
    {
        require(n <= size_t(end - at), "the recording is cut off");
        at += n;
        return at - n;
    }
    unsigned long long number()
    {
        unsigned long long n;
        memcpy(&n, bytes(sizeof n), sizeof n);
        return n;
    }
    std::string text() { const size_t n = number(); return std::string(bytes(n), n); }
};

// One argument: a scalar's bytes, or an array of its own allocation, exactly as long as recorded.
struct Argument {
    bool array = false, written = false;
    std::vector<char> scalar;
    char* memory = nullptr;
    size_t size = 0;

    void read(Reader& reader)
    {
        const unsigned long long kind = reader.number(); // 0 scalar, 1 null, 2 const, 3 written
        size = reader.number();
        const char* from = reader.bytes(size);
        array = kind >= 2, written = kind == 3;
        if (array) {
            memory = static_cast<char*>(malloc(size));
            memcpy(memory, from, size);
        } else {
            scalar.assign(from, from + size);
        }
    }
    template <typename T> void into(T& field) const
    {
        require(scalar.size() == sizeof field, "an argument has another width");
        memcpy(&field, scalar.data(), sizeof field);
    }
    template <typename T> void into(T*& field) const { field = reinterpret_cast<T*>(memory); }
};

typedef void (*Replay)(
    const unsigned* grid, const unsigned* block, const size_t* options, const std::vector<Argument>&);
struct Kernel { const char* name; Replay replay; };

static int replay_all(
    const Kernel* kernels, size_t n_kernels, const char* recording, const char* results)
{
    std::ifstream file(recording, std::ios::binary);
    const std::string content((std::istreambuf_iterator<char>(file)), {});
    std::ofstream out(results, std::ios::binary);
    Reader reader = {content.data(), content.data() + content.size()};
    while (reader.at < reader.end) {
        const std::string name = reader.text();
        unsigned shape[6];
        for (unsigned& each : shape)
            each = (unsigned)reader.number();
        size_t options[2]; // whether it is cooperative, its dynamic shared memory
        for (size_t& each : options)
            each = reader.number();
        std::vector<Argument> arguments(reader.number());
        for (Argument& each : arguments)
            each.read(reader);
        const Kernel* found = kernels;
        while (found < kernels + n_kernels && name != found->name)
            ++found;
        require(found < kernels + n_kernels, "the recording names an unknown kernel");
        found->replay(shape, shape + 3, options, arguments);
        for (Argument& each : arguments) {
            if (each.written)
                out.write(each.memory, (std::streamsize)each.size);
            free(each.memory);
        }
    }
    return out.flush() ? 0 : 2;
}

} // namespace shim

#define __syncthreads() shim::barrier(__COUNTER__)
#define DYNAMIC_SHARED(name) char* const name = shim::block->dynamic
#ifdef __SANITIZE_THREAD__
#define GRID_BARRIER(word) shim::grid_barrier(__COUNTER__)
#else
#define __threadfence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
static unsigned atomicAdd(unsigned* to, unsigned n) { return __atomic_fetch_add(to, n, __ATOMIC_SEQ_CST); }
#endif
