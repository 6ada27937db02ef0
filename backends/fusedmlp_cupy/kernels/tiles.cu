// The persistent kernel's first layer: W1 in shared memory, its product with the inputs, its update.
//
// No kernels and no program of its own: source.py puts this file between formulas.cu and
// persistent.cu. The network has one hidden layer: D inputs, H units, K outputs. W1 (D, H) is cut into
// tiles of `depth` by TILE_WIDTH, which stay in shared memory for a whole launch.
//
// The rules of kernels.cu hold. The shapes alone fix the order of every sum, for any grid and any block
// of whole warps: terms of a tile ascending, tiles of a column ascending. Over the units of a row (one
// tile's columns at a time) and over the rows of a batch (for W2), LANES partial sums of every LANES-th
// term are added in order.

enum { TILE_WIDTH = 32, TILE_ROWS = 64, LANES = 8, WARP = 32, PATCH_DOWN = 4, PATCH_ACROSS = 2 };
enum { PATCHES_ACROSS = TILE_WIDTH / PATCH_ACROSS };

// ---------------------------------------------------------------------------------- grid barrier
// All threads of the grid wait for each other; writes before the barrier are visible after it. All
// blocks must be resident, which a cooperative launch guarantees or refuses.
//
// One word counts arrivals and is never reset. The gridDim.x numbers added at one barrier sum to 2^31,
// so the highest bit (the generation) flips exactly when all blocks have arrived, and the other bits
// return to 0. The word must be 0 before the first launch that uses it. The fences order a block's
// writes before its arrival, and its reads (first-level cache included) after the flip.
//
// The tests replace this barrier by their own, which they can leave out one by one.
#ifndef GRID_BARRIER
__device__ void grid_barrier(uint32* word)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        const uint32 others = gridDim.x - 1, top = 1u << 31;
        __threadfence();
        const uint32 before = atomicAdd(word, blockIdx.x == 0 ? top - others : 1u);
        while (((*(volatile uint32*)word ^ before) & top) == 0)
            ;
        __threadfence();
    }
    __syncthreads();
}
#define GRID_BARRIER(word) grid_barrier(word)
#endif

#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) char name[]
#endif

// ---------------------------------------------------------------------------------------- shapes

struct Sizes { int B, D, H, K, depth; };

__device__ int parts_of(int n, int each) { return (n + each - 1) / each; }

__device__ int at_most(int n, int most) { return n < most ? n : most; }

// First row and column of W1 in a tile, and how many of each it has.
struct Tile { int down, first_d, n_d, first_h, n_h; };

__device__ Tile tile_at(int number, Sizes size)
{
    const int across = parts_of(size.H, TILE_WIDTH);
    const int down = number / across, first_h = number % across * TILE_WIDTH;
    const int first_d = down * size.depth;
    return Tile{
        down, first_d, at_most(size.D - first_d, size.depth), first_h,
        at_most(size.H - first_h, TILE_WIDTH)};
}

// A block's shared memory, in this order; persistent_plan.py counts the same bytes.
struct Shared {
    double* terms;    // (K,) of a row's loss
    real* tiles;      // held times (depth, TILE_WIDTH): W1
    real* gradient;   // (depth, TILE_WIDTH), of the rows so far
    real* x;          // (TILE_ROWS, depth) inputs of a tile
    real* delta;      // (TILE_ROWS, TILE_WIDTH)
    real* bias;       // (TILE_WIDTH,) gradient of b1, of the rows so far
    real* logits;     // (K,) of a row, then its output delta
    real* exps;       // (K,) of a row
    real* lanes;      // one a thread
    real* W2;         // (H, K)
    real* values;     // (H,) hidden units of a row
    real* sums;       // (tiles across, K) of a row
};

__device__ Shared shared_layout(char* memory, Sizes size, int held)
{
    Shared to;
    to.terms = (double*)memory;
    to.tiles = (real*)(to.terms + size.K);
    to.gradient = to.tiles + (int64)held * size.depth * TILE_WIDTH;
    to.x = to.gradient + size.depth * TILE_WIDTH;
    to.delta = to.x + TILE_ROWS * size.depth;
    to.bias = to.delta + TILE_ROWS * TILE_WIDTH;
    to.logits = to.bias + TILE_WIDTH;
    to.exps = to.logits + size.K;
    to.lanes = to.exps + size.K;
    to.W2 = to.lanes + blockDim.x;
    to.values = to.W2 + (int64)size.H * size.K;
    to.sums = to.values + size.H;
    return to;
}

// ------------------------------------------------------------------------------------- the tiles

// Copies a part (rows, columns) of a wider matrix to (height, width), with zeros beyond it.
__device__ void load_part(
    const real* from, int stride, int rows, int columns, int height, int width, real* to)
{
    const int lane = threadIdx.x % WARP;
    for (int row = threadIdx.x / WARP; row < height; row += blockDim.x / WARP)
        for (int column = lane; column < width; column += WARP)
            to[row * width + column] =
                row < rows && column < columns ? from[(int64)row * stride + column] : (real)0;
}

__device__ void load_tile(const real* W1, Tile tile, Sizes size, real* to)
{
    load_part(
        W1 + (int64)tile.first_d * size.H + tile.first_h, size.H, tile.n_d, tile.n_h, size.depth,
        TILE_WIDTH, to);
}

