// The arithmetic of the ordinary programs: the compiler's own, with accurate elementary functions.
// rounded.cu and strict.cu define the same names for strict mode. No kernels, and no program of its own.

typedef REAL real;

template <typename From>
__device__ void assign(real& to, From from) { to = (real)from; }

// The fast variants (__expf and its like) would exceed the parity bounds.
__device__ float exponential(float x) { return expf(x); }
__device__ double exponential(double x) { return exp(x); }
__device__ float hyperbolic_tangent(float x) { return tanhf(x); }
__device__ double hyperbolic_tangent(double x) { return tanh(x); }
__device__ float square_root(float x) { return sqrtf(x); }
__device__ double square_root(double x) { return sqrt(x); }
__device__ float exponential_minus_1(float x) { return expm1f(x); }
__device__ double exponential_minus_1(double x) { return expm1(x); }
__device__ double logarithm(double x) { return log(x); }
__device__ double log_1p(double x) { return log1p(x); }

// Φ(x), the normal distribution function, accurate in its lower tail too.
__device__ float normal_cdf(float x) { return 0.5f * erfcf(-0.70710678f * x); }
__device__ double normal_cdf(double x) { return 0.5 * erfc(-0.7071067811865476 * x); }
