// The formulas that kernels.cu, products.cu and the persistent kernels share: units and their derivatives,
// what a row's loss is made of, scaled and capped by, and what an optimizer does to one parameter.
//
// No kernels, and no program of its own: sources.py puts it between common.cu and them. Strict mode has
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

// The largest value and the first column that holds it; column -1 says "none yet". A NaN counts as
// the largest, as NumPy's max and argmax have it.
struct Largest { real value; int column; };

__device__ Largest larger(Largest a, Largest b)
{
    if (a.column < 0 || b.column < 0)
        return a.column < 0 ? b : a;
    const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    if (a_nan || b_nan)
        return a_nan && (!b_nan || a.column < b.column) ? a : b;
    if (a.value == b.value)
        return a.column < b.column ? a : b;
    return a.value > b.value ? a : b;
}

// Cross-entropy of a row behind softmax: log Σ e^(z - m) + m - z[y], which no finite logit can
// overflow. `total` is the sum, `largest` m.
__device__ double softmax_loss(real total, real largest, real z_label)
{
    return log((double)total) + ((double)largest - (double)z_label);
}

// Cross-entropy of one label behind a sigmoid: max(z, 0) - z·y + log(1 + e^-|z|).
__device__ double sigmoid_loss(real logit, real label)
{
    const double z64 = (double)logit;
    return (z64 < 0 ? 0.0 : z64) - z64 * (double)label + log1p(exp(-fabs(z64)));
}

__device__ bool is_wrong(real logit, real label) { return (logit > 0) != (label > (real)0.5); }

// Half the Poisson deviance of one target: e^z - y - y·(z - log y), and e^z where y = 0. In double
// throughout, because near the optimum the terms cancel.
__device__ double poisson_loss(real logit, real target)
{
    const double z64 = logit > EXP_OVERFLOWS ? EXP_OVERFLOWS : (double)logit;
    const double count = (double)target, log_count = count > 0 ? log(count) : 0.0;
    return exp(z64) - count - count * (z64 - log_count);
}

// One parameter's step.

// A row of `rates`: what the host has computed in float64 for a step, rounded to real. SGD's rows use
// the first alone.
struct Rate {
    real lr;          // lr
    real adam_lr;     // lr / (1 - beta1^t)
    real correction;  // 1 - beta2^t
    real keep;        // 1 - lr·decay
    real eps;
};

__device__ Rate rate_of(const real* rates, int64 step)
{
    const real* row = rates + RATE_COLUMNS * step;
    return Rate{row[0], row[1], row[2], row[3], row[4]};
}

__device__ real penalised(real gradient, real theta, bool is_weight, real l2)
{
    return is_weight && l2 != 0 ? gradient + l2 * theta : gradient;
}

__device__ void sgd_step(real* theta, real g, Rate rate) { *theta -= rate.lr * g; }

__device__ void momentum_step(real* theta, real* velocity, real g, Rate rate, real mu)
{
    *velocity = mu * *velocity - rate.lr * g;
    *theta += *velocity;
}

__device__ void nesterov_step(real* theta, real* velocity, real g, Rate rate, real mu)
{
    const real descent = rate.lr * g;
    *velocity = mu * *velocity - descent;
    *theta = *theta - descent + mu * *velocity;
}

// rest1 and rest2 are 1 - beta1 and 1 - beta2, rounded from float64 as on the host.
__device__ void adam_step(
    real* theta, real* first_moment, real* second_moment, real g, bool is_weight, Rate rate,
    real beta1, real beta2, real rest1, real rest2)
{
    const real decayed = is_weight ? *theta * rate.keep : *theta;
    const real m = beta1 * *first_moment + rest1 * g;
    const real v = beta2 * *second_moment + rest2 * (g * g);
    *first_moment = m;
    *second_moment = v;
    *theta = decayed - rate.adam_lr * (m / (square_root(v / rate.correction) + rate.eps));
}
