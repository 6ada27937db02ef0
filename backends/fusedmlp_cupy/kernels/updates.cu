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

// One step of all parameters: theta, gradient and the slots (n,).
KERNEL update(
    int formula, real* theta, const real* gradient, real* slot1, real* slot2, int64 n,
    int64 n_weights, const real* rates, const int64* cursor, int64 batch, real l2, real c1, real c2,
    real c3, real c4)
{
    const Rate rate = rate_of(rates, batch + batches_before(cursor));
    const Optimizer optimizer = {formula, slot1, slot2, l2, c1, c2, c3, c4};
    for_each(n, [=](int64 i) {
        take_step(theta + i, i, gradient[i], i < n_weights, rate, optimizer);
    });
}
