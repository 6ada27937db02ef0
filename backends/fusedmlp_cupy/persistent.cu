// Training steps of a small network in one launch: the kernel that stays until all batches are done.
//
// A program of its own behind common.cu, formulas.cu, tiles.cu and rows.cu; persistent.py says for which
// networks, and with which grid and how much shared memory. cluster.cu does the same with clusters of
// blocks, to the same bits.
//
// Tile t of W1 is block t mod gridDim.x's for the whole launch. What blocks tell each other is small and
// lies in global memory, that is in the second-level cache. A step has three parts, with a grid barrier
// between them:
//   1. every tile: its terms of x·W1, for all B rows, to `partial`
//   2. every row: the sum of those over D, the unit, the output layer, loss, both deltas
//   3. every tile: its gradient from x and the delta, and its update in place;
//      every entry of W2 and b2, every b1: the same in global memory
// No barrier is needed between 3 and the next step's 1, which reads the block's own tiles alone and
// writes only what nobody has read since the last barrier.

// The deltas (B, H) in global memory.
struct StoredDeltas { const real* all; };

__device__ void load_deltas(
    const StoredDeltas& deltas, int first, int rows, Tile tile, Sizes size, real* to)
{
    load_part(
        deltas.all + (int64)first * size.H + tile.first_h, size.H, rows, tile.n_h, rows, TILE_WIDTH,
        to);
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
    const Shared shared = carve(memory, size, held, 1);
    const int down = parts_of(D, depth), across = parts_of(H, TILE_WIDTH);
    real* own_W2 = shared.rest;                 // (H, K)
    real* own_values = own_W2 + (int64)H * K;   // (H,) of a row
    real* own_sums = own_values + H;            // (across, K) of a row
    const Optimizer optimizer = {optimizer_kind, slot1, slot2, l2, c1, c2, c3, c4};
    const Masks masks = {steps, seed_low, seed_high, threshold, scale, unscale};
    const Answers answers = {labels, y, w, rows, mean, batch_weights, losses, correct};
    const int n_tiles = down * across, tile_size = depth * TILE_WIDTH;
    real *W2 = theta + at_W2, *b1 = theta + at_b1, *b2 = theta + at_b2;

    if ((int64)gridDim.x * held < n_tiles) {
        refuse(losses + first, n_batches * B);
        return;
    }
    for (int slot = 0, t = blockIdx.x; t < n_tiles; ++slot, t += gridDim.x)
        load_tile(
            theta, tile_at(t / across, t % across, size), size, shared.tiles + slot * tile_size);
    // What part 1 has put into shared.x is still there in part 3, where it is all.
    const bool keeps_x = B <= TILE_ROWS && blockIdx.x + gridDim.x >= n_tiles;

    for (int64 step = batch; step < batch + n_batches; ++step) {
        for (int slot = 0, t = blockIdx.x; t < n_tiles; ++slot, t += gridDim.x) {
            const Tile tile = tile_at(t / across, t % across, size);
            for (int row = 0; row < B; row += TILE_ROWS)
                multiply_tile(
                    x + (int64)row * D, tile, shared.tiles + slot * tile_size, size,
                    at_most(B - row, TILE_ROWS),
                    partial + ((int64)tile.down * B + row) * H + tile.first_h, H, shared);
        }
        GRID_BARRIER(barrier);

        const uint32 mask_step = steps ? steps[step] : 0;
        const real delta_scale = batch_scale(mean, batch_weights, step, B);
        if (blockIdx.x < B)
            for (int e = threadIdx.x; e < H * K; e += blockDim.x)
                own_W2[e] = W2[e];
        for (int row = blockIdx.x; row < B; row += gridDim.x) {
            const Rows one = {first + row, 0, 1};
            find_answers(one, answers, shared);
            for (int h = threadIdx.x; h < H; h += blockDim.x) {
                real z = partial[(int64)row * H + h];
                for (int i = 1; i < down; ++i)
                    z += partial[((int64)i * B + row) * H + h];
                const real a = unit_of(z + b1[h], activation, row, h, mask_step, masks);
                own_values[h] = a;
                values[(int64)row * H + h] = a;
            }
            __syncthreads();
            for (int base = 0; base < across * K; base += blockDim.x / LANES) {
                // Number i·K + k: of the i-th tile across and output k.
                const int number = base + threadIdx.x / LANES, k = number % K;
                const int first_h = number / K * TILE_WIDTH, end = at_most(H, first_h + TILE_WIDTH);
                real sum = 0;
                for (int h = first_h + threadIdx.x % LANES; h < end; h += LANES)
                    sum += own_values[h] * own_W2[h * K + k];
                sum = sum_of_lanes(sum, shared.lanes);
                if (threadIdx.x % LANES == 0 && number < across * K)
                    own_sums[number] = sum;
                __syncthreads(); // before other sums take the lanes, or these are read
            }
            for (int k = threadIdx.x; k < K; k += blockDim.x) {
                real sum = own_sums[k];
                for (int i = 1; i < across; ++i)
                    sum += own_sums[i * K + k];
                shared.logits[k] = sum + b2[k];
            }
            __syncthreads();
            compare_rows(output, one, delta_scale, K, true, answers, shared);
            __syncthreads();
            for (int k = threadIdx.x; k < K; k += blockDim.x)
                delta2[(int64)row * K + k] = shared.logits[k];
            for (int h = threadIdx.x; h < H; h += blockDim.x) {
                real above = 0;
                for (int k = 0; k < K; ++k)
                    above += shared.logits[k] * own_W2[h * K + k];
                delta1[(int64)row * H + h] =
                    delta_of(above, own_values[h], activation, row, h, mask_step, masks);
            }
            // The next row's logits come two barriers on.
        }
        GRID_BARRIER(barrier);

        const Rate rate = rate_of(rates, step);
        for (int slot = 0, t = blockIdx.x; t < n_tiles; ++slot, t += gridDim.x) {
            const Tile tile = tile_at(t / across, t % across, size);
            update_tile(
                x, keeps_x, StoredDeltas{delta1}, tile, shared.tiles + slot * tile_size,
                b1 + tile.first_h, at_b1 + tile.first_h, size, rate, optimizer, shared);
        }
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
    for (int slot = 0, t = blockIdx.x; t < n_tiles; ++slot, t += gridDim.x)
        store_tile(
            shared.tiles + slot * tile_size, tile_at(t / across, t % across, size), size, theta);
}
