// The GPU kernels: the formulas of fusedmlp_numpy/kernels.py, one kernel each, under the same names.
//
// This file is not a library: it includes nothing, allocates nothing and knows no network. Behind
// common.cu and formulas.cu it is compiled at run time by NVRTC, once for each floating type, with
// -DREAL=float or -DREAL=double. kernels.py says with which grids and blocks the kernels run, and
// engine.py in which order. The matrix products are those of products.cu, and cuBLAS's.
//
// Shapes follow the legend in fusedmlp/types.py, arrays are in C order. Rules that hold throughout:
// - Loops stride over the grid, so that any grid is right, and a larger problem needs no new one.
// - Sums run in an order fixed by the shapes, without atomics: the same inputs give the same bits.
// - Every thread of a block reaches every __syncthreads(): rows beyond B take part and write nothing.
// - A NaN must reach the loss. fmax, fmin and (z > 0 ? z : 0) would swallow it.
//
// Arguments that many kernels share:
//   cursor       what first and batch are counted from: see common.cu
//   rows, first  row i of the batch is row rows[first + i] of the data set, or row first + i where
//                rows is null; losses and correct are written at first + i
//   batch        number of the batch in this call: an index into rates, steps and batch_weights

// ---------------------------------------------------------------------------------- gather_rows
// out (B, D) = x[rows] in real; uint8 pixels become x / 255 by a rounded division, as on the host
// (a product with 1/255 would differ in the last bit); CSR rows become dense.

template <typename Stored>
__device__ void gather_dense(
    const Stored* x, const int64* rows, int64 first, int B, int D, real divisor, real* out)
{
    for (int row = blockIdx.x; row < B; row += gridDim.x) {
        const Stored* from = x + source_row(rows, first, row) * D;
        real* to = out + (int64)row * D;
        for (int d = blockIdx.y * blockDim.x + threadIdx.x; d < D; d += gridDim.y * blockDim.x)
            to[d] = divisor == (real)1 ? (real)from[d] : (real)from[d] / divisor;
    }
}

KERNEL gather_rows_uint8(
    const uint8* x, const int64* rows, const int64* cursor, int64 first, int B, int D, real* out)
{
    first += rows_before(cursor);
    gather_dense(x, rows, first, B, D, (real)255, out);
}

KERNEL gather_rows_float32(
    const float* x, const int64* rows, const int64* cursor, int64 first, int B, int D, real* out)
{
    first += rows_before(cursor);
    gather_dense(x, rows, first, B, D, (real)1, out);
}

KERNEL gather_rows_float64(
    const double* x, const int64* rows, const int64* cursor, int64 first, int B, int D, real* out)
{
    first += rows_before(cursor);
    gather_dense(x, rows, first, B, D, (real)1, out);
}

// A block takes a row at a time: zeros first, then the stored values, whose columns are distinct
// (canonical CSR), so that no two threads write one place between the same two barriers.
template <typename Stored>
__device__ void gather_sparse(
    const int64* indptr, const int* indices, const Stored* values, const int64* rows, int64 first,
    int B, int D, real* out)
{
    for (int row = blockIdx.x; row < B; row += gridDim.x) {
        const int64 from = source_row(rows, first, row);
        real* to = out + (int64)row * D;
        for (int d = threadIdx.x; d < D; d += blockDim.x)
            to[d] = 0;
        __syncthreads();
        for (int64 i = indptr[from] + threadIdx.x; i < indptr[from + 1]; i += blockDim.x)
            to[indices[i]] = (real)values[i];
    }
}

KERNEL gather_rows_csr_float32(
    const int64* indptr, const int* indices, const float* values, const int64* rows,
    const int64* cursor, int64 first, int B, int D, real* out)
{
    first += rows_before(cursor);
    gather_sparse(indptr, indices, values, rows, first, B, D, out);
}