__device__ void store_tile(const real* from, Tile tile, Sizes size, real* W1)
{
    for (int e = threadIdx.x; e < tile.n_d * TILE_WIDTH; e += blockDim.x)
        if (e % TILE_WIDTH < tile.n_h)
            W1[(int64)(tile.first_d + e / TILE_WIDTH) * size.H + tile.first_h + e % TILE_WIDTH] =
                from[e];
}

// Sums the numbers of LANES neighbouring threads in order, for the first of them; all threads call it.
// The numbers stay readable until the block's next barrier.
__device__ real sum_of_lanes(real mine, real* lanes)
{
    lanes[threadIdx.x] = mine;
    __syncthreads();
    real sum = mine;
    if (threadIdx.x % LANES == 0)
        for (int lane = 1; lane < LANES; ++lane)
            sum += lanes[threadIdx.x + lane];
    return sum;
}

// A tile's terms of x·W1 for at most TILE_ROWS rows of the batch: to (rows, n_h), with stride H.
__device__ void multiply_tile(
    const real* x, Tile tile, const real* W1, Sizes size, int rows, real* to, const Shared& shared)
{
    const int patches_down = parts_of(rows, PATCH_DOWN);
    load_part(
        x + tile.first_d, size.D, rows, tile.n_d, patches_down * PATCH_DOWN, size.depth, shared.x);
    __syncthreads();
    for (int p = threadIdx.x; p < patches_down * PATCHES_ACROSS; p += blockDim.x) {
        const int row = p / PATCHES_ACROSS * PATCH_DOWN, column = p % PATCHES_ACROSS;
        real sums[PATCH_DOWN][PATCH_ACROSS] = {};
        for (int d = 0; d < tile.n_d; ++d)
            for (int j = 0; j < PATCH_ACROSS; ++j) {
                const real weight = W1[d * TILE_WIDTH + column + j * PATCHES_ACROSS];
                for (int i = 0; i < PATCH_DOWN; ++i)
                    sums[i][j] += shared.x[(row + i) * size.depth + d] * weight;
            }
        for (int i = 0; i < PATCH_DOWN; ++i)
            for (int j = 0; j < PATCH_ACROSS; ++j) {
                const int h = column + j * PATCHES_ACROSS;
                if (row + i < rows && h < tile.n_h)
                    to[(int64)(row + i) * size.H + h] = sums[i][j];
            }
    }
    __syncthreads(); // before shared.x is overwritten
}

// A tile's gradient and update; in the uppermost tiles also b1's, from `b1` on. `deltas` is (B, H).
__device__ void update_tile(
    const real* x, bool has_x, const real* deltas, Tile tile, real* W1, real* b1, int64 at_b1,
    Sizes size, Rate rate, const Optimizer& optimizer, const Shared& shared)
{
    const bool has_bias = tile.down == 0;
    for (int first = 0; first < size.B; first += TILE_ROWS) {
        const int rows = at_most(size.B - first, TILE_ROWS);
        const bool begins = first == 0;
        if (!has_x)
            load_part(
                x + (int64)first * size.D + tile.first_d, size.D, rows, tile.n_d, rows, size.depth,
                shared.x);
        load_part(
            deltas + (int64)first * size.H + tile.first_h, size.H, rows, tile.n_h, rows, TILE_WIDTH,
            shared.delta);
        __syncthreads();
        const int patches_down = parts_of(tile.n_d, PATCH_DOWN);
        for (int p = threadIdx.x; p < patches_down * PATCHES_ACROSS; p += blockDim.x) {
            const int d = p / PATCHES_ACROSS * PATCH_DOWN, column = p % PATCHES_ACROSS;
            real* so_far = shared.gradient + d * TILE_WIDTH + column;
            real sums[PATCH_DOWN][PATCH_ACROSS];
            for (int i = 0; i < PATCH_DOWN; ++i)
                for (int j = 0; j < PATCH_ACROSS; ++j)
                    sums[i][j] = begins ? (real)0 : so_far[i * TILE_WIDTH + j * PATCHES_ACROSS];
            for (int row = 0; row < rows; ++row)
                for (int j = 0; j < PATCH_ACROSS; ++j) {
                    const real error = shared.delta[row * TILE_WIDTH + column + j * PATCHES_ACROSS];
                    for (int i = 0; i < PATCH_DOWN; ++i)
                        sums[i][j] += shared.x[row * size.depth + d + i] * error;
                }
            for (int i = 0; i < PATCH_DOWN; ++i)
                for (int j = 0; j < PATCH_ACROSS; ++j)
                    so_far[i * TILE_WIDTH + j * PATCHES_ACROSS] = sums[i][j];
        }
        if (has_bias)
            for (int h = threadIdx.x; h < tile.n_h; h += blockDim.x) {
                real sum = begins ? (real)0 : shared.bias[h];
                for (int row = 0; row < rows; ++row)
                    sum += shared.delta[row * TILE_WIDTH + h];
                shared.bias[h] = sum;
            }
        __syncthreads(); // before the rows are overwritten, or the sums are read
    }
    for (int e = threadIdx.x; e < tile.n_d * TILE_WIDTH; e += blockDim.x) {
        const int d = e / TILE_WIDTH, h = e % TILE_WIDTH;
        const int64 at = (int64)(tile.first_d + d) * size.H + tile.first_h + h;
        if (h < tile.n_h)
            take_step(W1 + e, at, shared.gradient[e], true, rate, optimizer);
    }
    for (int h = threadIdx.x; has_bias && h < tile.n_h; h += blockDim.x)
        take_step(b1 + h, at_b1 + h, shared.bias[h], false, rate, optimizer);
}
