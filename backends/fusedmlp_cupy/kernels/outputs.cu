// The output layer: from the product a·W to the network's outputs, or to losses and the output delta.
//
// Follows kernels.cu, whose rules hold. Blocks have ROW_LANES x ROWS_PER_BLOCK threads: threadIdx.y
// picks a row, lane threadIdx.x takes its columns lane, lane + ROW_LANES, … and a tree adds the lanes.

__device__ Largest joined(Largest a, Largest b) { return larger(a, b); }
template <typename T> __device__ T joined(T a, T b) { return a + b; }

// The lanes' values joined to one, for all lanes of the row: a sum, or the largest.
template <typename T>
__device__ T row_total(T value)
{
    __shared__ T lanes[ROWS_PER_BLOCK][ROW_LANES];
    T (&mine)[ROW_LANES] = lanes[threadIdx.y];
    const int lane = threadIdx.x;
    mine[lane] = value;
    for (int half = ROW_LANES / 2; half > 0; half /= 2) {
        __syncthreads();
        if (lane < half)
            mine[lane] = joined(mine[lane], mine[lane + half]);
    }
    __syncthreads();
    const T total = mine[0];
    __syncthreads(); // before the lanes are overwritten
    return total;
}

// z (columns,) += b, and its largest value.
__device__ Largest add_bias(real* z, const real* b, int columns)
{
    Largest largest = {0, -1};
    for (int k = threadIdx.x; k < columns; k += ROW_LANES) {
        z[k] += b[k];
        largest = larger(largest, Largest{z[k], k});
    }
    return row_total(largest);
}

// z (columns,) <- e^(z - largest), and the sum of these.
__device__ real softmax_terms(real* z, int columns, real largest)
{
    real total = 0;
    for (int k = threadIdx.x; k < columns; k += ROW_LANES) {
        z[k] = exponential(z[k] - largest);
        total += z[k];
    }
    return row_total(total);
}

// ------------------------------------------------------------------------ softmax_cross_entropy
// z (B, K), the product a·W, becomes the delta (softmax(z + b) - onehot(y))·w·scale.
KERNEL softmax_cross_entropy(
    real* z, const real* b, const int64* y, const real* w, const int64* rows, const int64* cursor,
    int64 first, int64 batch, int B, int K, int mean, const double* batch_weights, double* losses,
    double* correct)
{
    first += rows_before(cursor);
    const real scale = batch_scale(mean, batch_weights, batch + batches_before(cursor), B);
    for (int base = blockIdx.x * ROWS_PER_BLOCK; base < B; base += gridDim.x * ROWS_PER_BLOCK) {
        const int row = base + threadIdx.y;
        const int columns = row < B ? K : 0;
        real* z_row = z + (int64)row * K;
        const int64 source = row < B ? source_row(rows, first, row) : 0;
        const int64 label = row < B ? y[source] : -1;
        const real weight = row < B && w ? w[source] : (real)1;

        const Largest largest = add_bias(z_row, b, columns);
        real z_label = 0;
        if (label >= 0 && label % ROW_LANES == threadIdx.x)
            z_label = z_row[label];
        const real total = softmax_terms(z_row, columns, largest.value);
        for (int k = threadIdx.x; k < columns; k += ROW_LANES) {
            z_row[k] = (z_row[k] / total - (real)(k == label)) * weight * scale;
            if (k == label) { // only this lane has read z[y]
                const double loss = softmax_loss(total, largest.value, z_label);
                losses[first + row] = capped(loss) * (double)weight;
                correct[first + row] = largest.column == label ? (double)weight : 0.0;
            }
        }
    }
}

// ---------------------------------------------- sigmoid_cross_entropy, squared_error, poisson_deviance
// z (B, K) becomes the derivative of element_loss by z + b, times w·scale; y (N, K). A row's loss is the
// sum of its elements'. Behind a sigmoid a row is right if all K labels are; otherwise none is.
template <int OUTPUT>
__device__ void elementwise_loss(
    real* z, const real* b, const real* y, const real* w, const int64* rows, int64 first, int B,
    int K, real scale, double* losses, double* correct)
{
    for (int base = blockIdx.x * ROWS_PER_BLOCK; base < B; base += gridDim.x * ROWS_PER_BLOCK) {
        const int row = base + threadIdx.y;
        const int columns = row < B ? K : 0;
        const int64 source = row < B ? source_row(rows, first, row) : 0;
        const real weight = row < B && w ? w[source] : (real)1;

        double loss = 0;
        int wrong = OUTPUT != OUTPUT_SIGMOID;
        for (int k = threadIdx.x; k < columns; k += ROW_LANES) {
            real* at = z + (int64)row * K + k;
            const real logit = *at + b[k], target = y[source * K + k];
            loss += element_loss(OUTPUT, logit, target);
            if (OUTPUT == OUTPUT_SIGMOID)
                wrong += is_wrong(logit, target);
            *at = element_error(OUTPUT, logit, target) * weight * scale;
        }
        loss = row_total(loss);
        if (OUTPUT == OUTPUT_SIGMOID)
            wrong = row_total(wrong);
        if (row < B && threadIdx.x == 0) {
            losses[first + row] = capped(loss) * (double)weight;
            correct[first + row] = wrong == 0 ? (double)weight : 0.0;
        }
    }
}