KERNEL gather_rows_csr_float64(
    const int64* indptr, const int* indices, const double* values, const int64* rows,
    const int64* cursor, int64 first, int B, int D, real* out)
{
    first += rows_before(cursor);
    gather_sparse(indptr, indices, values, rows, first, B, D, out);
}

// --------------------------------------------------------------------------------- dropout_mask
// A mask, written for comparison only.

// out (B, H): 1 where the unit is kept.
KERNEL dropout_mask(
    uint8* out, int B, int H, const uint32* steps, const int64* cursor, int64 batch, uint32 layer,
    uint32 seed_low, uint32 seed_high, uint64 threshold)
{
    batch += batches_before(cursor);
    const uint32 step = steps[batch];
    for (int row = blockIdx.x; row < B; row += gridDim.x)
        for (int g = blockIdx.y * blockDim.x + threadIdx.x; 4 * g < H; g += gridDim.y * blockDim.x) {
            const uint32 kept = kept_units(g, row, step, layer, seed_low, seed_high, threshold);
            for (int h = 4 * g; h < H && h < 4 * g + 4; ++h)
                out[(int64)row * H + h] = (kept >> (h - 4 * g)) & 1;
        }
}

// ------------------------------------------------------------------------------ bias_activation
// z (B, H) <- f(z + b), in place.

KERNEL bias_activation(real* z, const real* b, int B, int H, int activation)
{
    for (int row = blockIdx.x; row < B; row += gridDim.x)
        for (int h = blockIdx.y * blockDim.x + threadIdx.x; h < H; h += gridDim.y * blockDim.x) {
            real* at = z + (int64)row * H + h;
            *at = activation_of(*at + b[h], activation);
        }
}

// The same, then the mask: silenced units become 0, kept ones are multiplied by scale = 1/(1 - p).
KERNEL bias_activation_dropout(
    real* z, const real* b, int B, int H, int activation, const uint32* steps, const int64* cursor,
    int64 batch, uint32 layer, uint32 seed_low, uint32 seed_high, uint64 threshold, real scale)
{
    batch += batches_before(cursor);
    const uint32 step = steps[batch];
    for (int row = blockIdx.x; row < B; row += gridDim.x)
        for (int g = blockIdx.y * blockDim.x + threadIdx.x; 4 * g < H; g += gridDim.y * blockDim.x) {
            const uint32 kept = kept_units(g, row, step, layer, seed_low, seed_high, threshold);
            for (int h = 4 * g; h < H && h < 4 * g + 4; ++h) {
                real* at = z + (int64)row * H + h;
                const real mask = (real)((kept >> (h - 4 * g)) & 1);
                *at = activation_of(*at + b[h], activation) * mask * scale;
            }
        }
}

// --------------------------------------------------------------------------------- hidden_delta
// delta (B, H) <- delta * f'(z), in place, with f' from the activation's own value a = f(z).

KERNEL hidden_delta(real* delta, const real* a, int B, int H, int activation)
{
    for (int row = blockIdx.x; row < B; row += gridDim.x)
        for (int h = blockIdx.y * blockDim.x + threadIdx.x; h < H; h += gridDim.y * blockDim.x) {
            const int64 i = (int64)row * H + h;
            delta[i] *= derivative_from(a[i], activation);
        }
}

// The same behind dropout: a holds f(z)·scale where kept, so f(z) is a·unscale with unscale = 1 - p;
// where silenced, the mask makes delta 0 whatever a is.
KERNEL hidden_delta_dropout(
    real* delta, const real* a, int B, int H, int activation, const uint32* steps,
    const int64* cursor, int64 batch, uint32 layer, uint32 seed_low, uint32 seed_high,
    uint64 threshold, real scale, real unscale)
{
    batch += batches_before(cursor);
    const uint32 step = steps[batch];
    for (int row = blockIdx.x; row < B; row += gridDim.x)
        for (int g = blockIdx.y * blockDim.x + threadIdx.x; 4 * g < H; g += gridDim.y * blockDim.x) {
            const uint32 kept = kept_units(g, row, step, layer, seed_low, seed_high, threshold);
            for (int h = 4 * g; h < H && h < 4 * g + 4; ++h) {
                const int64 i = (int64)row * H + h;
                const real mask = (real)((kept >> (h - 4 * g)) & 1);
                delta[i] = delta[i] * mask * scale * derivative_from(a[i] * unscale, activation);
            }
        }
}

