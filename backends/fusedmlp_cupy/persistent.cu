// Training steps of a small network in one launch: the kernel that stays until all batches are done.
//
// A program of its own behind common.cu and formulas.cu; persistent.py says for which networks, and
// with which grid and how much shared memory. One hidden layer: D inputs, H units, K outputs.
//
// W1 (D, H) is cut into tiles of `depth` by TILE_WIDTH. Tile t is block t mod gridDim.x's for the whole
// launch, in shared memory: only its sums leave. Everything else is small and lies in global memory,
// that is in the second-level cache. A step has three parts, with a grid barrier between them:
//   1. every tile: its terms of x·W1, for all B rows, to `partial`
//   2. every row: the sum of those over D, the unit, the output layer, loss, both deltas
//   3. every tile: its gradient from x and the delta, and its update in place;
//      every entry of W2 and b2, every b1: the same in global memory
// No barrier is needed between 3 and the next step's 1, which reads the block's own tiles alone and
// writes only what nobody has read since the last barrier.
//
// The rules of kernels.cu hold. Sums have an order that the shapes fix, for any grid and any block of
// whole warps: terms of a tile ascending, tiles of a column ascending; over the units of a row, and over
// the rows of a batch for W2, LANES sums of every LANES-th term each, added in their order.

enum { TILE_WIDTH = 32, TILE_ROWS = 64, LANES = 8, WARP = 32, PATCH_DOWN = 4, PATCH_ACROSS = 2 };
enum { PATCHES_ACROSS = TILE_WIDTH / PATCH_ACROSS };
enum { STEP_SGD, STEP_MOMENTUM, STEP_NESTEROV, STEP_ADAM };

// ---------------------------------------------------------------------------------- the barrier
// All threads of the grid wait for each other; what any wrote before, all see behind it. All blocks
// must be resident, which a cooperative launch guarantees or refuses.
//
// One word counts, and is never set back: of the gridDim.x numbers that are added at a barrier the sum
// is 2^31, so that its highest bit, the generation, has turned over exactly when all have arrived, and
// the other bits are 0 again. It must be 0 before the first launch that uses it. The fences order a
// block's writes before its arrival, and its reads, first-level cache included, behind the turn.
//
// The tests' shims put barriers of their own here, which they can leave out one by one.
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

// ------------------------------------------------------------------------------------- its parts

struct Sizes { int B, D, H, K, depth; };

// Where a tile's rows and columns of W1 begin, and how many there are.
struct Tile { int number, down, first_d, n_d, first_h, n_h; };

__device__ Tile tile_of(int number, Sizes size)
{
    const int across = (size.H + TILE_WIDTH - 1) / TILE_WIDTH;
    const int first_d = number / across * size.depth, first_h = number % across * TILE_WIDTH;
    return Tile{
        number,  number / across,
        first_d, size.D - first_d < size.depth ? size.D - first_d : size.depth,
        first_h, size.H - first_h < TILE_WIDTH ? size.H - first_h : (int)TILE_WIDTH};
}

// A block's shared memory, in this order: persistent.py counts the same.
struct Shared {
    double* terms;    // (K,) of a row's loss
    real* tiles;      // held times (depth, TILE_WIDTH): W1
    real* gradient;   // (depth, TILE_WIDTH), of the rows so far
    real* x;          // (TILE_ROWS, depth) of a tile's inputs
    real* delta;      // (TILE_ROWS, TILE_WIDTH)
    real* bias;       // (TILE_WIDTH,) gradient of b1, of the rows so far
    real* W2;         // (H, K)
    real* values;     // (H,) of a row
    real* logits;     // (K,), then the output delta
    real* exps;       // (K,)
    real* lanes;      // one a thread
};

__device__ Shared carve(char* memory, Sizes size, int held)
{
    Shared to;
    to.terms = (double*)memory;
    to.tiles = (real*)(to.terms + size.K);
    to.gradient = to.tiles + (int64)held * size.depth * TILE_WIDTH;
    to.x = to.gradient + size.depth * TILE_WIDTH;
    to.delta = to.x + TILE_ROWS * size.depth;
    to.bias = to.delta + TILE_ROWS * TILE_WIDTH;
    to.W2 = to.bias + TILE_WIDTH;
    to.values = to.W2 + (int64)size.H * size.K;
    to.logits = to.values + size.H;
    to.exps = to.logits + size.K;
    to.lanes = to.exps + size.K;
    return to;
}

// The optimizer; slots as theta lies.
struct Optimizer { int kind; real* slot1; real* slot2; real l2, c1, c2, c3, c4; };

