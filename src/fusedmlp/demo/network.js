/*
 * A dense network in double precision: forward pass, backward pass and gradient step.
 *
 * It follows src/fusedmlp/reference, whose formulas it repeats, and is written to be read and not
 * to be fast. It draws nothing. Shapes: N rows, D inputs, H units of a layer, K outputs, L layers.
 * Matrices are Float64Arrays in row order. A network is
 * {sizes: [D, H1, …, K], hidden, output, weights: [W1 (D, H1), …], biases: [b1 (H1), …]}.
 */

/** The normal distribution function Φ(z), by the series of Abramowitz and Stegun, 26.2.11. */
function normalCdf(z) {
  if (Math.abs(z) > 9) return z > 0 ? 1 : 0;
  let term = z, sum = z;
  for (let n = 3; Math.abs(term) > 1e-17 * Math.abs(sum); n += 2) sum += term *= (z * z) / n;
  return 0.5 + sum * normalDensity(z);
}

const normalDensity = (z) => Math.exp(-0.5 * z * z) / Math.sqrt(2 * Math.PI);
const logistic = (z) => 1 / (1 + Math.exp(-z));

/** Hidden activations: the value f(z) and the slope f'(z), given z and a = f(z). */
const ACTIVATIONS = {
  sigmoid: { value: logistic, slope: (z, a) => a * (1 - a) },
  tanh: { value: Math.tanh, slope: (z, a) => 1 - a * a },
  relu: { value: (z) => Math.max(z, 0), slope: (z) => (z > 0 ? 1 : 0) },
  identity: { value: (z) => z, slope: () => 1 },
  leaky_relu: { value: (z) => (z > 0 ? z : 0.01 * z), slope: (z) => (z > 0 ? 1 : 0.01) },
  elu: { value: (z) => (z > 0 ? z : Math.expm1(z)), slope: (z, a) => (z > 0 ? 1 : a + 1) },
  gelu: { value: (z) => z * normalCdf(z), slope: (z) => normalCdf(z) + z * normalDensity(z) },
  silu: { value: (z) => z * logistic(z), slope: (z) => logistic(z) * (1 + z * logistic(-z)) },
};

/** Replace the logits of one row (K,) by the outputs. */
const OUTPUTS = {
  softmax(row) {
    const largest = Math.max(...row);
    let total = 0;
    for (let k = 0; k < row.length; k++) total += row[k] = Math.exp(row[k] - largest);
    for (let k = 0; k < row.length; k++) row[k] /= total;
  },
  sigmoid: (row) => row.forEach((z, k) => (row[k] = logistic(z))),
  identity: () => {},
  exp: (row) => row.forEach((z, k) => (row[k] = Math.exp(z))),
};

/** The loss of one row, from its logits z (K,) and its targets y (K,). */
const LOSSES = {
  softmax(z, y) {
    const largest = Math.max(...z);
    const total = z.reduce((sum, value) => sum + Math.exp(value - largest), 0);
    return z.reduce((sum, value, k) => sum + y[k] * (Math.log(total) + largest - value), 0);
  },
  sigmoid(z, y) {
    const loss = (v, k) => Math.max(v, 0) - v * y[k] + Math.log1p(Math.exp(-Math.abs(v)));
    return z.reduce((sum, v, k) => sum + loss(v, k), 0);
  },
  identity: (z, y) => z.reduce((sum, value, k) => sum + 0.5 * (value - y[k]) ** 2, 0),
  exp: (z, y) =>
    z.reduce((sum, v, k) => sum + Math.exp(v) - y[k] - y[k] * (v - Math.log(y[k] || 1)), 0),
};

/** Return numbers that are stored as base64 of little-endian float32. */
export function decoded(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return Float64Array.from(new Float32Array(bytes.buffer));
}

/** Return z (N, H) = x (N, D) · W (D, H) + b (H,). */
function affine(x, W, b) {
  const H = b.length, D = W.length / H, N = x.length / D;
  const z = new Float64Array(N * H);
  for (let n = 0; n < N; n++) {
    z.set(b, n * H);
    for (let d = 0; d < D; d++) {
      const value = x[n * D + d];
      if (value === 0) continue; // most pixels
      for (let h = 0; h < H; h++) z[n * H + h] += value * W[d * H + h];
    }
  }
  return z;
}

