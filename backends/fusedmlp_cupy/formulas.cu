// The formulas that kernels.cu, products.cu and persistent.cu share: units, their derivatives,
// and what a loss is scaled and capped by.
//
// No kernels, and no program of its own: device.py puts it between common.cu and them. Strict mode has
// its own in strict.cu, rounded step by step.

// Accurate versions by type: the fast ones (__expf and its like) are outside the parity bounds.
__device__ float exponential(float x) { return expf(x); }
__device__ double exponential(double x) { return exp(x); }
__device__ float hyperbolic_tangent(float x) { return tanhf(x); }
__device__ double hyperbolic_tangent(double x) { return tanh(x); }
__device__ float square_root(float x) { return sqrtf(x); }
__device__ double square_root(double x) { return sqrt(x); }

// 1 / (1 + e^-z): where z is very negative, e^-z is infinite and the quotient rightly 0.
__device__ real logistic(real z) { return (real)1 / ((real)1 + exponential(-z)); }

__device__ real activation_of(real z, int activation)
{
    switch (activation) {
    case HIDDEN_SIGMOID: return logistic(z);
    case HIDDEN_TANH: return hyperbolic_tangent(z);
    case HIDDEN_RELU: return z < 0 ? (real)0 : z; // so written, NaN stays NaN
    default: return z;
    }
}

__device__ real derivative_from(real a, int activation)
{
    switch (activation) {
    case HIDDEN_SIGMOID: return a * ((real)1 - a);
    case HIDDEN_TANH: return (real)1 - a * a;
    case HIDDEN_RELU: return (real)(a > 0);
    default: return (real)1;
    }
}

// 1, or 1 / Σw of the batch where the objective is a mean; 0 where the weights sum to 0.
__device__ real batch_scale(int mean, const double* batch_weights, int64 batch, int B)
{
    if (!mean)
        return 1;
    const double weight = batch_weights ? batch_weights[batch] : (double)B;
    return weight != 0 ? (real)(1.0 / weight) : (real)0;
}

__device__ double capped(double loss) { return loss > MAX_ROW_LOSS ? MAX_ROW_LOSS : loss; }
