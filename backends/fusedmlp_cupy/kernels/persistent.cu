// The persistent kernel: one launch trains a small network on many batches.
//
// A program of its own, behind common.cu, arithmetic.cu, formulas.cu and tiles.cu. persistent_plan.py decides
// which networks it can train, and chooses the grid and the shared memory.
//
// Tile t of W1 belongs to block t mod gridDim.x for the whole launch. What blocks exchange is small and
// lies in global memory, that is in the second-level cache. A step has three phases, with a grid barrier
// between them:
//   1. each tile: its terms of x·W1, for all B rows, to `partial`
//   2. each row: the sum of those over D, the hidden units, the output layer, the loss, both deltas
//   3. each tile: its gradient from x and the delta, and its update in place;
//      each entry of W2 and b2, each entry of b1: the same, in global memory
// No barrier is needed between phase 3 and the next step's phase 1: phase 1 reads only the block's own
// tiles, and overwrites only what was last read before the previous barrier.

// Dropout of the hidden layer; see common.cu. `steps` is null without dropout.
struct Masks { const uint32* steps; uint32 seed_low, seed_high; uint64 threshold; real scale, unscale; };

__device__ real mask_of(int row, int h, uint32 step, const Masks& masks)
{
    const uint32 kept =
        kept_units(h / 4, row, step, 0, masks.seed_low, masks.seed_high, masks.threshold);
    return (real)(int)((kept >> (h % 4)) & 1);
}

// Value of a hidden unit, behind its mask where there is dropout.
__device__ real unit_of(real z, int activation, int row, int h, uint32 step, const Masks& masks)
{
    const real a = activation_of(z, activation);
    return masks.steps ? a * mask_of(row, h, step, masks) * masks.scale : a;
}

// Delta of a hidden unit, from the sum of the deltas above it and what was saved of the unit; see
// formulas.cu and kernels.cu.
__device__ real delta_of(
    real above, real saved, int activation, int row, int h, uint32 step, const Masks& masks)
{
    if (!masks.steps)
        return backpropagated(above, saved, activation);
    const real mask = mask_of(row, h, step, masks);
    return backpropagated(above * mask * masks.scale, saved * masks.unscale, activation);
}

// Targets and where the losses go; see kernels.cu. One of labels and y is null.
struct Targets {
    const int64* labels;
    const real* y;
    const real* w;
    const int64* rows;
    int mean;
    const double* batch_weights;
    double* losses;
    double* correct;
};

// The logits (K,) of one row in shared memory become its delta; its loss and hit are written at `at`.
__device__ void output_delta(
    int output, int64 at, real scale, int K, const Targets& targets, const Shared& shared)
{
    const int64 source = targets.rows ? targets.rows[at] : at;
    const real weight = targets.w ? targets.w[source] : (real)1;
    if (output == OUTPUT_SOFTMAX) {
        const int64 label = targets.labels[source];
        for (int k = threadIdx.x; k < K; k += blockDim.x) {
            Largest largest = {0, -1};
            for (int other = 0; other < K; ++other)
                largest = larger(largest, Largest{shared.logits[other], other});
            shared.exps[k] = exponential(shared.logits[k] - largest.value);
            if (k == label) {
                shared.terms[k] = (double)largest.value; // read by this thread alone
                targets.correct[at] = largest.column == k ? (double)weight : 0.0;
            }
        }
        __syncthreads();
        for (int k = threadIdx.x; k < K; k += blockDim.x) {
            real total = 0;
            for (int other = 0; other < K; ++other)
                total += shared.exps[other];
            if (k == label) {
                const double loss = softmax_loss(total, (real)shared.terms[k], shared.logits[k]);
                targets.losses[at] = capped(loss) * (double)weight;
            }
            shared.logits[k] = (shared.exps[k] / total - (real)(k == label)) * weight * scale;
        }
        return;
    }
    for (int k = threadIdx.x; k < K; k += blockDim.x) {
        const real logit = shared.logits[k], target = targets.y[source * K + k];
        shared.terms[k] = element_loss(output, logit, target);
        shared.exps[k] = (real)is_wrong(logit, target);
        shared.logits[k] = element_error(output, logit, target) * weight * scale;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        double loss = 0;
        bool is_right = output == OUTPUT_SIGMOID;
        for (int k = 0; k < K; ++k) {
            loss += shared.terms[k];
            is_right = is_right && shared.exps[k] == 0;
        }
        targets.losses[at] = capped(loss) * (double)weight;
        targets.correct[at] = is_right ? (double)weight : 0.0;
    }
}

