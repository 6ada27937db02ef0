// Optimizer steps on all parameters of a network at once, and the cursor of an epoch.
//
// Follows kernels.cu, whose rules hold. All parameters lie in one array of n, the first n_weights of
// them weights. The L2 gradient and AdamW's decay are for those first ones only. The formulas are in
// formulas.cu.

// The only kernel that writes a cursor: adds to it, or sets it at the beginning of a call.
KERNEL advance_cursor(int64* cursor, int64 batches, int64 rows, int restart)
{
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        cursor[CURSOR_BATCHES] = (restart ? 0 : cursor[CURSOR_BATCHES]) + batches;
        cursor[CURSOR_ROWS] = (restart ? 0 : cursor[CURSOR_ROWS]) + rows;
    }
}

// gradient[:n_weights] += l2·theta: for callers that want the gradient itself.
KERNEL l2_gradient(real* gradient, const real* theta, int64 n_weights, real l2)
{
    for_each(n_weights, [=](int64 i) { gradient[i] += l2 * theta[i]; });
}

// step(i, gradient, is_weight) for each parameter, with the L2 penalty in the gradient.
template <typename Step>
__device__ void for_parameters(
    const real* theta, const real* gradient, int64 n, int64 n_weights, real l2, Step step)
{
    for_each(n, [=](int64 i) {
        const bool is_weight = i < n_weights;
        step(i, penalised(gradient[i], theta[i], is_weight, l2), is_weight);
    });
}

KERNEL sgd(
    real* theta, const real* gradient, int64 n, int64 n_weights, const real* rates,
    const int64* cursor, int64 batch, real l2)
{
    const Rate rate = rate_of(rates, batch + batches_before(cursor));
    for_parameters(theta, gradient, n, n_weights, l2, [=](int64 i, real g, bool) {
        sgd_step(theta + i, g, rate);
    });
}

KERNEL momentum(
    real* theta, const real* gradient, real* velocity, int64 n, int64 n_weights, const real* rates,
    const int64* cursor, int64 batch, real l2, real mu)
{
    const Rate rate = rate_of(rates, batch + batches_before(cursor));
    for_parameters(theta, gradient, n, n_weights, l2, [=](int64 i, real g, bool) {
        momentum_step(theta + i, velocity + i, g, rate, mu);
    });
}

KERNEL nesterov(
    real* theta, const real* gradient, real* velocity, int64 n, int64 n_weights, const real* rates,
    const int64* cursor, int64 batch, real l2, real mu)
{
    const Rate rate = rate_of(rates, batch + batches_before(cursor));
    for_parameters(theta, gradient, n, n_weights, l2, [=](int64 i, real g, bool) {
        nesterov_step(theta + i, velocity + i, g, rate, mu);
    });
}

KERNEL adam(
    real* theta, const real* gradient, real* first_moment, real* second_moment, int64 n,
    int64 n_weights, const real* rates, const int64* cursor, int64 batch, real l2, real beta1,
    real beta2, real rest1, real rest2)
{
    const Rate rate = rate_of(rates, batch + batches_before(cursor));
    for_parameters(theta, gradient, n, n_weights, l2, [=](int64 i, real g, bool is_weight) {
        adam_step(
            theta + i, first_moment + i, second_moment + i, g, is_weight, rate, beta1, beta2, rest1,
            rest2);
    });
}

KERNEL lion(
    real* theta, const real* gradient, real* momentum, int64 n, int64 n_weights, const real* rates,
    const int64* cursor, int64 batch, real l2, real beta1, real beta2, real rest1, real rest2)
{
    const Rate rate = rate_of(rates, batch + batches_before(cursor));
    for_parameters(theta, gradient, n, n_weights, l2, [=](int64 i, real g, bool is_weight) {
        lion_step(theta + i, momentum + i, g, is_weight, rate, beta1, beta2, rest1, rest2);
    });
}
