// The formulas, each stated once: activations and derivatives, losses, optimizer updates.
//
// No kernels, and no program of its own. It follows arithmetic.cu, or in strict mode rounded.cu and
// strict.cu, whose operations round as the reference engine's. The order of operations is the
// reference's, in fusedmlp/reference.

// ------------------------------------------------------------------------------------ activations

// 1 / (1 + e^-z). Where z is very negative, e^-z is infinite and the quotient rightly 0.
__device__ real logistic(real z) { return (real)1 / ((real)1 + exponential((real)0 - z)); }

// f(z)
__device__ real activation_of(real z, int activation)
{
    switch (activation) {
    case HIDDEN_SIGMOID: return logistic(z);
    case HIDDEN_TANH: return hyperbolic_tangent(z);
    case HIDDEN_RELU: return z < 0 ? (real)0 : z; // keeps NaN
    case HIDDEN_LEAKY_RELU: return z > 0 ? z : z * (real)LEAKY_RELU_SLOPE;
    case HIDDEN_ELU: return z < 0 ? exponential_minus_1(z) : z;
    case HIDDEN_GELU: return z * normal_cdf(z);
    case HIDDEN_SILU: return z * logistic(z);
    default: return z;
    }
}

// The derivative of gelu: Φ(z) + z·φ(z), φ(z) = e^(-z²/2) / √(2π).
__device__ real gelu_derivative(real z)
{
    const double inverse_sqrt_2pi = 0.3989422804014327;
    const real density = exponential(z * z * (real)-0.5) * (real)inverse_sqrt_2pi;
    return normal_cdf(z) + z * density;
}

// The derivative of silu: σ(z)·(1 + z·(1 - σ(z))).
__device__ real silu_derivative(real z)
{
    const real probability = logistic(z);
    return probability * ((real)1 + z * ((real)1 - probability));
}

// delta·f'(z). `saved` is z for gelu and silu (DERIVATIVE_NEEDS_Z of fusedmlp/network.py), and
// a = f(z) for the others.
__device__ real backpropagated(real delta, real saved, int activation)
{
    switch (activation) {
    case HIDDEN_SIGMOID: return delta * saved * ((real)1 - saved);
    case HIDDEN_TANH: return delta * ((real)1 - saved * saved);
    case HIDDEN_RELU: return delta * (real)(saved > 0);
    case HIDDEN_LEAKY_RELU: return saved > 0 ? delta : delta * (real)LEAKY_RELU_SLOPE;
    case HIDDEN_ELU: return saved > 0 ? delta : delta * (saved + (real)1);
    case HIDDEN_GELU: return delta * gelu_derivative(saved);
    case HIDDEN_SILU: return delta * silu_derivative(saved);
    default: return delta;
    }
}

// ----------------------------------------------------------------------------------------- losses

// 1, or 1 / Σw of the batch where the objective is a mean; 0 where the weights sum to 0.
__device__ real batch_scale(int mean, const double* batch_weights, int64 batch, int B)
{
    if (!mean)
        return 1;
    const double weight = batch_weights ? batch_weights[batch] : (double)B;
    return weight != 0 ? (real)(1.0 / weight) : (real)0;
}

__device__ double capped(double loss) { return loss > MAX_ROW_LOSS ? MAX_ROW_LOSS : loss; }

// The largest value and the first column that holds it; column -1 means none yet. NaN counts as the
// largest, as in NumPy's max and argmax.
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

// Softmax cross-entropy of a row: log Σ e^(z - m) + m - z[y], which no finite logit overflows.
// `total` is the sum, `largest` is m.
__device__ double softmax_loss(real total, real largest, real z_label)
{
    return logarithm((double)total) + ((double)largest - (double)z_label);
}

// Loss of one output element.
//   sigmoid   max(z, 0) - z·y + log(1 + e^-|z|)
//   exp       half the Poisson deviance: e^z - y - y·(z - log y), and e^z where y = 0; in double
//             throughout, because the terms cancel near the optimum
//   identity  (z - y)² / 2
__device__ double element_loss(int output, real logit, real target)
{
    const double y = (double)target;
    if (output == OUTPUT_SIGMOID) {
        const double z = (double)logit, magnitude = z < 0 ? 0.0 - z : z;
        return (z < 0 ? 0.0 : z) - z * y + log_1p(exponential(0.0 - magnitude));
    }
    if (output == OUTPUT_EXP) {
        const double z = (double)logit > EXP_OVERFLOWS ? EXP_OVERFLOWS : (double)logit;
        const double log_y = y > 0 ? logarithm(y) : 0.0;
        return exponential(z) - y - y * (z - log_y);
    }
    const double error = (double)(logit - target);
    return 0.5 * (error * error);
}

// Its derivative by the logit.
__device__ real element_error(int output, real logit, real target)
{
    switch (output) {
    case OUTPUT_SIGMOID: return logistic(logit) - target;
    case OUTPUT_EXP: return exponential(logit) - target;
    default: return logit - target;
    }
}

__device__ bool is_wrong(real logit, real label) { return (logit > 0) != (label > (real)0.5); }

// ------------------------------------------------------------------------------------- optimizers

// A row of `rates`, computed by the host in float64 and rounded to real. SGD uses only lr, Lion lr and keep.
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

// The gradient with that of the L2 penalty, which weights have and biases have not.
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

__device__ real sign(real x)
{
    if (x == 0)
        return 0;
    return x > 0 ? (real)1 : x < 0 ? (real)-1 : x; // keeps NaN
}

__device__ void lion_step(
    real* theta, real* momentum, real g, bool is_weight, Rate rate, real beta1, real beta2,
    real rest1, real rest2)
{
    const real decayed = is_weight ? *theta * rate.keep : *theta;
    *theta = decayed - rate.lr * sign(beta1 * *momentum + rest1 * g);
    *momentum = beta2 * *momentum + rest2 * g;
}

// An optimizer's formula, its slots in the layout of theta, and its constants: c1 is mu, or c1 to c4 are
// beta1, beta2, 1 - beta1 and 1 - beta2.
struct Optimizer { int formula; real* slot1; real* slot2; real l2, c1, c2, c3, c4; };

// Takes one parameter's step. `at` is its index in theta, wherever its value is kept.
__device__ void take_step(
    real* theta, int64 at, real gradient, bool is_weight, Rate rate, const Optimizer& by)
{
    const real g = penalised(gradient, *theta, is_weight, by.l2);
    switch (by.formula) {
    case UPDATE_SGD: sgd_step(theta, g, rate); break;
    case UPDATE_MOMENTUM: momentum_step(theta, by.slot1 + at, g, rate, by.c1); break;
    case UPDATE_NESTEROV: nesterov_step(theta, by.slot1 + at, g, rate, by.c1); break;
    case UPDATE_LION:
        lion_step(theta, by.slot1 + at, g, is_weight, rate, by.c1, by.c2, by.c3, by.c4);
        break;
    default:
        adam_step(
            theta, by.slot1 + at, by.slot2 + at, g, is_weight, rate, by.c1, by.c2, by.c3, by.c4);
    }
}