// ------------------------------------------------------------------------------ persistent_steps
// Trains on n_batches batches of B rows each, from row `first` and batch `batch` of the call.
//   x                  (n_batches·B, D): the rows in the call's order
//   theta, slots       flat, as parameters.py lays them out; W1 begins at 0; slots are null where unused
//   depth, held        rows of a tile, and tiles that a block has room for
//   partial            (tiles down, B, H); values, delta1 (B, H) and delta2 (B, K): written before read
//   kept_z             (B, H) for activations whose derivative needs z, else null
//   barrier            one word, 0 before the first launch
KERNEL persistent_steps(
    const real* x, real* theta, real* slot1, real* slot2, int64 at_W2, int64 at_b1, int64 at_b2, int D,
    int H, int K, int B, int64 n_batches, int64 first, int64 batch, int depth, int held,
    int activation, int output, int formula, const real* rates, real l2, real c1, real c2,
    real c3, real c4, const int64* labels, const real* y, const real* w, const int64* rows, int mean,
    const double* batch_weights, double* losses, double* correct, const uint32* steps,
    uint32 seed_low, uint32 seed_high, uint64 threshold, real scale, real unscale, real* partial,
    real* values, real* delta1, real* delta2, real* kept_z, uint32* barrier)
{
    DYNAMIC_SHARED(memory);
    const Sizes size = {B, D, H, K, depth};
    const Shared shared = shared_layout(memory, size, held);
    const Optimizer optimizer = {formula, slot1, slot2, l2, c1, c2, c3, c4};
    const Masks masks = {steps, seed_low, seed_high, threshold, scale, unscale};
    const Targets targets = {labels, y, w, rows, mean, batch_weights, losses, correct};
    const int down = parts_of(D, depth), across = parts_of(H, TILE_WIDTH);
    const int n_tiles = down * across, tile_size = depth * TILE_WIDTH;
    real *W2 = theta + at_W2, *b1 = theta + at_b1, *b2 = theta + at_b2;

    // A launch on a grid that is too small computes nothing, and its losses are NaN.
    if ((int64)gridDim.x * held < n_tiles) {
        for (int64 i = threadIdx.x; blockIdx.x == 0 && i < n_batches * B; i += blockDim.x)
            losses[first + i] = from_bits<double>(~0ull);
        return;
    }
    for (int slot = 0, t = blockIdx.x; t < n_tiles; ++slot, t += gridDim.x)
        load_tile(theta, tile_at(t, size), size, shared.tiles + slot * tile_size);
    // Where a block has one tile and the batch fits, phase 3 finds phase 1's inputs in shared.x.
    const bool keeps_x = B <= TILE_ROWS && blockIdx.x + gridDim.x >= n_tiles;

    for (int64 step = batch; step < batch + n_batches; ++step) {
        for (int slot = 0, t = blockIdx.x; t < n_tiles; ++slot, t += gridDim.x) {
            const Tile tile = tile_at(t, size);
            for (int row = 0; row < B; row += TILE_ROWS)
                multiply_tile(
                    x + (int64)row * D, tile, shared.tiles + slot * tile_size, size,
                    at_most(B - row, TILE_ROWS),
                    partial + ((int64)tile.down * B + row) * H + tile.first_h, shared);
        }
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
                z += b1[h];
                if (kept_z)
                    kept_z[(int64)row * H + h] = z; // read by this thread alone
                const real a = unit_of(z, activation, row, h, mask_step, masks);
                shared.values[h] = a;
                values[(int64)row * H + h] = a;
            }
            __syncthreads();
            for (int base = 0; base < across * K; base += blockDim.x / LANES) {
                // Number i·K + k: of the i-th tile across and output k.
                const int number = base + threadIdx.x / LANES, k = number % K;
                const int first_h = number / K * TILE_WIDTH, end = at_most(H, first_h + TILE_WIDTH);
                real sum = 0;
                for (int h = first_h + threadIdx.x % LANES; h < end; h += LANES)
                    sum += shared.values[h] * shared.W2[h * K + k];
                sum = sum_of_lanes(sum, shared.lanes);
                if (threadIdx.x % LANES == 0 && number < across * K)
                    shared.sums[number] = sum;
                __syncthreads(); // before the lanes are overwritten, or the sums are read
            }
            for (int k = threadIdx.x; k < K; k += blockDim.x) {
                real sum = shared.sums[k];
                for (int i = 1; i < across; ++i)
                    sum += shared.sums[i * K + k];
                shared.logits[k] = sum + b2[k];
            }
            __syncthreads();
            output_delta(output, first + row, delta_scale, K, targets, shared);
            __syncthreads();
            for (int k = threadIdx.x; k < K; k += blockDim.x)
                delta2[(int64)row * K + k] = shared.logits[k];
            for (int h = threadIdx.x; h < H; h += blockDim.x) {
                real above = 0;
                for (int k = 0; k < K; ++k)
                    above += shared.logits[k] * shared.W2[h * K + k];
                const real saved = kept_z ? kept_z[(int64)row * H + h] : shared.values[h];
                delta1[(int64)row * H + h] =
                    delta_of(above, saved, activation, row, h, mask_step, masks);
            }
            // Two barriers follow before the next row's logits are written.
        }
        GRID_BARRIER(barrier);

        const Rate rate = rate_of(rates, step);
        for (int slot = 0, t = blockIdx.x; t < n_tiles; ++slot, t += gridDim.x) {
            const Tile tile = tile_at(t, size);
            update_tile(
                x, keeps_x, delta1, tile, shared.tiles + slot * tile_size, b1 + tile.first_h,
                at_b1 + tile.first_h, size, rate, optimizer, shared);
        }
        for (int base = blockIdx.x * (blockDim.x / LANES); base < (H + 1) * K;
             base += gridDim.x * (blockDim.x / LANES)) {
            // Entry h·K + k: of W2, or of b2 where h = H.
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
            __syncthreads(); // before the lanes are overwritten
        }
        x += (int64)B * D;
        first += B;
    }
    for (int slot = 0, t = blockIdx.x; t < n_tiles; ++slot, t += gridDim.x)
        store_tile(shared.tiles + slot * tile_size, tile_at(t, size), size, theta);
}