// ------------------------------------------------------------- sums along rows, for the outputs
// The output kernels run in blocks of ROW_LANES x ROWS_PER_BLOCK threads: threadIdx.y picks a row,
// lane threadIdx.x takes its columns lane, lane + ROW_LANES, … and trees join the lanes.

template <typename T>
__device__ T row_sum(T value)
{
    __shared__ T lanes[ROWS_PER_BLOCK][ROW_LANES];
    T* mine = lanes[threadIdx.y];
    const int lane = threadIdx.x;
    mine[lane] = value;
    for (int half = ROW_LANES / 2; half > 0; half /= 2) {
        __syncthreads();
        if (lane < half)
            mine[lane] += mine[lane + half];
    }
    __syncthreads();
    const T total = mine[0];
    __syncthreads(); // the next sum reuses the lanes
    return total;
}

__device__ Largest row_largest(Largest value)
{
    __shared__ Largest lanes[ROWS_PER_BLOCK][ROW_LANES];
    Largest* mine = lanes[threadIdx.y];
    const int lane = threadIdx.x;
    mine[lane] = value;
    for (int half = ROW_LANES / 2; half > 0; half /= 2) {
        __syncthreads();
        if (lane < half)
            mine[lane] = larger(mine[lane], mine[lane + half]);
    }
    __syncthreads();
    const Largest result = mine[0];
    __syncthreads();
    return result;
}

// ------------------------------------------------------------------------ softmax_cross_entropy
// z (B, K), the product a·W, becomes the delta (softmax(z + b) - onehot(y))·w·scale.
KERNEL softmax_cross_entropy(
    real* z, const real* b, const int64* y, const real* w, const int64* rows, const int64* cursor,
    int64 first, int64 batch, int B, int K, int mean, const double* batch_weights, double* losses,
    double* correct)
{
    first += rows_before(cursor);
    batch += batches_before(cursor);
    const real scale = batch_scale(mean, batch_weights, batch, B);
    for (int base = blockIdx.x * ROWS_PER_BLOCK; base < B; base += gridDim.x * ROWS_PER_BLOCK) {
        const int row = base + threadIdx.y;
        const int columns = row < B ? K : 0;
        real* z_row = z + (int64)row * K;

        Largest largest = {0, -1};
        for (int k = threadIdx.x; k < columns; k += ROW_LANES) {
            z_row[k] += b[k];
            largest = larger(largest, Largest{z_row[k], k});
        }
        largest = row_largest(largest);

        const int64 source = row < B ? source_row(rows, first, row) : 0;
        const int64 label = row < B ? y[source] : -1;
        const real weight = row < B && w ? w[source] : (real)1;
        real z_label = 0, total = 0;
        for (int k = threadIdx.x; k < columns; k += ROW_LANES) {
            if (k == label)
                z_label = z_row[k];
            z_row[k] = exponential(z_row[k] - largest.value);
            total += z_row[k];
        }
        total = row_sum(total);

        for (int k = threadIdx.x; k < columns; k += ROW_LANES) {
            const real probability = z_row[k] / total;
            z_row[k] = (probability - (real)(k == label)) * weight * scale;
            if (k == label) { // only this lane has seen z[y]
                const double loss = softmax_loss(total, largest.value, z_label);
                losses[first + row] = capped(loss) * (double)weight;
                correct[first + row] = largest.column == label ? (double)weight : 0.0;
            }
        }
    }
}

