// Strict mode's GPU kernels: those of kernels.cu by name and argument, in fusedmlp/reference/arithmetic.py's order.
//
// One thread computes a whole element, or a whole row of the outputs, or a whole batch's sum, in the
// order in which it is written here; nothing is shared between threads, and no block has a barrier.
// common.cu stands before this file, and between them the constants of fusedmlp.reference.arithmetic, written by
// strict.py for both floating types. Grids and blocks are those of kernels.cu.
//
// Hazard: two things that a compiler may do to floats on a GPU would change the bits. It fuses a
// product and a sum into one rounding, and CuPy has it flush subnormal floats to zero (-ftz=true,
// after all options of ours). Neither reaches an instruction that names its rounding: floats go
// through PTX below, for + - x / and square roots, for comparisons and for changes of type. Doubles
// have no flushing, and -fmad=false keeps them from being fused. A test reads the compiled PTX.

// ---------------------------------------------------------------------------- the five operations

#ifdef __CUDA_ARCH__
#define ROUNDED(name, instruction)                                              \
    __device__ float name(float a, float b)                                     \
    {                                                                           \
        float result;                                                           \
        asm(instruction " %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));        \
        return result;                                                          \
    }
ROUNDED(add, "add.rn.f32")
ROUNDED(sub, "sub.rn.f32")
ROUNDED(mul, "mul.rn.f32")
ROUNDED(quotient, "div.rn.f32")

__device__ float root(float a)
{
    float result;
    asm("sqrt.rn.f32 %0, %1;" : "=f"(result) : "f"(a));
    return result;
}

__device__ double wide(float a)
{
    double result;
    asm("cvt.f64.f32 %0, %1;" : "=d"(result) : "f"(a));
    return result;
}

__device__ float narrow(double a)
{
    float result;
    asm("cvt.rn.f32.f64 %0, %1;" : "=f"(result) : "d"(a));
    return result;
}
#else // the tests' compiler for the CPU, told not to fuse
__device__ float add(float a, float b) { return a + b; }
__device__ float sub(float a, float b) { return a - b; }
__device__ float mul(float a, float b) { return a * b; }
__device__ float quotient(float a, float b) { return a / b; }
__device__ float root(float a) { return sqrtf(a); }
__device__ double wide(float a) { return a; }
__device__ float narrow(double a) { return (float)a; }
#endif

__device__ double add(double a, double b) { return a + b; }
__device__ double sub(double a, double b) { return a - b; }
__device__ double mul(double a, double b) { return a * b; }
__device__ double quotient(double a, double b) { return a / b; }
__device__ double root(double a) { return sqrt(a); }
__device__ double wide(double a) { return a; }

__device__ void assign(float& to, float from) { to = from; }
__device__ void assign(float& to, double from) { to = narrow(from); }
__device__ void assign(double& to, float from) { to = wide(from); }
__device__ void assign(double& to, double from) { to = from; }

template <typename T>
__device__ bool less(T a, T b) { return wide(a) < wide(b); }

template <typename T>
__device__ bool is_nan(T a) { return wide(a) != wide(a); }

// --------------------------------------------------- the elementary functions of fusedmlp/reference/arithmetic.py
// Name by name and line by line; c holds the Constants of T. Whole numbers wrap, as NumPy's do, where
// x is NaN.

template <typename T>
__device__ T power_of_two(typename Whole<T>::type n, const Constants<T>& c)
{
    typedef typename Whole<T>::wrapping wrapping;
    return from_bits<T>(((wrapping)n + (wrapping)c.bias) << c.mantissa_bits);
}

template <typename T>
__device__ typename Whole<T>::type nearest_exponent(T x, const Constants<T>& c)
{
    typedef typename Whole<T>::wrapping wrapping;
    const T shifted = add(mul(x, c.log2_e), c.shifter);
    return (typename Whole<T>::type)((wrapping)bits(shifted) - (wrapping)c.shifter_bits);
}

template <typename T>
__device__ T whole_as_real(typename Whole<T>::type n, const Constants<T>& c)
{
    typedef typename Whole<T>::wrapping wrapping;
    return sub(from_bits<T>((wrapping)n + (wrapping)c.shifter_bits), c.shifter);
}

template <typename T>
__device__ T exp_series(T x, typename Whole<T>::type n, const Constants<T>& c)
{
    const T multiple = whole_as_real(n, c);
    const T r = sub(sub(x, mul(multiple, c.ln2_high)), mul(multiple, c.ln2_low));
    T p = mul(c.zero, r);
    for (T term : c.exp_terms)
        p = add(mul(p, r), term);
    return add(r, mul(mul(r, r), p));
}

template <typename T>
__device__ T exponential(T x, const Constants<T>& c)
{
    x = less(x, c.lowest) ? c.lowest : x;
    x = less(c.highest, x) ? c.highest : x;
    const typename Whole<T>::type n = nearest_exponent(x, c), first = n >> 1;
    const T power = add(c.one, exp_series(x, n, c));
    return mul(mul(power, power_of_two(first, c)), power_of_two(n - first, c));
}

template <typename T>
__device__ T logistic(T x, const Constants<T>& c)
{
    return quotient(c.one, add(c.one, exponential(sub(c.zero, x), c)));
}

template <typename T>
__device__ T hyperbolic_tangent(T x, const Constants<T>& c)
{
    const bool is_negative = less(x, c.zero);
    T y = mul(is_negative ? sub(c.zero, x) : x, c.two);
    y = less(c.tanh_is_one, y) ? c.tanh_is_one : y;
    const typename Whole<T>::type n = nearest_exponent(y, c);
    const T scale = power_of_two(n, c);
    const T less_one = add(mul(scale, exp_series(y, n, c)), sub(scale, c.one));
    const T t = quotient(less_one, add(less_one, c.two));
    return is_negative ? sub(c.zero, t) : t;
}

template <typename T>
__device__ T log_near_one(T f, T n, const Constants<T>& c)
{
    const T s = quotient(f, add(c.two, f)), z = mul(s, s);
    T series = mul(c.zero, z);
    for (T term : c.log_terms)
        series = mul(add(series, term), z);
    const T half_square = mul(mul(c.half, f), f);
    const T small = add(mul(s, add(half_square, series)), mul(n, c.ln2_low));
    return sub(mul(n, c.ln2_high), sub(sub(half_square, small), f));
}

template <typename T>
__device__ T logarithm(T x, const Constants<T>& c)
{
    typedef typename Whole<T>::type whole;
    typedef typename Whole<T>::wrapping wrapping;
    const bool subnormal = less(x, c.least_normal);
    const wrapping root_half = (wrapping)c.root_half_bits;
    const wrapping above = (wrapping)bits(subnormal ? mul(x, c.subnormal_scale) : x) - root_half;
    const whole exponent = (whole)above >> c.mantissa_bits;
    const wrapping rest = above - ((wrapping)exponent << c.mantissa_bits);
    const T f = sub(from_bits<T>(rest + root_half), c.one);
    const T n = sub(whole_as_real(exponent, c), subnormal ? c.subnormal_exponent : c.zero);
    T result = less(x, c.infinity) ? log_near_one(f, n, c) : x;
    result = less(x, c.zero) ? c.nan : result;
    return wide(x) == 0 ? sub(c.zero, c.infinity) : result;
}

template <typename T>
__device__ T log_1p(T x, const Constants<T>& c)
{
    const bool small = less(x, c.log_1p_turn);
    const T f = small ? x : mul(sub(x, c.one), c.half);
    return log_near_one(f, small ? c.zero : c.one, c);
}

// y (n,) = a function of x (n,), by its number: for comparisons with fusedmlp/reference/arithmetic.py only.
KERNEL elementary(const real* x, int64 n, int function, real* y)
{
    const Constants<real> c = constants((real)0);
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < n; i += stride)
        switch (function) {
        case 0: y[i] = exponential(x[i], c); break;
        case 1: y[i] = logistic(x[i], c); break;
        case 2: y[i] = hyperbolic_tangent(x[i], c); break;
        case 3: y[i] = logarithm(x[i], c); break;
        case 4: y[i] = log_1p(x[i], c); break;
        }
}

// ---------------------------------------------------------------------------------- gather_rows

template <typename Stored>
__device__ void gather_dense(
    const Stored* x, const int64* rows, int64 first, int B, int D, real* out)
{
    for (int row = blockIdx.x; row < B; row += gridDim.x) {
        const Stored* from = x + source_row(rows, first, row) * D;
        real* to = out + (int64)row * D;
        for (int d = blockIdx.y * blockDim.x + threadIdx.x; d < D; d += gridDim.y * blockDim.x)
            assign(to[d], from[d]);
    }
}

KERNEL gather_rows_uint8(
    const uint8* x, const int64* rows, const int64* cursor, int64 first, int B, int D, real* out)
{
    first += rows_before(cursor);
    for (int row = blockIdx.x; row < B; row += gridDim.x) {
        const uint8* from = x + source_row(rows, first, row) * D;
        real* to = out + (int64)row * D;
        for (int d = blockIdx.y * blockDim.x + threadIdx.x; d < D; d += gridDim.y * blockDim.x)
            to[d] = quotient((real)from[d], (real)255);
    }
}

KERNEL gather_rows_float32(
    const float* x, const int64* rows, const int64* cursor, int64 first, int B, int D, real* out)
{
    first += rows_before(cursor);
    gather_dense(x, rows, first, B, D, out);
}

KERNEL gather_rows_float64(
    const double* x, const int64* rows, const int64* cursor, int64 first, int B, int D, real* out)
{
    first += rows_before(cursor);
    gather_dense(x, rows, first, B, D, out);
}

// The first thread of a block takes a row: zeros, then the stored values.
template <typename Stored>
__device__ void gather_sparse(
    const int64* indptr, const int* indices, const Stored* values, const int64* rows, int64 first,
    int B, int D, real* out)
{
    if (threadIdx.x)
        return;
    for (int row = blockIdx.x; row < B; row += gridDim.x) {
        const int64 from = source_row(rows, first, row);
        real* to = out + (int64)row * D;
        for (int d = 0; d < D; ++d)
            to[d] = 0;
        for (int64 i = indptr[from]; i < indptr[from + 1]; ++i)
            assign(to[indices[i]], values[i]);
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

// -------------------------------------------------------------------------------------- product
// out (m, n) = a (m, k) · b (k, n), where a and b are each in C order or the transpose of such.
KERNEL product(
    const real* a, const real* b, int m, int k, int n, int a_transposed, int b_transposed, real* out)
{
    const int64 a_row = a_transposed ? 1 : k, a_step = a_transposed ? m : 1;
    const int64 b_step = b_transposed ? 1 : n, b_column = b_transposed ? k : 1;
    for (int i = blockIdx.x; i < m; i += gridDim.x)
        for (int j = blockIdx.y * blockDim.x + threadIdx.x; j < n; j += gridDim.y * blockDim.x) {
            real sum = 0;
            for (int step = 0; step < k; ++step)
                sum = add(sum, mul(a[i * a_row + step * a_step], b[step * b_step + j * b_column]));
            out[(int64)i * n + j] = sum;
        }
}

// ------------------------------------------------------------------------------ bias_activation

__device__ real activation_of(real z, int activation, const Constants<real>& c)
{
    switch (activation) {
    case HIDDEN_SIGMOID: return logistic(z, c);
    case HIDDEN_TANH: return hyperbolic_tangent(z, c);
    case HIDDEN_RELU: return less(z, c.zero) ? c.zero : z;
    default: return z;
    }
}

KERNEL bias_activation(real* z, const real* b, int B, int H, int activation)
{
    const Constants<real> c = constants((real)0);
    for (int row = blockIdx.x; row < B; row += gridDim.x)
        for (int h = blockIdx.y * blockDim.x + threadIdx.x; h < H; h += gridDim.y * blockDim.x) {
            real* at = z + (int64)row * H + h;
            *at = activation_of(add(*at, b[h]), activation, c);
        }
}

// a · mask · scale, the mask's bit u telling whether a is kept.
__device__ real masked(real a, uint32 kept, int unit, real scale)
{
    return mul(mul(a, (real)((kept >> unit) & 1)), scale);
}

KERNEL bias_activation_dropout(
    real* z, const real* b, int B, int H, int activation, const uint32* steps, const int64* cursor,
    int64 batch, uint32 layer, uint32 seed_low, uint32 seed_high, uint64 threshold, real scale)
{
    batch += batches_before(cursor);
    const Constants<real> c = constants((real)0);
    const uint32 step = steps[batch];
    for (int row = blockIdx.x; row < B; row += gridDim.x)
        for (int g = blockIdx.y * blockDim.x + threadIdx.x; 4 * g < H; g += gridDim.y * blockDim.x) {
            const uint32 kept = kept_units(g, row, step, layer, seed_low, seed_high, threshold);
            for (int h = 4 * g; h < H && h < 4 * g + 4; ++h) {
                real* at = z + (int64)row * H + h;
                *at = masked(activation_of(add(*at, b[h]), activation, c), kept, h - 4 * g, scale);
            }
        }
}

// --------------------------------------------------------------------------------- hidden_delta

__device__ real derived(real delta, real a, int activation, const Constants<real>& c)
{
    switch (activation) {
    case HIDDEN_SIGMOID: return mul(mul(delta, a), sub(c.one, a));
    case HIDDEN_TANH: return mul(delta, sub(c.one, mul(a, a)));
    case HIDDEN_RELU: return mul(delta, less(c.zero, a) ? c.one : c.zero);
    default: return delta;
    }
}

KERNEL hidden_delta(real* delta, const real* a, int B, int H, int activation)
{
    const Constants<real> c = constants((real)0);
    for (int row = blockIdx.x; row < B; row += gridDim.x)
        for (int h = blockIdx.y * blockDim.x + threadIdx.x; h < H; h += gridDim.y * blockDim.x) {
            const int64 i = (int64)row * H + h;
            delta[i] = derived(delta[i], a[i], activation, c);
        }
}

KERNEL hidden_delta_dropout(
    real* delta, const real* a, int B, int H, int activation, const uint32* steps,
    const int64* cursor, int64 batch, uint32 layer, uint32 seed_low, uint32 seed_high,
    uint64 threshold, real scale, real unscale)
{
    batch += batches_before(cursor);
    const Constants<real> c = constants((real)0);
    const uint32 step = steps[batch];
    for (int row = blockIdx.x; row < B; row += gridDim.x)
        for (int g = blockIdx.y * blockDim.x + threadIdx.x; 4 * g < H; g += gridDim.y * blockDim.x) {
            const uint32 kept = kept_units(g, row, step, layer, seed_low, seed_high, threshold);
            for (int h = 4 * g; h < H && h < 4 * g + 4; ++h) {
                const int64 i = (int64)row * H + h;
                const real below = masked(delta[i], kept, h - 4 * g, scale);
                delta[i] = derived(below, mul(a[i], unscale), activation, c);
            }
        }
}

// ------------------------------------------------------------------------------------ the outputs
// The first lane of a row's threads takes the row.

__device__ real batch_scale(int mean, const double* batch_weights, int64 batch, int B)
{
    if (!mean)
        return 1;
    const double weight = batch_weights ? batch_weights[batch] : (double)B;
    real scale = 0;
    if (weight != 0)
        assign(scale, quotient(1.0, weight));
    return scale;
}

__device__ double capped(double loss) { return loss > MAX_ROW_LOSS ? MAX_ROW_LOSS : loss; }

// Index of the first largest of z (K,); the first NaN, where there is one.
__device__ int largest(const real* z, int K)
{
    int top = 0;
    for (int k = 1; k < K; ++k)
        if (less(z[top], z[k]) || (is_nan(z[k]) && !is_nan(z[top])))
            top = k;
    return top;
}

// z (K,) becomes e^(z - m); the sum comes back.
__device__ real softmax_terms(real* z, int K, real m, const Constants<real>& c)
{
    real total = 0;
    for (int k = 0; k < K; ++k) {
        z[k] = exponential(sub(z[k], m), c);
        total = add(total, z[k]);
    }
    return total;
}

KERNEL softmax_cross_entropy(
    real* z, const real* b, const int64* y, const real* w, const int64* rows, const int64* cursor,
    int64 first, int64 batch, int B, int K, int mean, const double* batch_weights, double* losses,
    double* correct)
{
    first += rows_before(cursor);
    batch += batches_before(cursor);
    if (threadIdx.x)
        return;
    const Constants<real> c = constants((real)0);
    const Constants<double> double_c = constants(0.0);
    const real scale = batch_scale(mean, batch_weights, batch, B);
    const int stride = gridDim.x * ROWS_PER_BLOCK;
    for (int row = blockIdx.x * ROWS_PER_BLOCK + threadIdx.y; row < B; row += stride) {
        real* z_row = z + (int64)row * K;
        for (int k = 0; k < K; ++k)
            z_row[k] = add(z_row[k], b[k]);
        const int64 source = source_row(rows, first, row);
        const int label = (int)y[source], top = largest(z_row, K);
        const real weight = w ? w[source] : c.one, m = z_row[top];
        const double margin = wide(m) - wide(z_row[label]);
        const real total = softmax_terms(z_row, K, m, c);
        for (int k = 0; k < K; ++k)
            z_row[k] = quotient(z_row[k], total);
        z_row[label] = sub(z_row[label], c.one);
        for (int k = 0; k < K; ++k)
            z_row[k] = mul(mul(z_row[k], weight), scale);
        losses[first + row] = capped(logarithm(wide(total), double_c) + margin) * wide(weight);
        correct[first + row] = top == label ? wide(weight) : 0.0;
    }
}

KERNEL sigmoid_cross_entropy(
    real* z, const real* b, const real* y, const real* w, const int64* rows, const int64* cursor,
    int64 first, int64 batch, int B, int K, int mean, const double* batch_weights, double* losses,
    double* correct)
{
    first += rows_before(cursor);
    batch += batches_before(cursor);
    if (threadIdx.x)
        return;
    const Constants<real> c = constants((real)0);
    const Constants<double> double_c = constants(0.0);
    const real scale = batch_scale(mean, batch_weights, batch, B);
    const int stride = gridDim.x * ROWS_PER_BLOCK;
    for (int row = blockIdx.x * ROWS_PER_BLOCK + threadIdx.y; row < B; row += stride) {
        const int64 source = source_row(rows, first, row);
        const real weight = w ? w[source] : c.one;
        double loss = 0;
        bool is_right = true;
        for (int k = 0; k < K; ++k) {
            real* at = z + (int64)row * K + k;
            const real value = add(*at, b[k]), target = y[source * K + k];
            const double logit = wide(value), label = wide(target);
            const double magnitude = logit < 0 ? 0.0 - logit : logit;
            const double positive = logit < 0 ? 0.0 : logit;
            const double rest = log_1p(exponential(0.0 - magnitude, double_c), double_c);
            loss = loss + ((positive - logit * label) + rest);
            is_right = is_right && (logit > 0) == (label > 0.5);
            *at = mul(mul(sub(logistic(value, c), target), weight), scale);
        }
        losses[first + row] = capped(loss) * wide(weight);
        correct[first + row] = is_right ? wide(weight) : 0.0;
    }
}

KERNEL squared_error(
    real* z, const real* b, const real* y, const real* w, const int64* rows, const int64* cursor,
    int64 first, int64 batch, int B, int K, int mean, const double* batch_weights, double* losses,
    double* correct)
{
    first += rows_before(cursor);
    batch += batches_before(cursor);
    if (threadIdx.x)
        return;
    const real one = 1, scale = batch_scale(mean, batch_weights, batch, B);
    const int stride = gridDim.x * ROWS_PER_BLOCK;
    for (int row = blockIdx.x * ROWS_PER_BLOCK + threadIdx.y; row < B; row += stride) {
        const int64 source = source_row(rows, first, row);
        const real weight = w ? w[source] : one;
        double squares = 0;
        for (int k = 0; k < K; ++k) {
            real* at = z + (int64)row * K + k;
            const real error = sub(add(*at, b[k]), y[source * K + k]);
            squares = squares + wide(error) * wide(error);
            *at = mul(mul(error, weight), scale);
        }
        losses[first + row] = capped(0.5 * squares) * wide(weight);
        correct[first + row] = 0.0;
    }
}

KERNEL poisson_deviance(
    real* z, const real* b, const real* y, const real* w, const int64* rows, const int64* cursor,
    int64 first, int64 batch, int B, int K, int mean, const double* batch_weights, double* losses,
    double* correct)
{
    first += rows_before(cursor);
    batch += batches_before(cursor);
    if (threadIdx.x)
        return;
    const Constants<real> c = constants((real)0);
    const Constants<double> double_c = constants(0.0);
    const real scale = batch_scale(mean, batch_weights, batch, B);
    const int stride = gridDim.x * ROWS_PER_BLOCK;
    for (int row = blockIdx.x * ROWS_PER_BLOCK + threadIdx.y; row < B; row += stride) {
        const int64 source = source_row(rows, first, row);
        const real weight = w ? w[source] : c.one;
        double loss = 0;
        for (int k = 0; k < K; ++k) {
            real* at = z + (int64)row * K + k;
            const real value = add(*at, b[k]), target = y[source * K + k];
            const double logit = wide(value) > EXP_OVERFLOWS ? EXP_OVERFLOWS : wide(value);
            const double count = wide(target), log_count = count > 0 ? logarithm(count, double_c) : 0.0;
            loss = loss + ((exponential(logit, double_c) - count) - count * (logit - log_count));
            *at = mul(mul(sub(exponential(value, c), target), weight), scale);
        }
        losses[first + row] = capped(loss) * wide(weight);
        correct[first + row] = 0.0;
    }
}

KERNEL output_activation(real* z, const real* b, int B, int K, int output)
{
    if (threadIdx.x)
        return;
    const Constants<real> c = constants((real)0);
    const int stride = gridDim.x * ROWS_PER_BLOCK;
    for (int row = blockIdx.x * ROWS_PER_BLOCK + threadIdx.y; row < B; row += stride) {
        real* z_row = z + (int64)row * K;
        for (int k = 0; k < K; ++k)
            z_row[k] = add(z_row[k], b[k]);
        if (output == OUTPUT_SIGMOID)
            for (int k = 0; k < K; ++k)
                z_row[k] = logistic(z_row[k], c);
        else if (output == OUTPUT_EXP)
            for (int k = 0; k < K; ++k)
                z_row[k] = exponential(z_row[k], c);
        if (output != OUTPUT_SOFTMAX)
            continue;
        const real total = softmax_terms(z_row, K, z_row[largest(z_row, K)], c);
        for (int k = 0; k < K; ++k)
            z_row[k] = quotient(z_row[k], total);
    }
}

// ---------------------------------------------------------------------------------- sums over rows

KERNEL bias_gradient(const real* delta, int B, int H, real* db)
{
    if (threadIdx.y)
        return;
    const int stride = gridDim.x * COLUMN_LANES;
    for (int h = blockIdx.x * COLUMN_LANES + threadIdx.x; h < H; h += stride) {
        real sum = 0;
        for (int row = 0; row < B; ++row)
            sum = add(sum, delta[(int64)row * H + h]);
        db[h] = sum;
    }
}

KERNEL batch_weights(const real* w, const int64* rows, int64 n, int batch_size, double* out)
{
    if (threadIdx.x)
        return;
    for (int64 batch = blockIdx.x; batch * batch_size < n; batch += gridDim.x) {
        const int64 begin = batch * batch_size;
        const int64 end = begin + batch_size < n ? begin + batch_size : n;
        double sum = 0;
        for (int64 i = begin; i < end; ++i)
            sum = sum + wide(w[rows ? rows[i] : i]);
        out[batch] = sum;
    }
}

KERNEL batch_sums(
    const double* losses, const double* correct, int64 n, int batch_size, double* loss_sums,
    double* correct_sums)
{
    if (threadIdx.x)
        return;
    for (int64 batch = blockIdx.x; batch * batch_size < n; batch += gridDim.x) {
        const int64 begin = batch * batch_size;
        const int64 end = begin + batch_size < n ? begin + batch_size : n;
        double loss = 0, right = 0;
        for (int64 i = begin; i < end; ++i) {
            loss = loss + losses[i];
            right = right + correct[i];
        }
        loss_sums[batch] = loss;
        correct_sums[batch] = right;
    }
}

// -------------------------------------------------------------------------------------- updates
// Arrays and rates as in kernels.cu.

KERNEL l2_gradient(real* gradient, const real* theta, int64 n_weights, real l2)
{
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < n_weights; i += stride)
        gradient[i] = add(gradient[i], mul(l2, theta[i]));
}

__device__ real penalised(real gradient, real theta, int64 i, int64 n_weights, real l2)
{
    return i < n_weights && wide(l2) != 0 ? add(gradient, mul(l2, theta)) : gradient;
}

KERNEL sgd(
    real* theta, const real* gradient, int64 n, int64 n_weights, const real* rates,
    const int64* cursor, int64 batch, real l2)
{
    batch += batches_before(cursor);
    const real lr = rates[RATE_COLUMNS * batch];
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < n; i += stride) {
        const real g = penalised(gradient[i], theta[i], i, n_weights, l2);
        theta[i] = sub(theta[i], mul(lr, g));
    }
}

KERNEL momentum(
    real* theta, const real* gradient, real* velocity, int64 n, int64 n_weights, const real* rates,
    const int64* cursor, int64 batch, real l2, real mu)
{
    batch += batches_before(cursor);
    const real lr = rates[RATE_COLUMNS * batch];
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < n; i += stride) {
        const real descent = mul(lr, penalised(gradient[i], theta[i], i, n_weights, l2));
        velocity[i] = sub(mul(mu, velocity[i]), descent);
        theta[i] = add(theta[i], velocity[i]);
    }
}

