// Inputs and hidden layers: the kernels that gather a batch and pass through an activation.
//
// The kernels here, in outputs.cu and in updates.cu have the names and the formulas of
// fusedmlp/reference. These files are no library: they include nothing, allocate nothing and
// know no network. NVRTC compiles them at run time, behind formulas.cu, once for each floating type, and
// once more in strict mode. launches.py chooses grids and blocks. Matrix products are in products.cu,
// in strict.cu and cuBLAS's.
//
// Shapes follow the legend in fusedmlp/types.py; arrays are in C order. Rules for all kernels:
// - Loops stride over the grid, so that every grid is right.
// - The shapes fix the order of every sum, without atomics: the same inputs give the same bits.
// - Every thread of a block reaches every __syncthreads(): rows beyond B take part and write nothing.
// - NaN must reach the loss. fmax, fmin and (z > 0 ? z : 0) would lose it.
//
// Arguments that many kernels share:
//   cursor       what first and batch are relative to: see common.cu
//   rows, first  row i of the batch is row rows[first + i] of the data set, or row first + i where
//                rows is null; losses and correct are written at first + i
//   batch        number of the batch in this call: an index into rates, steps and batch_weights

// body(i) for each i < n.
template <typename Body>
__device__ void for_each(int64 n, Body body)
{
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < n; i += stride)
        body(i);
}

// body(row, column) for each element: blockIdx.x picks rows, the other indices columns.
template <typename Body>
__device__ void for_elements(int rows, int columns, Body body)
{
    for (int row = blockIdx.x; row < rows; row += gridDim.x)
        for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < columns; i += gridDim.y * blockDim.x)
            body(row, i);
}

// ---------------------------------------------------------------------------------- gather_rows
// out (B, D) = x[rows] in real. uint8 pixels become x / 255 by a rounded division, as on the host (a
// product with 1/255 would differ in the last bit). CSR rows become dense.

template <typename Stored>
__device__ void gather_dense(
    const Stored* x, const int64* rows, int64 first, int B, int D, real* out)
{
    for_elements(B, D, [=](int row, int d) {
        assign(out[(int64)row * D + d], x[source_row(rows, first, row) * D + d]);
    });
}

KERNEL gather_rows_uint8(
    const uint8* x, const int64* rows, const int64* cursor, int64 first, int B, int D, real* out)
{
    first += rows_before(cursor);
    for_elements(B, D, [=](int row, int d) {
        out[(int64)row * D + d] = (real)(int)x[source_row(rows, first, row) * D + d] / (real)255;
    });
}

KERNEL gather_rows_float32(
    const float* x, const int64* rows, const int64* cursor, int64 first, int B, int D, real* out)
{
    gather_dense(x, rows, first + rows_before(cursor), B, D, out);
}

KERNEL gather_rows_float64(
    const double* x, const int64* rows, const int64* cursor, int64 first, int B, int D, real* out)
{
    gather_dense(x, rows, first + rows_before(cursor), B, D, out);
}

// A block takes a row at a time: zeros first, then the stored values. Their columns are distinct
// (canonical CSR), so that no two threads write one element between the same two barriers.
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
            assign(to[indices[i]], values[i]);
    }
}

KERNEL gather_rows_csr_float32(
    const int64* indptr, const int* indices, const float* values, const int64* rows,
    const int64* cursor, int64 first, int B, int D, real* out)
{
    gather_sparse(indptr, indices, values, rows, first + rows_before(cursor), B, D, out);
}

KERNEL gather_rows_csr_float64(
    const int64* indptr, const int* indices, const double* values, const int64* rows,
    const int64* cursor, int64 first, int B, int D, real* out)
{
    gather_sparse(indptr, indices, values, rows, first + rows_before(cursor), B, D, out);
}

// -------------------------------------------------------------------------------------- dropout

// body(row, h, mask) for each hidden unit, with mask 1 where it is kept and 0 where not.
template <typename Body>
__device__ void for_masked(
    int B, int H, uint32 step, uint32 layer, uint32 seed_low, uint32 seed_high, uint64 threshold,
    Body body)
{
    for_elements(B, (H + 3) / 4, [=](int row, int group) {
        const uint32 kept = kept_units(group, row, step, layer, seed_low, seed_high, threshold);
        for (int h = 4 * group; h < H && h < 4 * group + 4; ++h)
            body(row, h, (int)((kept >> (h - 4 * group)) & 1));
    });
}

// ------------------------------------------------------------------------------ bias_activation
// z (B, H) <- f(z + b), in place. kept_z (B, H) takes z + b where it is not null.

__device__ real biased(real product, real bias, real* kept_z, int64 i)
{
    const real z = product + bias;
    if (kept_z)
        kept_z[i] = z;
    return z;
}

KERNEL bias_activation(real* z, const real* b, real* kept_z, int B, int H, int activation)
{
    for_elements(B, H, [=](int row, int h) {
        const int64 i = (int64)row * H + h;
        z[i] = activation_of(biased(z[i], b[h], kept_z, i), activation);
    });
}

// The same, then the mask: silenced units become 0, kept ones are multiplied by scale = 1/(1 - p).
KERNEL bias_activation_dropout(
    real* z, const real* b, real* kept_z, int B, int H, int activation, const uint32* steps,
    const int64* cursor, int64 batch, uint32 layer, uint32 seed_low, uint32 seed_high,
    uint64 threshold, real scale)
{
    const uint32 step = steps[batch + batches_before(cursor)];
    for_masked(B, H, step, layer, seed_low, seed_high, threshold, [=](int row, int h, int mask) {
        const int64 i = (int64)row * H + h;
        const real a = activation_of(biased(z[i], b[h], kept_z, i), activation);
        z[i] = a * (real)mask * scale;
    });
}

// --------------------------------------------------------------------------------- hidden_delta
// delta (B, H) <- delta·f'(z), in place; saved (B, H) as in formulas.cu.

KERNEL hidden_delta(real* delta, const real* saved, int B, int H, int activation)
{
    for_elements(B, H, [=](int row, int h) {
        const int64 i = (int64)row * H + h;
        delta[i] = backpropagated(delta[i], saved[i], activation);
    });
}

// The same behind dropout. Where a unit is kept, a saved activation is f(z)·scale, so f(z) is
// saved·unscale with unscale = 1 - p; a saved z has unscale 1. Where it is silenced, the mask makes
// delta 0 whatever was saved.
KERNEL hidden_delta_dropout(
    real* delta, const real* saved, int B, int H, int activation, const uint32* steps,
    const int64* cursor, int64 batch, uint32 layer, uint32 seed_low, uint32 seed_high,
    uint64 threshold, real scale, real unscale)
{
    const uint32 step = steps[batch + batches_before(cursor)];
    for_masked(B, H, step, layer, seed_low, seed_high, threshold, [=](int row, int h, int mask) {
        const int64 i = (int64)row * H + h;
        const real masked = delta[i] * (real)mask * scale;
        delta[i] = backpropagated(masked, saved[i] * unscale, activation);
    });
}

// -------------------------------------------------------------------------------- bias_gradient
// db (H,) = Σ over rows of delta (B, H). Lane threadIdx.y of a column adds the rows lane,
// lane + COLUMN_DEPTH, … in order; a tree adds the lanes.
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
        __syncthreads(); // before the lanes are overwritten
    }
}
