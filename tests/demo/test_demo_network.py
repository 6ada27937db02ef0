"""The page's forward and backward pass, in a browser, against the NumPy engine in float64."""

from __future__ import annotations

import numpy as np
import pytest

from fusedmlp import load_dataset
from fusedmlp.backend import EngineSpec, State
from fusedmlp.demo.page import joined_modules
from fusedmlp.network import (
    HIDDEN_ACTIVATIONS,
    OUTPUTS,
    Network,
    Objective,
    Parameters,
    initialise,
)
from fusedmlp.optimizers import SGD

pytestmark = pytest.mark.browser

BOUND = 1e-6

SCRIPT = """
const [shape, arrays, x, y, rate, steps] = arguments;
const network = { ...shape };
network.weights = arrays[0].map((W) => Float64Array.from(W));
network.biases = arrays[1].map((b) => Float64Array.from(b));
const rows = Float64Array.from(x), targets = Float64Array.from(y);
const pass = forward(network, rows), found = lossAndGradients(network, pass, targets);
const plain = (lists) => lists.map((list) => [...list]);
const parts = contributions(network, forward(network, rows.slice(0, shape.sizes[0])), 0);
const losses = [];
for (let i = 0; i < steps; i++) losses.push(trainStep(network, rows, targets, rate));
return {
  outputs: [...pass.a.at(-1)], loss: found.loss, weights: plain(found.weights),
  biases: plain(found.biases), contributions: plain(parts), losses,
  trained: [plain(network.weights), plain(network.biases)],
};
"""


class Problem:
    """A network, its parameters and labelled rows, computed by both sides."""

    def __init__(self, network, x, y, seed=0):
        self.network, self.x, self.y = network, x, y
        drawn = initialise(network, seed, "float64")
        rng = np.random.default_rng(seed)
        biases = tuple(rng.normal(0, 0.5, b.shape) for b in drawn.biases)
        self.parameters = Parameters(drawn.weights, biases)

    def in_the_page(self, browser, rate=0.1, steps=0):
        shape = {
            "sizes": self.network.sizes,
            "hidden": self.network.hidden,
            "output": self.network.output,
        }
        is_index = self.network.output == "softmax"
        y = np.eye(self.network.n_outputs)[self.y] if is_index else self.y
        arrays = [[W.ravel().tolist() for W in self.parameters.weights]]
        arrays.append([b.tolist() for b in self.parameters.biases])
        lists = [self.x.ravel().tolist(), y.ravel().tolist()]
        script = joined_modules("network.js") + SCRIPT
        return browser.run(script, shape, arrays, *lists, rate, steps)

    def engine(self, backend):
        spec = EngineSpec(
            self.network, SGD(), Objective(), batch_size=len(self.x), dtype="float64", seed=0
        )
        engine = backend.compile(spec)
        engine.load(State(self.parameters, (), 0))
        return engine, engine.stage(self.x, self.y)


def random_problem(hidden, output, sizes=(5, 7, 4, 3)):
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1.5, (23, sizes[0]))
    if output == "softmax":
        y = rng.integers(0, sizes[-1], len(x))
    else:
        shape = (len(x), sizes[-1])
        y = {
            "sigmoid": rng.integers(0, 2, shape).astype(float),
            "identity": rng.normal(size=shape),
            "exp": rng.poisson(1.0, shape).astype(float),
        }[output]
    return Problem(Network(sizes, hidden, output), x, y)


def assert_close(found, expected):
    expected = np.asarray(expected)
    np.testing.assert_allclose(
        np.reshape(found, expected.shape), expected, rtol=BOUND, atol=BOUND * 1e-3
    )


CASES = [
    *((hidden, "softmax", (5, 7, 4, 3)) for hidden in HIDDEN_ACTIVATIONS),
    *(("tanh", output, (5, 7, 4, 3)) for output in OUTPUTS if output != "softmax"),
    ("sigmoid", "sigmoid", (5, 6, 1)),
    ("sigmoid", "softmax", (5, 3)),
]


@pytest.mark.parametrize(("hidden", "output", "sizes"), CASES)
def test_outputs_gradients_and_one_step(browser, numpy_backend, hidden, output, sizes):
    problem = random_problem(hidden, output, sizes)
    found = problem.in_the_page(browser, rate=0.3, steps=1)
    engine, data = problem.engine(numpy_backend)
    assert_close(found["outputs"], engine.forward(problem.x))
    rows = np.arange(len(problem.x))
    sums, gradients = engine.loss_and_gradients(data, rows)
    assert_close(found["loss"], sums.loss)
    for layer, (dW, db) in enumerate(zip(gradients.weights, gradients.biases, strict=True)):
        assert_close(found["weights"][layer], dW)
        assert_close(found["biases"][layer], db)
    engine.train_epoch(data, rows, np.array([0.3]))
    for kind, arrays in enumerate((engine.parameters().weights, engine.parameters().biases)):
        for layer, theta in enumerate(arrays):
            assert_close(found["trained"][kind][layer], theta)


def test_a_hundred_steps_on_moons(browser, numpy_backend):
    moons = load_dataset("moons")
    problem = Problem(Network((2, 16, 2), "tanh"), moons.x_train, moons.y_train)
    found = problem.in_the_page(browser, rate=0.5, steps=100)
    engine, data = problem.engine(numpy_backend)
    rows = np.arange(len(problem.x))
    losses = [engine.train_epoch(data, rows, np.array([0.5])).loss for _ in range(100)]
    assert losses[-1] < 0.7 * losses[0]
    assert_close(found["losses"], losses)
    for layer, W in enumerate(engine.parameters().weights):
        assert_close(found["trained"][0][layer], W)


def test_contributions_are_activations_times_slopes(browser):
    problem = random_problem("tanh", "softmax", (5, 7, 3))
    found = problem.in_the_page(browser)["contributions"]
    (W1, W2), (b1, _) = problem.parameters.weights, problem.parameters.biases
    x = problem.x[0]
    a = np.tanh(x @ W1 + b1)
    assert_close(found[1], a * W2[:, 0])
    assert_close(found[0], x * (W1 @ ((1 - a**2) * W2[:, 0])))
