// Matrix products for small networks, where a launch costs more than its arithmetic.
//
// Follows kernels.cu in the same program, whose rules hold. What surrounds a product in the network is
// fused into it: bias and activation forward, the derivative backward, the bias's gradient, and plain
// SGD's update. cuBLAS computes large products; products.py chooses.
//
// A block computes one tile of the output at a time, 8·R wide and high. Its threads form PRODUCT_SLICES
// slices of 8 x 8. Each slice adds its share of the terms, k = slice, slice + PRODUCT_SLICES, …, in
// ascending order, R x R sums to a thread in registers; then the slices are added in order. Operands
// pass through shared memory, PRODUCT_DEPTH terms at a time, where they lie k by k in either form. Terms
// beyond the end are products of two zeros.

enum { PRODUCT_EDGE = 8, PRODUCT_SLICES = 4, PRODUCT_DEPTH = 32, PRODUCT_THREADS = 256 };
enum { AS_IT_IS, TRANSPOSED };

__device__ int place_in_block() { return threadIdx.y * (PRODUCT_EDGE * PRODUCT_EDGE) + threadIdx.x; }

// chunk[k][i] = term first_k + k of line first_i + i, for an operand given as (lines, terms), or as
// (terms, lines) where it is TRANSPOSED. Neighbouring threads read neighbouring numbers.
template <int STORED, int TILE, int PADDED>
__device__ void load_chunk(
    const real* from, int n_lines, int n_terms, int first_i, int first_k, real (*chunk)[PADDED])
{
    for (int e = place_in_block(); e < TILE * PRODUCT_DEPTH; e += PRODUCT_THREADS) {
        const int i = STORED == AS_IT_IS ? e / PRODUCT_DEPTH : e % TILE;
        const int k = STORED == AS_IT_IS ? e % PRODUCT_DEPTH : e / TILE;
        const int line = first_i + i, term = first_k + k;
        const bool inside = line < n_lines && term < n_terms;
        const int64 at =
            STORED == AS_IT_IS ? (int64)line * n_terms + term : (int64)term * n_lines + line;
        chunk[k][i] = inside ? from[at] : (real)0;
    }
}

// Passes every element of a (m, k) · b (k, n) to finish_element and, with COLUMN_SUMS, every column's sum
// of b to finish_sum: overloads for each type of Finish. Either operand may be given as its transpose.
template <int R, int A_STORED, int B_STORED, bool COLUMN_SUMS, typename Finish>
__device__ void product(const real* a, const real* b, int m, int k, int n, Finish finish)
{
    enum { TILE = PRODUCT_EDGE * R, PADDED = TILE + 1 };
    __shared__ real chunk_a[PRODUCT_DEPTH][PADDED];
    __shared__ real chunk_b[PRODUCT_DEPTH][PADDED];
    __shared__ real tile[TILE][PADDED];
    __shared__ real sums[TILE];
    const int x = threadIdx.x % PRODUCT_EDGE, y = threadIdx.x / PRODUCT_EDGE;
    const int slice = threadIdx.y;
    const int tiles_across = (n + TILE - 1) / TILE, tiles_down = (m + TILE - 1) / TILE;

    for (int t = blockIdx.x; t < tiles_across * tiles_down; t += gridDim.x) {
        const int first_row = t / tiles_across * TILE, first_column = t % tiles_across * TILE;
        const bool summing = COLUMN_SUMS && first_row == 0 && y == 0;
        real mine[R][R], column[R];
        for (int i = 0; i < R; ++i) {
            column[i] = 0;
            for (int j = 0; j < R; ++j)
                mine[i][j] = 0;
        }
        for (int first = 0; first < k; first += PRODUCT_DEPTH) {
            load_chunk<A_STORED, TILE, PADDED>(a, m, k, first_row, first, chunk_a);
            // b's lines are its columns, so b in C order is the transposed form.
            load_chunk<B_STORED == AS_IT_IS ? TRANSPOSED : AS_IT_IS, TILE, PADDED>(
                b, n, k, first_column, first, chunk_b);
            __syncthreads();
            for (int term = slice; term < PRODUCT_DEPTH; term += PRODUCT_SLICES) {
                real row[R], across[R];
                for (int i = 0; i < R; ++i) {
                    row[i] = chunk_a[term][y + PRODUCT_EDGE * i];
                    across[i] = chunk_b[term][x + PRODUCT_EDGE * i];
                }
                for (int i = 0; i < R; ++i)
                    for (int j = 0; j < R; ++j)
                        mine[i][j] += row[i] * across[j];
                if (summing)
                    for (int j = 0; j < R; ++j)
                        column[j] += across[j];
            }
            __syncthreads();
        }
        for (int turn = 0; turn < PRODUCT_SLICES; ++turn) {
            if (turn == slice)
                for (int j = 0; j < R; ++j) {
                    const int at = x + PRODUCT_EDGE * j;
                    for (int i = 0; i < R; ++i) {
                        real* to = &tile[y + PRODUCT_EDGE * i][at];
                        *to = turn ? *to + mine[i][j] : mine[i][j];
                    }
                    if (summing)
                        sums[at] = turn ? sums[at] + column[j] : column[j];
                }
            __syncthreads();
        }
        for (int e = place_in_block(); e < TILE * TILE; e += PRODUCT_THREADS) {
            const int row = first_row + e / TILE, at = first_column + e % TILE;
            if (row < m && at < n)
                finish_element(finish, at, (int64)row * n + at, tile[e / TILE][e % TILE]);
        }
        if (COLUMN_SUMS && first_row == 0)
            for (int j = place_in_block(); j < TILE; j += PRODUCT_THREADS)
                if (first_column + j < n)
                    finish_sum(finish, first_column + j, sums[j]);
        // The barriers of the next tile's first chunk come before its sums.
    }
}