KERNEL nesterov(
    real* theta, const real* gradient, real* velocity, int64 n, int64 n_weights, const real* rates,
    const int64* cursor, int64 batch, real l2, real mu)
{
    batch += batches_before(cursor);
    const real lr = rates[RATE_COLUMNS * batch];
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < n; i += stride) {
        const real descent = mul(lr, penalised(gradient[i], theta[i], i, n_weights, l2));
        velocity[i] = sub(mul(mu, velocity[i]), descent);
        theta[i] = add(sub(theta[i], descent), mul(mu, velocity[i]));
    }
}

KERNEL adam(
    real* theta, const real* gradient, real* first_moment, real* second_moment, int64 n,
    int64 n_weights, const real* rates, const int64* cursor, int64 batch, real l2, real beta1,
    real beta2, real rest1, real rest2)
{
    batch += batches_before(cursor);
    const real* rate = rates + RATE_COLUMNS * batch;
    const real lr = rate[1], correction = rate[2], keep = rate[3], eps = rate[4];
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x; i < n; i += stride) {
        const real g = penalised(gradient[i], theta[i], i, n_weights, l2);
        const real decayed = i < n_weights ? mul(theta[i], keep) : theta[i];
        const real m = add(mul(beta1, first_moment[i]), mul(rest1, g));
        const real v = add(mul(beta2, second_moment[i]), mul(rest2, mul(g, g)));
        first_moment[i] = m;
        second_moment[i] = v;
        const real spread = add(root(quotient(v, correction)), eps);
        theta[i] = sub(decayed, mul(lr, quotient(m, spread)));
    }
}