KERNEL sigmoid_cross_entropy(
    real* z, const real* b, const real* y, const real* w, const int64* rows, const int64* cursor,
    int64 first, int64 batch, int B, int K, int mean, const double* batch_weights, double* losses,
    double* correct)
{
    const real scale = batch_scale(mean, batch_weights, batch + batches_before(cursor), B);
    first += rows_before(cursor);
    elementwise_loss<OUTPUT_SIGMOID>(z, b, y, w, rows, first, B, K, scale, losses, correct);
}

KERNEL squared_error(
    real* z, const real* b, const real* y, const real* w, const int64* rows, const int64* cursor,
    int64 first, int64 batch, int B, int K, int mean, const double* batch_weights, double* losses,
    double* correct)
{
    const real scale = batch_scale(mean, batch_weights, batch + batches_before(cursor), B);
    first += rows_before(cursor);
    elementwise_loss<OUTPUT_IDENTITY>(z, b, y, w, rows, first, B, K, scale, losses, correct);
}

KERNEL poisson_deviance(
    real* z, const real* b, const real* y, const real* w, const int64* rows, const int64* cursor,
    int64 first, int64 batch, int B, int K, int mean, const double* batch_weights, double* losses,
    double* correct)
{
    const real scale = batch_scale(mean, batch_weights, batch + batches_before(cursor), B);
    first += rows_before(cursor);
    elementwise_loss<OUTPUT_EXP>(z, b, y, w, rows, first, B, K, scale, losses, correct);
}

// ---------------------------------------------------------------------------- output_activation
// z (B, K), the product a·W, becomes the network's outputs from z + b.
KERNEL output_activation(real* z, const real* b, int B, int K, int output)
{
    for (int base = blockIdx.x * ROWS_PER_BLOCK; base < B; base += gridDim.x * ROWS_PER_BLOCK) {
        const int row = base + threadIdx.y;
        const int columns = row < B ? K : 0;
        real* z_row = z + (int64)row * K;
        const Largest largest = add_bias(z_row, b, columns);
        if (output == OUTPUT_SOFTMAX) { // the same for every thread, so no barrier is missed
            const real total = softmax_terms(z_row, columns, largest.value);
            for (int k = threadIdx.x; k < columns; k += ROW_LANES)
                z_row[k] /= total;
        } else if (output == OUTPUT_SIGMOID) {
            for (int k = threadIdx.x; k < columns; k += ROW_LANES)
                z_row[k] = logistic(z_row[k]);
        } else if (output == OUTPUT_EXP) {
            for (int k = threadIdx.x; k < columns; k += ROW_LANES)
                z_row[k] = exponential(z_row[k]);
        }
    }
}

// -------------------------------------------------------------------------------- weight_squares
// out (batches, rows): the line of this batch takes Σ w² of each row of W (D, H), from entry `at` on.
KERNEL weight_squares(
    const real* W, int D, int H, const int64* cursor, int64 batch, int64 at, int64 rows, double* out)
{
    out += (batch + batches_before(cursor)) * rows + at;
    for (int base = blockIdx.x * ROWS_PER_BLOCK; base < D; base += gridDim.x * ROWS_PER_BLOCK) {
        const int row = base + threadIdx.y;
        const int columns = row < D ? H : 0;
        double sum = 0;
        for (int h = threadIdx.x; h < columns; h += ROW_LANES) {
            const double w = (double)W[(int64)row * H + h];
            sum += w * w;
        }
        sum = row_total(sum);
        if (row < D && threadIdx.x == 0)
            out[row] = sum;
    }
}

// ------------------------------------------------------------------------------------ batch sums
// One block a batch, all batches of a call in one launch: thread t adds the rows t,
// t + SUM_THREADS, … of its batch in order; a tree adds the threads.

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
    __syncthreads(); // before the lanes are overwritten
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