// ------------------------------------------------------------------------------------- product
// out (m, n) = a (m, k) · b (k, n); with a bias (n,), f of that and the bias. kept_z (m, n) takes the
// argument of f where it is not null.

struct Forward { const real* bias; real* kept_z; int activation; real* out; };

__device__ void finish_element(const Forward& to, int column, int64 at, real product)
{
    if (!to.bias)
        to.out[at] = product;
    else
        to.out[at] = activation_of(biased(product, to.bias[column], to.kept_z, at), to.activation);
}
__device__ void finish_sum(const Forward&, int, real) {}

KERNEL product_16(
    const real* a, const real* b, int m, int k, int n, const real* bias, real* kept_z, int activation,
    real* out)
{
    product<2, AS_IT_IS, AS_IT_IS, false>(a, b, m, k, n, Forward{bias, kept_z, activation, out});
}

KERNEL product_32(
    const real* a, const real* b, int m, int k, int n, const real* bias, real* kept_z, int activation,
    real* out)
{
    product<4, AS_IT_IS, AS_IT_IS, false>(a, b, m, k, n, Forward{bias, kept_z, activation, out});
}

// ---------------------------------------------------------------------- backpropagate_delta
// out (m, n) = a (m, k) · b (n, k)ᵀ, times f'(z) from saved (m, n) where it is given; see formulas.cu.

struct Backward { const real* saved; int activation; real* out; };

__device__ void finish_element(const Backward& to, int, int64 at, real delta)
{
    to.out[at] = to.saved ? backpropagated(delta, to.saved[at], to.activation) : delta;
}
__device__ void finish_sum(const Backward&, int, real) {}

KERNEL backpropagate_delta_16(
    const real* a, const real* b, int m, int k, int n, const real* saved, int activation,
    real* out)
{
    product<2, AS_IT_IS, TRANSPOSED, false>(a, b, m, k, n, Backward{saved, activation, out});
}

KERNEL backpropagate_delta_32(
    const real* a, const real* b, int m, int k, int n, const real* saved, int activation,
    real* out)
{
    product<4, AS_IT_IS, TRANSPOSED, false>(a, b, m, k, n, Backward{saved, activation, out});
}

// ------------------------------------------------------------------------------------ gradients
// dW (m, n) = a (k, m)ᵀ · delta (k, n), db (n,) = the sum of delta's rows, k of them.

struct Gradients { real* dW; real* db; };

__device__ void finish_element(const Gradients& to, int, int64 at, real gradient)
{
    to.dW[at] = gradient;
}
__device__ void finish_sum(const Gradients& to, int column, real gradient)
{
    to.db[column] = gradient;
}

KERNEL gradients_16(const real* a, const real* delta, int m, int k, int n, real* dW, real* db)
{
    product<2, TRANSPOSED, AS_IT_IS, true>(a, delta, m, k, n, Gradients{dW, db});
}

KERNEL gradients_32(const real* a, const real* delta, int m, int k, int n, real* dW, real* db)
{
    product<4, TRANSPOSED, AS_IT_IS, true>(a, delta, m, k, n, Gradients{dW, db});
}

// --------------------------------------------------------------------------------- sgd_gradients
// The same, and at once the step of plain SGD: W and b (n,) are updated, and no gradient is stored. No
// later launch of the same step may read this W.

struct Descent { real* W; real* b; Rate rate; real l2; };

__device__ void finish_element(const Descent& to, int, int64 at, real gradient)
{
    sgd_step(to.W + at, penalised(gradient, to.W[at], true, to.l2), to.rate);
}
__device__ void finish_sum(const Descent& to, int column, real gradient)
{
    sgd_step(to.b + column, gradient, to.rate);
}

KERNEL sgd_gradients_16(
    const real* a, const real* delta, int m, int k, int n, real* W, real* b, const real* rates,
    const int64* cursor, int64 batch, real l2)
{
    const Rate rate = rate_of(rates, batch + batches_before(cursor));
    product<2, TRANSPOSED, AS_IT_IS, true>(a, delta, m, k, n, Descent{W, b, rate, l2});
}

KERNEL sgd_gradients_32(
    const real* a, const real* delta, int m, int k, int n, real* W, real* b, const real* rates,
    const int64* cursor, int64 batch, real l2)
{
    const Rate rate = rate_of(rates, batch + batches_before(cursor));
    product<4, TRANSPOSED, AS_IT_IS, true>(a, delta, m, k, n, Descent{W, b, rate, l2});
}