// ------------------------------------------------------------------------ sigmoid_cross_entropy
// z (B, K) becomes (sigmoid(z + b) - y)·w·scale; y (N, K) zeros and ones. A row's loss is the sum of
// its labels', and a row is right if all K are.
KERNEL sigmoid_cross_entropy(
    real* z, const real* b, const real* y, const real* w, const int64* rows, const int64* cursor,
    int64 first, int64 batch, int B, int K, int mean, const double* batch_weights, double* losses,
    double* correct)
{
    first += rows_before(cursor);
    batch += batches_before(cursor);
    const real scale = batch_scale(mean, batch_weights, batch, B);
    for (int base = blockIdx.x * ROWS_PER_BLOCK; base < B; base += gridDim.x * ROWS_PER_BLOCK) {
        const int row = base + threadIdx.y;
        const int columns = row < B ? K : 0;
        const int64 source = row < B ? source_row(rows, first, row) : 0;
        const real weight = row < B && w ? w[source] : (real)1;

        double loss = 0;
        int wrong = 0;
        for (int k = threadIdx.x; k < columns; k += ROW_LANES) {
            real* at = z + (int64)row * K + k;
            const real logit = *at + b[k], label = y[source * K + k];
            loss += sigmoid_loss(logit, label);
            wrong += is_wrong(logit, label);
            *at = (logistic(logit) - label) * weight * scale;
        }
        loss = row_sum(loss);
        wrong = row_sum(wrong);
        if (row < B && threadIdx.x == 0) {
            losses[first + row] = capped(loss) * (double)weight;
            correct[first + row] = wrong == 0 ? (double)weight : 0.0;
        }
    }
}

// -------------------------------------------------------------------------------- squared_error
// z (B, K) becomes (z + b - y)·w·scale; a row's loss is half the sum of squares of z + b - y.
KERNEL squared_error(
    real* z, const real* b, const real* y, const real* w, const int64* rows, const int64* cursor,
    int64 first, int64 batch, int B, int K, int mean, const double* batch_weights, double* losses,
    double* correct)
{
    first += rows_before(cursor);
    batch += batches_before(cursor);
    const real scale = batch_scale(mean, batch_weights, batch, B);
    for (int base = blockIdx.x * ROWS_PER_BLOCK; base < B; base += gridDim.x * ROWS_PER_BLOCK) {
        const int row = base + threadIdx.y;
        const int columns = row < B ? K : 0;
        const int64 source = row < B ? source_row(rows, first, row) : 0;
        const real weight = row < B && w ? w[source] : (real)1;

        double squares = 0;
        for (int k = threadIdx.x; k < columns; k += ROW_LANES) {
            real* at = z + (int64)row * K + k;
            const real error = *at + b[k] - y[source * K + k];
            squares += (double)error * (double)error;
            *at = error * weight * scale;
        }
        squares = row_sum(squares);
        if (row < B && threadIdx.x == 0) {
            losses[first + row] = capped(0.5 * squares) * (double)weight;
            correct[first + row] = 0.0;
        }
    }
}

// ----------------------------------------------------------------------------- poisson_deviance
// z (B, K) becomes (e^z - y)·w·scale, z with its bias; y (N, K) is at least 0. A row's loss is the sum
// of its targets'.
KERNEL poisson_deviance(
    real* z, const real* b, const real* y, const real* w, const int64* rows, const int64* cursor,
    int64 first, int64 batch, int B, int K, int mean, const double* batch_weights, double* losses,
    double* correct)
{
    first += rows_before(cursor);
    batch += batches_before(cursor);
    const real scale = batch_scale(mean, batch_weights, batch, B);
    for (int base = blockIdx.x * ROWS_PER_BLOCK; base < B; base += gridDim.x * ROWS_PER_BLOCK) {
        const int row = base + threadIdx.y;
        const int columns = row < B ? K : 0;
        const int64 source = row < B ? source_row(rows, first, row) : 0;
        const real weight = row < B && w ? w[source] : (real)1;

        double loss = 0;
        for (int k = threadIdx.x; k < columns; k += ROW_LANES) {
            real* at = z + (int64)row * K + k;
            const real logit = *at + b[k], target = y[source * K + k];
            loss += poisson_loss(logit, target);
            *at = (exponential(logit) - target) * weight * scale;
        }
        loss = row_sum(loss);
        if (row < B && threadIdx.x == 0) {
            losses[first + row] = capped(loss) * (double)weight;
            correct[first + row] = 0.0;
        }
    }
}

