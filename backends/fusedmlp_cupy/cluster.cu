// The steps of persistent.cu with clusters of blocks, which compute capability 9.0 has: the blocks of a
// cluster read each other's shared memory, and wait for each other by a barrier of the hardware.
//
// A program of its own behind common.cu, formulas.cu, tiles.cu, rows.cu and distributed.cu; clusters.py
// says on how many clusters, of how many blocks (CLUSTER), and with how much shared memory. All sums are
// those of persistent.cu, in the same order: so are the bits.
//
// Column i of W1's tiles belongs to cluster i mod the number of clusters, with its units, their rows of
// W2 and their b1; of that cluster, tile j of the column belongs to block j mod CLUSTER, as does row j of
// the batch. So sums over D, and what comes of them for a unit, never leave a cluster. Only the output
// layer needs all: each cluster's part of its sums lies in global memory. A step has these parts:
//   1. every tile: its terms of x·W1                                     then the cluster's barrier
//   2. every row: the sum of those over D, the cluster's units, their part of the output layer's sums
//                                                                        then the grid's barrier
//   3. every row, in each cluster again: outputs, losses, both deltas    then the cluster's barrier
//   4. every tile: its gradient and update; entries of W2, b2 and b1: the same, told to all of the cluster
// Batches of more rows than a tile takes at once go through 1 and the sums of 2 several times. No barrier
// is needed between 4 and the next step's 1, nor a second one of the grid: what is told to other clusters
// has two places, which take turns.

// ------------------------------------------------------------------------------------- its parts

// What a block has of the network, and where; see above.
struct Part {
    int rank;          // in the cluster
    int cluster, n_clusters;
    int n_columns;     // of tiles
    int most_columns;  // of any cluster
    int most_tiles;    // of a column, that a block has
    int n_rows;        // of the batch
};

// A block's own shared memory, behind what both kernels have.
struct Own {
    real* partial;  // held times (TILE_ROWS, TILE_WIDTH): a tile's terms
    real* units;    // (rows, columns, TILE_WIDTH)
    real* deltas;   // (rows, columns, TILE_WIDTH)
    real* W2;       // (columns, TILE_WIDTH, K)
    real* b1;       // (columns, TILE_WIDTH)
    real* b2;       // (K,) in the first cluster
};

__device__ Own carve_own(real* memory, const Part& part, Sizes size, int held)
{
    const int64 width = part.most_columns * TILE_WIDTH, rows = parts_of(size.B, CLUSTER);
    Own to;
    to.partial = memory;
    to.units = to.partial + (int64)held * TILE_ROWS * TILE_WIDTH;
    to.deltas = to.units + rows * width;
    to.W2 = to.deltas + rows * width;
    to.b1 = to.W2 + width * size.K;
    to.b2 = to.b1 + width;
    return to;
}

__device__ int column_of(int own, const Part& part) { return part.cluster + own * part.n_clusters; }

// Sets a place in every block of the cluster to what it is in this one.
__device__ void tell_all(real* mine)
{
    const real value = *mine;
    for (int rank = 0; rank < CLUSTER; ++rank)
        *of_rank(mine, rank) = value;
}

// The deltas of one of the cluster's columns of tiles; those of a row are in the row's block.
struct SpreadDeltas { real* mine; int own, n_columns; };

__device__ void load_deltas(
    const SpreadDeltas& deltas, int first, int rows, Tile tile, Sizes, real* to)
{
    for (int e = threadIdx.x; e < rows * TILE_WIDTH; e += blockDim.x) {
        const int row = first + e / TILE_WIDTH, h = e % TILE_WIDTH;
        const int place = (row / CLUSTER * deltas.n_columns + deltas.own) * TILE_WIDTH + h;
        to[e] = h < tile.n_h ? of_rank(deltas.mine, row % CLUSTER)[place] : (real)0;
    }
}

