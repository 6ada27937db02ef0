// Strict mode's elementary functions and matrix product: fusedmlp/reference/arithmetic.py in CUDA.
//
// The functions carry the names of arithmetic.cu and are transcribed line by line, so that formulas.cu
// and kernels.cu are the same text in both modes. strict_constants.py writes the constants, which stand
// between rounded.cu and this file. A test compares every function bit for bit. Integers wrap, as
// NumPy's do, where x is NaN.

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
    const T shifted = x * c.log2_e + c.shifter;
    return (typename Whole<T>::type)((wrapping)bits(shifted) - (wrapping)c.shifter_bits);
}

template <typename T>
__device__ T whole_as_real(typename Whole<T>::type n, const Constants<T>& c)
{
    typedef typename Whole<T>::wrapping wrapping;
    return from_bits<T>((wrapping)n + (wrapping)c.shifter_bits) - c.shifter;
}

template <typename T>
__device__ T exp_series(T x, typename Whole<T>::type n, const Constants<T>& c)
{
    const T multiple = whole_as_real(n, c);
    const T r = x - multiple * c.ln2_high - multiple * c.ln2_low;
    T p = c.zero * r;
    for (T term : c.exp_terms)
        p = p * r + term;
    return r + r * r * p;
}

template <typename T>
__device__ T exponential(T x)
{
    const Constants<T> c = constants(x);
    x = x < c.lowest ? c.lowest : x;
    x = c.highest < x ? c.highest : x;
    const typename Whole<T>::type n = nearest_exponent(x, c), first = n >> 1;
    const T power = c.one + exp_series(x, n, c);
    return power * power_of_two(first, c) * power_of_two(n - first, c);
}

template <typename T>
__device__ T hyperbolic_tangent(T x)
{
    const Constants<T> c = constants(x);
    const bool is_negative = x < c.zero;
    T y = (is_negative ? c.zero - x : x) * c.two;
    y = c.tanh_is_one < y ? c.tanh_is_one : y;
    const typename Whole<T>::type n = nearest_exponent(y, c);
    const T scale = power_of_two(n, c);
    const T less_one = scale * exp_series(y, n, c) + (scale - c.one);
    const T t = less_one / (less_one + c.two);
    return is_negative ? c.zero - t : t;
}

// For x <= 0.
template <typename T>
__device__ T exponential_minus_1(T x)
{
    const Constants<T> c = constants(x);
    x = x < c.expm1_is_minus_one ? c.expm1_is_minus_one : x;
    const typename Whole<T>::type n = nearest_exponent(x, c);
    const T scale = power_of_two(n, c);
    return scale * exp_series(x, n, c) + (scale - c.one);
}

template <typename T>
__device__ T normal_cdf(T x)
{
    const Constants<T> c = constants(x);
    T y = (x < c.zero ? c.zero - x : x) * c.root_half;
    y = y > c.highest ? c.highest : y;
    const T t = (y - c.erfc_center) / (y + c.erfc_center);
    T p = c.zero * t;
    for (T term : c.erfc_terms)
        p = p * t + term;
    const T half = c.half * (exponential(c.minus_half * x * x) * p / (c.one + c.two * y));
    return x < c.zero ? half : c.one - half;
}

template <typename T>
__device__ T log_near_one(T f, T n, const Constants<T>& c)
{
    const T s = f / (c.two + f), z = s * s;
    T series = c.zero * z;
    for (T term : c.log_terms)
        series = (series + term) * z;
    const T half_square = c.half * f * f;
    const T small = s * (half_square + series) + n * c.ln2_low;
    return n * c.ln2_high - (half_square - small - f);
}

template <typename T>
__device__ T logarithm(T x)
{
    typedef typename Whole<T>::type whole;
    typedef typename Whole<T>::wrapping wrapping;
    const Constants<T> c = constants(x);
    const bool subnormal = x < c.least_normal;
    const wrapping root_half = (wrapping)c.root_half_bits;
    const wrapping above = (wrapping)bits(subnormal ? x * c.subnormal_scale : x) - root_half;
    const whole exponent = (whole)above >> c.mantissa_bits;
    const wrapping rest = above - ((wrapping)exponent << c.mantissa_bits);
    const T f = from_bits<T>(rest + root_half) - c.one;
    const T n = whole_as_real(exponent, c) - (subnormal ? c.subnormal_exponent : c.zero);
    T result = x < c.infinity ? log_near_one(f, n, c) : x;
    result = x < c.zero ? c.nan : result;
    return x == c.zero ? c.zero - c.infinity : result;
}

template <typename T>
__device__ T log_1p(T x)
{
    const Constants<T> c = constants(x);
    const bool small = x < c.log_1p_turn;
    const T f = small ? x : (x - c.one) * c.half;
    return log_near_one(f, small ? c.zero : c.one, c);
}

__device__ Rounded square_root(Rounded x) { return root(x.value); }
__device__ double square_root(double x) { return sqrt(x); }

// out (m, n) = a (m, k) · b (k, n), each operand in C order or given as the transpose of such. One
// thread adds an element's terms in ascending order.
KERNEL product(
    const real* a, const real* b, int m, int k, int n, int a_transposed, int b_transposed, real* out)
{
    const int64 a_row = a_transposed ? 1 : k, a_step = a_transposed ? m : 1;
    const int64 b_step = b_transposed ? 1 : n, b_column = b_transposed ? k : 1;
    for (int i = blockIdx.x; i < m; i += gridDim.x)
        for (int j = blockIdx.y * blockDim.x + threadIdx.x; j < n; j += gridDim.y * blockDim.x) {
            real sum = 0;
            for (int step = 0; step < k; ++step)
                sum += a[i * a_row + step * a_step] * b[step * b_step + j * b_column];
            out[(int64)i * n + j] = sum;
        }
}