// ---------------------------------------------------------------------------- output_activation
// z (B, K), the product a·W, becomes the network's outputs from z + b.
KERNEL output_activation(real* z, const real* b, int B, int K, int output)
{
    for (int base = blockIdx.x * ROWS_PER_BLOCK; base < B; base += gridDim.x * ROWS_PER_BLOCK) {
        const int row = base + threadIdx.y;
        const int columns = row < B ? K : 0;
        real* z_row = z + (int64)row * K;

        Largest largest = {0, -1};
        for (int k = threadIdx.x; k < columns; k += ROW_LANES) {
            z_row[k] += b[k];
            largest = larger(largest, Largest{z_row[k], k});
        }
        if (output == OUTPUT_SIGMOID)
            for (int k = threadIdx.x; k < columns; k += ROW_LANES)
                z_row[k] = logistic(z_row[k]);
        else if (output == OUTPUT_EXP)
            for (int k = threadIdx.x; k < columns; k += ROW_LANES)
                z_row[k] = exponential(z_row[k]);
        if (output != OUTPUT_SOFTMAX)
            continue; // the same for every thread: no barrier is skipped by some

        largest = row_largest(largest);
        real total = 0;
        for (int k = threadIdx.x; k < columns; k += ROW_LANES) {
            z_row[k] = exponential(z_row[k] - largest.value);
            total += z_row[k];
        }
        total = row_sum(total);
        for (int k = threadIdx.x; k < columns; k += ROW_LANES)
            z_row[k] /= total;
    }
}

// -------------------------------------------------------------------------------- bias_gradient
// db (H,) = Σ over rows of delta (B, H). Lane threadIdx.y of a column adds the rows lane,
// lane + COLUMN_DEPTH, … in order; a tree joins the lanes.
KERNEL bias_gradient(const real* delta, int B, int H, real* db)
{
    __shared__ real lanes[COLUMN_DEPTH][COLUMN_LANES];
    const int x = threadIdx.x, lane = threadIdx.y;
    for (int base = blockIdx.x * COLUMN_LANES; base < H; base += gridDim.x * COLUMN_LANES) {
        const int h = base + x;
        real sum = 0;
        if (h < H)
            for (int row = lane; row < B; row += COLUMN_DEPTH)
                sum += delta[(int64)row * H + h];
        lanes[lane][x] = sum;
        for (int half = COLUMN_DEPTH / 2; half > 0; half /= 2) {
            __syncthreads();
            if (lane < half)
                lanes[lane][x] += lanes[lane + half][x];
        }
        if (lane == 0 && h < H)
            db[h] = lanes[0][x];
        __syncthreads(); // the next columns reuse the lanes
    }
}

// ----------------------------------------------------------------------------------- batch sums
// One block a batch, all batches of a call in one launch: thread t adds the rows t,
// t + SUM_THREADS, … of its batch in order; a tree joins the threads.

__device__ double block_sum(double value)
{
    __shared__ double lanes[SUM_THREADS];
    const int lane = threadIdx.x;
    lanes[lane] = value;
    for (int half = SUM_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (lane < half)
            lanes[lane] += lanes[lane + half];
    }
    __syncthreads();
    const double total = lanes[0];
    __syncthreads();
    return total;
}

// out (n_batches,) = Σ w over each batch of n rows cut into batches of batch_size.
KERNEL batch_weights(const real* w, const int64* rows, int64 n, int batch_size, double* out)
{
    for (int64 batch = blockIdx.x; batch * batch_size < n; batch += gridDim.x) {
        const int64 begin = batch * batch_size;
        const int64 end = begin + batch_size < n ? begin + batch_size : n;
        double sum = 0;
        for (int64 i = begin + threadIdx.x; i < end; i += SUM_THREADS)
            sum += (double)w[rows ? rows[i] : i];
        sum = block_sum(sum);
        if (threadIdx.x == 0)
            out[batch] = sum;
    }
}