// Part 2, first half: the block's rows among TILE_ROWS of the batch from `first` on.
__device__ void sum_units(
    int first, int rows, int down, const Part& part, Sizes size, int activation, uint32 mask_step,
    const Masks& masks, const Own& own)
{
    const int n = (rows - part.rank + CLUSTER - 1) / CLUSTER;
    for (int e = threadIdx.x; e < n * part.n_columns * TILE_WIDTH; e += blockDim.x) {
        const int h = e % TILE_WIDTH, column = e / TILE_WIDTH % part.n_columns;
        const int row = part.rank + e / TILE_WIDTH / part.n_columns * CLUSTER;
        const int unit = column_of(column, part) * TILE_WIDTH + h;
        if (unit >= size.H)
            continue;
        real z = 0;
        for (int tile = 0; tile < down; ++tile) {
            const int slot = column * part.most_tiles + tile / CLUSTER;
            const real* theirs = of_rank(own.partial, tile % CLUSTER);
            const real term = theirs[(slot * TILE_ROWS + row) * TILE_WIDTH + h];
            z = tile ? z + term : term;
        }
        const int mine = (first + row) / CLUSTER;
        own.units[(mine * part.most_columns + column) * TILE_WIDTH + h] = unit_of(
            z + own.b1[column * TILE_WIDTH + h], activation, first + row, unit, mask_step, masks);
    }
}

// Part 2, second half: to sums (across, B, K), the units' part of the output layer, column by column.
__device__ void sum_outputs(
    const Part& part, Sizes size, real* sums, const Own& own, const Shared& shared)
{
    const int n = part.n_rows * part.n_columns * size.K;
    for (int base = 0; base < n; base += blockDim.x / LANES) {
        const int number = base + threadIdx.x / LANES, k = number % size.K;
        const int column = number / size.K % part.n_columns;
        const int mine = number / size.K / part.n_columns, across = column_of(column, part);
        const int n_h = number < n ? at_most(size.H - across * TILE_WIDTH, TILE_WIDTH) : 0;
        const real* units = own.units + (mine * part.most_columns + column) * TILE_WIDTH;
        real sum = 0;
        for (int h = threadIdx.x % LANES; h < n_h; h += LANES)
            sum += units[h] * own.W2[(column * TILE_WIDTH + h) * size.K + k];
        sum = sum_of_lanes(sum, shared.lanes);
        if (threadIdx.x % LANES == 0 && number < n)
            sums[((int64)across * size.B + part.rank + mine * CLUSTER) * size.K + k] = sum;
        __syncthreads(); // before other sums take the lanes
    }
}

// Part 4: the cluster's entries of W2, and in the first cluster those of b2 behind its first column's.
__device__ void update_outputs(
    const Part& part, Sizes size, int64 at_W2, int64 at_b2, Rate rate, const Optimizer& optimizer,
    const Own& own, const Shared& shared)
{
    const int at_once = blockDim.x / LANES, K = size.K;
    for (int column = 0; column < part.n_columns; ++column) {
        const int first_h = column_of(column, part) * TILE_WIDTH;
        const int n_h = at_most(size.H - first_h, TILE_WIDTH), n = (n_h + (first_h == 0)) * K;
        for (int base = part.rank * at_once; base < n; base += CLUSTER * at_once) {
            // Entry h·K + k: of W2, or where h = n_h, of b2.
            const int e = base + threadIdx.x / LANES, h = e / K, k = e % K;
            real sum = 0;
            for (int row = threadIdx.x % LANES; row < size.B && e < n; row += LANES) {
                const int rank = row % CLUSTER, theirs = row / CLUSTER;
                const real error = of_rank(shared.logits, rank)[theirs * K + k];
                const int unit = (theirs * part.most_columns + column) * TILE_WIDTH + h;
                sum += h < n_h ? of_rank(own.units, rank)[unit] * error : error;
            }
            sum = sum_of_lanes(sum, shared.lanes);
            if (threadIdx.x % LANES == 0 && e < n) {
                const bool is_weight = h < n_h;
                real* mine = is_weight ? own.W2 + (column * TILE_WIDTH + h) * K + k : own.b2 + k;
                const int64 at = is_weight ? at_W2 + (int64)(first_h + h) * K + k : at_b2 + k;
                take_step(mine, at, sum, is_weight, rate, optimizer);
                tell_all(mine);
            }
            __syncthreads(); // before other sums take the lanes
        }
    }
}