// Takes one parameter's step; `at` is its place in theta, wherever its value is kept.
__device__ void take_step(
    real* theta, int64 at, real gradient, bool is_weight, Rate rate, const Optimizer& by)
{
    const real g = penalised(gradient, *theta, is_weight, by.l2);
    switch (by.kind) {
    case STEP_SGD: sgd_step(theta, g, rate); break;
    case STEP_MOMENTUM: momentum_step(theta, by.slot1 + at, g, rate, by.c1); break;
    case STEP_NESTEROV: nesterov_step(theta, by.slot1 + at, g, rate, by.c1); break;
    default:
        adam_step(
            theta, by.slot1 + at, by.slot2 + at, g, is_weight, rate, by.c1, by.c2, by.c3, by.c4);
    }
}

// Reads a matrix's part (rows, columns) of a wider one into one of `height` by `width`, zeros beyond it.
__device__ void load_part(
    const real* from, int stride, int rows, int columns, int height, int width, real* to)
{
    const int lane = threadIdx.x % WARP;
    for (int row = threadIdx.x / WARP; row < height; row += blockDim.x / WARP)
        for (int column = lane; column < width; column += WARP)
            to[row * width + column] =
                row < rows && column < columns ? from[(int64)row * stride + column] : (real)0;
}

// Σ of LANES neighbouring threads' numbers in their order, for the first of each; all threads call it.
// The numbers stay readable until the next barrier of the block.
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

// What the masks of the hidden layer depend on; see common.cu.
struct Masks { const uint32* steps; uint32 seed_low, seed_high; uint64 threshold; real scale, unscale; };

__device__ real mask_of(int row, int h, uint32 step, const Masks& masks)
{
    const uint32 kept =
        kept_units(h / 4, row, step, 0, masks.seed_low, masks.seed_high, masks.threshold);
    return (real)((kept >> (h % 4)) & 1);
}

// What outputs are compared with; see kernels.cu. One of labels and y is null.
struct Answers {
    const int64* labels;
    const real* y;
    const real* w;
    const int64* rows;
    int mean;
    const double* batch_weights;
    double* losses;
    double* correct;
};

// Part 1: partial (tiles down, B, H), a tile's terms of x·W1 for every row of the batch.
__device__ void multiply_tile(
    const real* x, Tile tile, const real* W1, Sizes size, real* partial, const Shared& shared)
{
    for (int first = 0; first < size.B; first += TILE_ROWS) {
        const int rows = size.B - first < TILE_ROWS ? size.B - first : (int)TILE_ROWS;
        const int patches_down = (rows + PATCH_DOWN - 1) / PATCH_DOWN;
        load_part(
            x + (int64)first * size.D + tile.first_d, size.D, rows, tile.n_d,
            patches_down * PATCH_DOWN, size.depth, shared.x);
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
                        partial[((int64)tile.down * size.B + first + row + i) * size.H +
                                tile.first_h + h] = sums[i][j];
                }
        }
        __syncthreads(); // before other inputs take their place
    }
}

// The row's logits (K,) in shared memory become its delta; its loss and hit are noted at `at`.
__device__ void compare_row(
    int output, int64 at, real scale, int K, const Answers& answers, const Shared& shared)
{
    const int64 source = answers.rows ? answers.rows[at] : at;
    const real weight = answers.w ? answers.w[source] : (real)1;
    real* logits = shared.logits;
    if (output == OUTPUT_SOFTMAX) {
        Largest largest = {0, -1};
        for (int k = 0; k < K; ++k)
            largest = larger(largest, Largest{logits[k], k});
        for (int k = threadIdx.x; k < K; k += blockDim.x)
            shared.exps[k] = exponential(logits[k] - largest.value);
        __syncthreads();
        real total = 0;
        for (int k = 0; k < K; ++k)
            total += shared.exps[k];
        const int64 label = answers.labels[source];
        for (int k = threadIdx.x; k < K; k += blockDim.x) {
            if (k == label) {
                const double loss = softmax_loss(total, largest.value, logits[k]);
                answers.losses[at] = capped(loss) * (double)weight;
                answers.correct[at] = largest.column == label ? (double)weight : 0.0;
            }
            logits[k] = (shared.exps[k] / total - (real)(k == label)) * weight * scale;
        }
        return;
    }
    for (int k = threadIdx.x; k < K; k += blockDim.x) {
        const real logit = logits[k], target = answers.y[source * K + k];
        real error = logit - target;
        double loss = 0.5 * ((double)error * (double)error);
        if (output == OUTPUT_SIGMOID) {
            loss = sigmoid_loss(logit, target);
            error = logistic(logit) - target;
        } else if (output == OUTPUT_EXP) {
            loss = poisson_loss(logit, target);
            error = exponential(logit) - target;
        }
        shared.terms[k] = loss;
        shared.exps[k] = (real)is_wrong(logit, target);
        logits[k] = error * weight * scale;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        double loss = 0;
        bool right = output == OUTPUT_SIGMOID;
        for (int k = 0; k < K; ++k) {
            loss += shared.terms[k];
            right = right && shared.exps[k] == 0;
        }
        answers.losses[at] = capped(loss) * (double)weight;
        answers.correct[at] = right ? (double)weight : 0.0;
    }
}

