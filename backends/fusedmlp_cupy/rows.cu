// A batch's rows in the kernels that train a small network all by themselves: units and their masks,
// answers, losses and output deltas. Follows tiles.cu; no kernels, and no program of its own.

// What the masks of the hidden layer depend on; see common.cu.
struct Masks { const uint32* steps; uint32 seed_low, seed_high; uint64 threshold; real scale, unscale; };

__device__ real mask_of(int row, int h, uint32 step, const Masks& masks)
{
    const uint32 kept =
        kept_units(h / 4, row, step, 0, masks.seed_low, masks.seed_high, masks.threshold);
    return (real)((kept >> (h % 4)) & 1);
}

// A unit's value, behind its mask where there is dropout.
__device__ real unit_of(real z, int activation, int row, int h, uint32 step, const Masks& masks)
{
    const real a = activation_of(z, activation);
    return masks.steps ? a * mask_of(row, h, step, masks) * masks.scale : a;
}

// A unit's delta, from what comes down to it and its value behind the mask.
__device__ real delta_of(
    real above, real a, int activation, int row, int h, uint32 step, const Masks& masks)
{
    if (!masks.steps)
        return above * derivative_from(a, activation);
    return above * mask_of(row, h, step, masks) * masks.scale *
           derivative_from(a * masks.unscale, activation);
}

// What outputs are compared with; see kernels.cu. One of labels and y is null.
struct Answers {
    const int64* labels;
    const real* y;
    const real* w;
    const int64* rows;
    int mean;
    const double* batch_weights;
    double* losses;
    double* correct;
};

// Some of a batch's rows: the i-th is number first + i·apart of the call.
struct Rows { int64 first; int apart, n; };

// Where the rows' answers are, before they are needed.
__device__ void find_answers(Rows rows, const Answers& answers, const Shared& shared)
{
    for (int i = threadIdx.x; i < rows.n; i += blockDim.x) {
        const int64 at = rows.first + (int64)i * rows.apart;
        const int64 source = answers.rows ? answers.rows[at] : at;
        shared.sources[i] = source;
        shared.labels[i] = answers.labels ? answers.labels[source] : 0;
        shared.weights[i] = answers.w ? answers.w[source] : (real)1;
    }
}

// The rows' logits (rows, K) in shared memory become their deltas; losses and hits are noted if wanted.
__device__ void compare_rows(
    int output, Rows rows, real scale, int K, bool noted, const Answers& answers,
    const Shared& shared)
{
    if (output == OUTPUT_SOFTMAX) {
        for (int e = threadIdx.x; e < rows.n * K; e += blockDim.x) {
            const int i = e / K, k = e % K;
            Largest largest = {0, -1};
            for (int other = 0; other < K; ++other)
                largest = larger(largest, Largest{shared.logits[i * K + other], other});
            shared.exps[e] = exponential(shared.logits[e] - largest.value);
            if (k == shared.labels[i]) { // the same thread needs the term below
                shared.terms[e] = (double)largest.value;
                if (noted)
                    answers.correct[rows.first + (int64)i * rows.apart] =
                        largest.column == k ? (double)shared.weights[i] : 0.0;
            }
        }
        __syncthreads();
        for (int e = threadIdx.x; e < rows.n * K; e += blockDim.x) {
            const int i = e / K;
            const bool is_label = e % K == shared.labels[i];
            const real weight = shared.weights[i];
            real total = 0;
            for (int k = 0; k < K; ++k)
                total += shared.exps[i * K + k];
            if (is_label && noted) {
                const double loss = softmax_loss(total, (real)shared.terms[e], shared.logits[e]);
                answers.losses[rows.first + (int64)i * rows.apart] = capped(loss) * (double)weight;
            }
            shared.logits[e] = (shared.exps[e] / total - (real)is_label) * weight * scale;
        }
        return;
    }
    for (int e = threadIdx.x; e < rows.n * K; e += blockDim.x) {
        const int i = e / K;
        const real logit = shared.logits[e], target = answers.y[shared.sources[i] * K + e % K];
        real error = logit - target;
        double loss = 0.5 * ((double)error * (double)error);
        if (output == OUTPUT_SIGMOID) {
            loss = sigmoid_loss(logit, target);
            error = logistic(logit) - target;
        } else if (output == OUTPUT_EXP) {
            loss = poisson_loss(logit, target);
            error = exponential(logit) - target;
        }
        shared.terms[e] = loss;
        shared.exps[e] = (real)is_wrong(logit, target);
        shared.logits[e] = error * shared.weights[i] * scale;
    }
    __syncthreads();
    for (int i = threadIdx.x; noted && i < rows.n; i += blockDim.x) {
        const int64 at = rows.first + (int64)i * rows.apart;
        double loss = 0;
        bool right = output == OUTPUT_SIGMOID;
        for (int k = 0; k < K; ++k) {
            loss += shared.terms[i * K + k];
            right = right && shared.exps[i * K + k] == 0;
        }
        answers.losses[at] = capped(loss) * (double)shared.weights[i];
        answers.correct[at] = right ? (double)shared.weights[i] : 0.0;
    }
}