// The rows' losses and correct (n,) summed over each batch: loss_sums, correct_sums (n_batches,).
KERNEL batch_sums(
    const double* losses, const double* correct, int64 n, int batch_size, double* loss_sums,
    double* correct_sums)
{
    for (int64 batch = blockIdx.x; batch * batch_size < n; batch += gridDim.x) {
        const int64 begin = batch * batch_size;
        const int64 end = begin + batch_size < n ? begin + batch_size : n;
        double loss = 0, right = 0;
        for (int64 i = begin + threadIdx.x; i < end; i += SUM_THREADS) {
            loss += losses[i];
            right += correct[i];
        }
        loss = block_sum(loss);
        right = block_sum(right);
        if (threadIdx.x == 0) {
            loss_sums[batch] = loss;
            correct_sums[batch] = right;
        }
    }
}

// ------------------------------------------------------------------------------- advance_cursor
// The only kernel that writes a cursor: adds to it, or sets it, which begins a call.
KERNEL advance_cursor(int64* cursor, int64 batches, int64 rows, int restart)
{
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        cursor[CURSOR_BATCHES] = (restart ? 0 : cursor[CURSOR_BATCHES]) + batches;
        cursor[CURSOR_ROWS] = (restart ? 0 : cursor[CURSOR_ROWS]) + rows;
    }
}

// -------------------------------------------------------------------------------------- updates
// All parameters of the network lie in one array of n, the first n_weights of them weights: one
// launch updates them all. The L2 gradient l2·W and AdamW's decay are for those first ones only.
// Steps and rates are formulas.cu's.

// gradient[:n_weights] += l2·theta: for callers who want the gradient itself.
KERNEL l2_gradient(real* gradient, const real* theta, int64 n_weights, real l2)
{
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < n_weights; i += stride)
        gradient[i] += l2 * theta[i];
}

KERNEL sgd(
    real* theta, const real* gradient, int64 n, int64 n_weights, const real* rates,
    const int64* cursor, int64 batch, real l2)
{
    const Rate rate = rate_of(rates, batch + batches_before(cursor));
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < n; i += stride)
        sgd_step(theta + i, penalised(gradient[i], theta[i], i < n_weights, l2), rate);
}

KERNEL momentum(
    real* theta, const real* gradient, real* velocity, int64 n, int64 n_weights, const real* rates,
    const int64* cursor, int64 batch, real l2, real mu)
{
    const Rate rate = rate_of(rates, batch + batches_before(cursor));
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < n; i += stride) {
        const real g = penalised(gradient[i], theta[i], i < n_weights, l2);
        momentum_step(theta + i, velocity + i, g, rate, mu);
    }
}

KERNEL nesterov(
    real* theta, const real* gradient, real* velocity, int64 n, int64 n_weights, const real* rates,
    const int64* cursor, int64 batch, real l2, real mu)
{
    const Rate rate = rate_of(rates, batch + batches_before(cursor));
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < n; i += stride) {
        const real g = penalised(gradient[i], theta[i], i < n_weights, l2);
        nesterov_step(theta + i, velocity + i, g, rate, mu);
    }
}

KERNEL adam(
    real* theta, const real* gradient, real* first_moment, real* second_moment, int64 n,
    int64 n_weights, const real* rates, const int64* cursor, int64 batch, real l2, real beta1,
    real beta2, real rest1, real rest2)
{
    const Rate rate = rate_of(rates, batch + batches_before(cursor));
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < n; i += stride) {
        const bool is_weight = i < n_weights;
        const real g = penalised(gradient[i], theta[i], is_weight, l2);
        adam_step(
            theta + i, first_moment + i, second_moment + i, g, is_weight, rate, beta1, beta2, rest1,
            rest2);
    }
}