// Part 3: a tile's gradient and update, and b1's where the tile is one of the uppermost.
__device__ void update_tile(
    const real* x, bool has_x, const real* delta, Tile tile, real* W1, real* b1, int64 at_b1,
    Sizes size, Rate rate, const Optimizer& optimizer, const Shared& shared)
{
    const bool has_bias = tile.down == 0;
    for (int first = 0; first < size.B; first += TILE_ROWS) {
        const int rows = size.B - first < TILE_ROWS ? size.B - first : (int)TILE_ROWS;
        const bool begins = first == 0;
        if (!has_x)
            load_part(
                x + (int64)first * size.D + tile.first_d, size.D, rows, tile.n_d, rows, size.depth,
                shared.x);
        load_part(
            delta + (int64)first * size.H + tile.first_h, size.H, rows, tile.n_h, rows, TILE_WIDTH,
            shared.delta);
        __syncthreads();
        const int patches_down = (tile.n_d + PATCH_DOWN - 1) / PATCH_DOWN;
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
        __syncthreads(); // before other rows take their place, or the sums are read
    }
    for (int e = threadIdx.x; e < tile.n_d * TILE_WIDTH; e += blockDim.x) {
        const int d = e / TILE_WIDTH, h = e % TILE_WIDTH;
        const int64 at = (int64)(tile.first_d + d) * size.H + tile.first_h + h;
        if (h < tile.n_h)
            take_step(W1 + e, at, shared.gradient[e], true, rate, optimizer);
    }
    for (int h = tile.first_h + threadIdx.x; has_bias && h < tile.first_h + tile.n_h; h += blockDim.x)
        take_step(b1 + h, at_b1 + h, shared.bias[h - tile.first_h], false, rate, optimizer);
}