/** Return delta (N, H) · Wᵀ, of shape (N, D). */
function backpropagated(delta, W, H) {
  const D = W.length / H, N = delta.length / H;
  const below = new Float64Array(N * D);
  for (let n = 0; n < N; n++)
    for (let d = 0; d < D; d++)
      for (let h = 0; h < H; h++) below[n * D + d] += delta[n * H + h] * W[d * H + h];
  return below;
}

/** Return z = [z1, …, zL] and a = [x, a1, …, ŷ] for rows x (N, D). */
export function forward(network, x) {
  const z = [], a = [x], K = network.sizes.at(-1), last = network.weights.length - 1;
  network.weights.forEach((W, layer) => {
    z.push(affine(a[layer], W, network.biases[layer]));
    if (layer < last) a.push(z[layer].map(ACTIVATIONS[network.hidden].value));
  });
  const outputs = z[last].slice();
  for (let at = 0; at < outputs.length; at += K)
    OUTPUTS[network.output](outputs.subarray(at, at + K));
  a.push(outputs);
  return { z, a };
}

/** Return delta (N, H) of a hidden layer, from the gradient by its activations. */
function hiddenDelta(network, pass, layer, gradient) {
  const { slope } = ACTIVATIONS[network.hidden], z = pass.z[layer - 1], a = pass.a[layer];
  return gradient.map((value, i) => value * slope(z[i], a[i]));
}

/** Return the mean loss over the rows and its gradients, for targets y (N, K). */
export function lossAndGradients(network, pass, y) {
  const K = network.sizes.at(-1), N = y.length / K, logits = pass.z.at(-1);
  let loss = 0;
  for (let at = 0; at < y.length; at += K)
    loss += LOSSES[network.output](logits.subarray(at, at + K), y.subarray(at, at + K)) / N;
  const weights = [], biases = [];
  let delta = pass.a.at(-1).map((value, i) => (value - y[i]) / N);
  for (let layer = network.weights.length - 1; layer >= 0; layer--) {
    const [D, H] = network.sizes.slice(layer, layer + 2), a = pass.a[layer];
    const dW = new Float64Array(D * H), db = new Float64Array(H);
    for (let n = 0; n < N; n++) {
      for (let h = 0; h < H; h++) db[h] += delta[n * H + h];
      for (let d = 0; d < D; d++)
        for (let h = 0; h < H; h++) dW[d * H + h] += a[n * D + d] * delta[n * H + h];
    }
    weights.unshift(dW);
    biases.unshift(db);
    if (layer > 0)
      delta = hiddenDelta(network, pass, layer, backpropagated(delta, network.weights[layer], H));
  }
  return { loss, weights, biases };
}

/** Take one step on all rows, in place: θ ← θ − rate · dθ. Return the mean loss before it. */
export function trainStep(network, x, y, rate) {
  const gradients = lossAndGradients(network, forward(network, x), y);
  for (const kind of ["weights", "biases"])
    network[kind].forEach((theta, layer) => {
      for (let i = 0; i < theta.length; i++) theta[i] -= rate * gradients[kind][layer][i];
    });
  return gradients.loss;
}

/**
 * Return what each input and each hidden unit contributed to the logit of class k, for one row:
 * its activation times the logit's gradient by it. Element 0 has the inputs, element l the units
 * of layer l. A single sigmoid has one logit, which is the second class's; the first has −logit.
 */
export function contributions(network, pass, k) {
  const K = network.sizes.at(-1), found = [];
  let delta = new Float64Array(K);
  delta[K === 1 ? 0 : k] = K === 1 && k === 0 ? -1 : 1;
  for (let layer = network.weights.length - 1; layer >= 0; layer--) {
    const gradient = backpropagated(delta, network.weights[layer], network.sizes[layer + 1]);
    found.unshift(gradient.map((value, i) => value * pass.a[layer][i]));
    if (layer > 0) delta = hiddenDelta(network, pass, layer, gradient);
  }
  return found;
}

/** Return the probability of each class, for one row of outputs; a single sigmoid has two. */
export function probabilities(network, row) {
  return network.output === "sigmoid" && row.length === 1 ? [1 - row[0], row[0]] : [...row];
}