// --------------------------------------------------------------------------------- cluster_steps
// As persistent_steps, but for what the blocks exchange, all written before it is read:
//   sums               (2, across, B, K): of even and of odd steps
//   biases             (2, K)
KERNEL OF_CLUSTERS cluster_steps(
    const real* x, real* theta, real* slot1, real* slot2, int64 at_W2, int64 at_b1, int64 at_b2, int D,
    int H, int K, int B, int64 n_batches, int64 first, int64 batch, int depth, int held,
    int activation, int output, int optimizer_kind, const real* rates, real l2, real c1, real c2,
    real c3, real c4, const int64* labels, const real* y, const real* w, const int64* rows, int mean,
    const double* batch_weights, double* losses, double* correct, const uint32* steps,
    uint32 seed_low, uint32 seed_high, uint64 threshold, real scale, real unscale, real* sums,
    real* biases, uint32* barrier)
{
    DYNAMIC_SHARED(memory);
    const Sizes size = {B, D, H, K, depth};
    const int down = parts_of(D, depth), across = parts_of(H, TILE_WIDTH);
    const int n_clusters = at_most(gridDim.x / CLUSTER, across), rank = cluster_rank();
    const Part part = {
        rank,
        (int)(blockIdx.x / CLUSTER),
        n_clusters,
        parts_of(across - (int)(blockIdx.x / CLUSTER), n_clusters),
        parts_of(across, n_clusters),
        parts_of(down, CLUSTER),
        (B - rank + CLUSTER - 1) / CLUSTER};
    if (cluster_size() != CLUSTER || gridDim.x != n_clusters * CLUSTER ||
        held != part.most_columns * part.most_tiles) {
        refuse(losses + first, n_batches * B);
        return;
    }
    const Shared shared = carve(memory, size, held, parts_of(B, CLUSTER));
    const Own own = carve_own(shared.rest, part, size, held);
    const Optimizer optimizer = {optimizer_kind, slot1, slot2, l2, c1, c2, c3, c4};
    const Masks masks = {steps, seed_low, seed_high, threshold, scale, unscale};
    const Answers answers = {labels, y, w, rows, mean, batch_weights, losses, correct};
    const int tile_size = depth * TILE_WIDTH;

    for (int column = 0; column < part.n_columns; ++column) {
        const int number = column_of(column, part), first_h = number * TILE_WIDTH;
        const int n_h = at_most(H - first_h, TILE_WIDTH);
        for (int j = rank, slot = column * part.most_tiles; j < down; j += CLUSTER, ++slot)
            load_tile(theta, tile_at(j, number, size), size, shared.tiles + slot * tile_size);
        for (int e = threadIdx.x; e < n_h * K; e += blockDim.x)
            own.W2[column * TILE_WIDTH * K + e] = theta[at_W2 + (int64)first_h * K + e];
        for (int h = threadIdx.x; h < n_h; h += blockDim.x)
            own.b1[column * TILE_WIDTH + h] = theta[at_b1 + first_h + h];
    }
    for (int k = threadIdx.x; k < K; k += blockDim.x)
        own.b2[k] = theta[at_b2 + k];
    // What part 1 has put into shared.x is still there in part 4, where it is all.
    const bool keeps_x = B <= TILE_ROWS && held == 1;

    for (int64 step = batch; step < batch + n_batches; ++step) {
        const Rows mine = {first + rank, CLUSTER, part.n_rows};
        find_answers(mine, answers, shared);
        const uint32 mask_step = steps ? steps[step] : 0;
        for (int from = 0; from < B; from += TILE_ROWS) {
            const int n = at_most(B - from, TILE_ROWS);
            if (from)
                CLUSTER_BARRIER(); // before other terms take the place of those that are being summed
            for (int column = 0; column < part.n_columns; ++column)
                for (int j = rank, slot = column * part.most_tiles; j < down; j += CLUSTER, ++slot)
                    multiply_tile(
                        x + (int64)from * D, tile_at(j, column_of(column, part), size),
                        shared.tiles + slot * tile_size, size, n,
                        own.partial + slot * TILE_ROWS * TILE_WIDTH, TILE_WIDTH, shared);
            CLUSTER_BARRIER();
            sum_units(from, n, down, part, size, activation, mask_step, masks, own);
        }
        __syncthreads();
        real* sums_now = sums + step % 2 * across * B * K;
        real* biases_now = biases + step % 2 * K;
        sum_outputs(part, size, sums_now, own, shared);
        for (int k = threadIdx.x; blockIdx.x == 0 && k < K; k += blockDim.x)
            biases_now[k] = own.b2[k];
        if (n_clusters == 1)
            CLUSTER_BARRIER();
        else
            GRID_BARRIER(barrier);

        for (int e = threadIdx.x; e < part.n_rows * K; e += blockDim.x) {
            const int64 at = (int64)(rank + e / K * CLUSTER) * K + e % K;
            real sum = sums_now[at];
            for (int i = 1; i < across; ++i)
                sum += sums_now[(int64)i * B * K + at];
            shared.logits[e] = sum + biases_now[e % K];
        }
        __syncthreads();
        const real delta_scale = batch_scale(mean, batch_weights, step, B);
        compare_rows(output, mine, delta_scale, K, part.cluster == 0, answers, shared);
        __syncthreads();
        for (int e = threadIdx.x; e < part.n_rows * part.n_columns * TILE_WIDTH; e += blockDim.x) {
            const int h = e % TILE_WIDTH, column = e / TILE_WIDTH % part.n_columns;
            const int i = e / TILE_WIDTH / part.n_columns, number = column_of(column, part);
            const int unit = number * TILE_WIDTH + h;
            if (unit >= H)
                continue;
            real above = 0;
            for (int k = 0; k < K; ++k)
                above += shared.logits[i * K + k] * own.W2[(column * TILE_WIDTH + h) * K + k];
            const int place = (i * part.most_columns + column) * TILE_WIDTH + h;
            own.deltas[place] = delta_of(
                above, own.units[place], activation, rank + i * CLUSTER, unit, mask_step, masks);
        }
        CLUSTER_BARRIER();

        const Rate rate = rate_of(rates, step);
        for (int column = 0; column < part.n_columns; ++column) {
            const SpreadDeltas deltas = {own.deltas, column, part.most_columns};
            real* b1 = own.b1 + column * TILE_WIDTH;
            for (int j = rank, slot = column * part.most_tiles; j < down; j += CLUSTER, ++slot) {
                const Tile tile = tile_at(j, column_of(column, part), size);
                update_tile(
                    x, keeps_x, deltas, tile, shared.tiles + slot * tile_size, b1,
                    at_b1 + tile.first_h, size, rate, optimizer, shared);
                // Each by the thread that has updated it.
                for (int h = threadIdx.x; tile.down == 0 && h < tile.n_h; h += blockDim.x)
                    tell_all(b1 + h);
            }
        }
        update_outputs(part, size, at_W2, at_b2, rate, optimizer, own, shared);
        x += (int64)B * D;
        first += B;
    }
    CLUSTER_BARRIER(); // before what has been told is stored, and before any block ends
    for (int column = 0; column < part.n_columns; ++column) {
        const int number = column_of(column, part), first_h = number * TILE_WIDTH;
        const int n_h = at_most(H - first_h, TILE_WIDTH);
        for (int j = rank, slot = column * part.most_tiles; j < down; j += CLUSTER, ++slot)
            store_tile(shared.tiles + slot * tile_size, tile_at(j, number, size), size, theta);
        for (int e = threadIdx.x; rank == 0 && e < n_h * K; e += blockDim.x)
            theta[at_W2 + (int64)first_h * K + e] = own.W2[column * TILE_WIDTH * K + e];
        for (int h = threadIdx.x; rank == 0 && h < n_h; h += blockDim.x)
            theta[at_b1 + first_h + h] = own.b1[column * TILE_WIDTH + h];
    }
    for (int k = threadIdx.x; blockIdx.x == 0 && k < K; k += blockDim.x)
        theta[at_b2 + k] = own.b2[k];
}