// ------------------------------------------------------------------------------ persistent_steps
// Trains on n_batches batches of B rows each, from row `first` and batch `batch` of the call.
//   x                  (n_batches·B, D): the rows in their order
//   theta, slots       flat, as layout.py lays them out; W1 begins at 0; slots are null where unused
//   depth, held        rows of a tile, and tiles that a block has room for
//   barrier            one word, 0 before the first launch
//   partial            (tiles down, B, H); values, delta1 (B, H) and delta2 (B, K): written before read
KERNEL persistent_steps(
    const real* x, real* theta, real* slot1, real* slot2, int64 at_W2, int64 at_b1, int64 at_b2, int D,
    int H, int K, int B, int64 n_batches, int64 first, int64 batch, int depth, int held,
    int activation, int output, int optimizer_kind, const real* rates, real l2, real c1, real c2,
    real c3, real c4, const int64* labels, const real* y, const real* w, const int64* rows, int mean,
    const double* batch_weights, double* losses, double* correct, const uint32* steps,
    uint32 seed_low, uint32 seed_high, uint64 threshold, real scale, real unscale, real* partial,
    real* values, real* delta1, real* delta2, uint32* barrier)
{
    DYNAMIC_SHARED(memory);
    const Sizes size = {B, D, H, K, depth};
    const Shared shared = carve(memory, size, held);
    const Optimizer optimizer = {optimizer_kind, slot1, slot2, l2, c1, c2, c3, c4};
    const Masks masks = {steps, seed_low, seed_high, threshold, scale, unscale};
    const Answers answers = {labels, y, w, rows, mean, batch_weights, losses, correct};
    const int down = (D + depth - 1) / depth, across = (H + TILE_WIDTH - 1) / TILE_WIDTH;
    const int n_tiles = down * across, tile_size = depth * TILE_WIDTH;
    real *W2 = theta + at_W2, *b1 = theta + at_b1, *b2 = theta + at_b2;

    if ((int64)gridDim.x * held < n_tiles) { // a grid that is not the one asked for: the loss says so
        for (int64 i = threadIdx.x; blockIdx.x == 0 && i < n_batches * B; i += blockDim.x)
            losses[first + i] = from_bits<double>(~0ull);
        return;
    }
    for (int slot = 0, t = blockIdx.x; t < n_tiles; ++slot, t += gridDim.x) {
        const Tile tile = tile_of(t, size);
        load_part(
            theta + (int64)tile.first_d * H + tile.first_h, H, tile.n_d, tile.n_h, depth, TILE_WIDTH,
            shared.tiles + slot * tile_size);
    }
    // What part 1 has put into shared.x is still there in part 3, where it is all.
    const bool keeps_x = B <= TILE_ROWS && blockIdx.x + gridDim.x >= n_tiles;

    for (int64 step = batch; step < batch + n_batches; ++step) {
        for (int slot = 0, t = blockIdx.x; t < n_tiles; ++slot, t += gridDim.x)
            multiply_tile(
                x, tile_of(t, size), shared.tiles + slot * tile_size, size, partial, shared);
        GRID_BARRIER(barrier);

        const uint32 mask_step = steps ? steps[step] : 0;
        const real delta_scale = batch_scale(mean, batch_weights, step, B);
        if (blockIdx.x < B)
            for (int e = threadIdx.x; e < H * K; e += blockDim.x)
                shared.W2[e] = W2[e];
        for (int row = blockIdx.x; row < B; row += gridDim.x) {
            for (int h = threadIdx.x; h < H; h += blockDim.x) {
                real z = partial[(int64)row * H + h];
                for (int i = 1; i < down; ++i)
                    z += partial[((int64)i * B + row) * H + h];
                real a = activation_of(z + b1[h], activation);
                if (steps)
                    a = a * mask_of(row, h, mask_step, masks) * scale;
                shared.values[h] = a;
                values[(int64)row * H + h] = a;
            }
            __syncthreads();
            for (int base = 0; base < K; base += blockDim.x / LANES) {
                const int k = base + threadIdx.x / LANES, lane = threadIdx.x % LANES;
                real sum = 0;
                for (int h = lane; h < H && k < K; h += LANES)
                    sum += shared.values[h] * shared.W2[h * K + k];
                sum = sum_of_lanes(sum, shared.lanes);
                if (lane == 0 && k < K)
                    shared.logits[k] = sum + b2[k];
                __syncthreads(); // before other outputs take their place, or the logits are read
            }
            compare_row(output, first + row, delta_scale, K, answers, shared);
            __syncthreads();
            for (int k = threadIdx.x; k < K; k += blockDim.x)
                delta2[(int64)row * K + k] = shared.logits[k];
            for (int h = threadIdx.x; h < H; h += blockDim.x) {
                real delta = 0;
                for (int k = 0; k < K; ++k)
                    delta += shared.logits[k] * shared.W2[h * K + k];
                const real a = shared.values[h];
                delta1[(int64)row * H + h] =
                    steps ? delta * mask_of(row, h, mask_step, masks) * scale *
                                derivative_from(a * unscale, activation)
                          : delta * derivative_from(a, activation);
            }
            // The next row's logits come two barriers on.
        }
        GRID_BARRIER(barrier);

        const Rate rate = rate_of(rates, step);
        for (int slot = 0, t = blockIdx.x; t < n_tiles; ++slot, t += gridDim.x)
            update_tile(
                x, keeps_x, delta1, tile_of(t, size), shared.tiles + slot * tile_size, b1, at_b1, size,
                rate, optimizer, shared);
        for (int base = blockIdx.x * (blockDim.x / LANES); base < (H + 1) * K;
             base += gridDim.x * (blockDim.x / LANES)) {
            // Entry h·K + k: of W2, or where h = H, of b2.
            const int e = base + threadIdx.x / LANES, h = e / K, k = e % K;
            real sum = 0;
            for (int row = threadIdx.x % LANES; row < B && h <= H; row += LANES) {
                const real error = delta2[(int64)row * K + k];
                sum += h < H ? values[(int64)row * H + h] * error : error;
            }
            sum = sum_of_lanes(sum, shared.lanes);
            if (threadIdx.x % LANES == 0 && h <= H) {
                const int64 at = h < H ? at_W2 + e : at_b2 + k;
                take_step(theta + at, at, sum, h < H, rate, optimizer);
            }
            __syncthreads(); // before other sums take the lanes
        }
        x += (int64)B * D;
        first += B;
    }
    for (int slot = 0, t = blockIdx.x; t < n_tiles; ++slot, t += gridDim.x) {
        const Tile tile = tile_of(t, size);
        for (int e = threadIdx.x; e < tile.n_d * TILE_WIDTH; e += blockDim.x)
            if (e % TILE_WIDTH < tile.n_h)
                theta[(int64)(tile.first_d + e / TILE_WIDTH) * H + tile.first_h + e % TILE_WIDTH] =
                    shared.tiles[slot * tile_size + e];
    }
}
