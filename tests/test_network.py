"""Networks, objectives, parameters, initialisation and random streams."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from fusedmlp.errors import InvalidInputError, UnknownNameError
from fusedmlp.network import Network, Objective, Parameters, initialise, zeros
from fusedmlp.seeding import Stream, generator
from problems import flat


def test_shapes_and_counts():
    network = Network([784, 256, 10])
    assert network.layer_shapes == ((784, 256), (256, 10))
    assert network.n_parameters == 784 * 256 + 256 + 256 * 10 + 10
    # Forward, weight gradient, and the delta of all layers but the first: 52.4 MFLOP at batch 64.
    assert network.flops_per_row == 2 * (2 * 784 * 256) + 3 * (2 * 256 * 10)
    assert str(network) == "784-256-10 (sigmoid hidden, softmax output)"
    assert str(Network((3, 1), output="sigmoid", dropout=0.5)) == (
        "3-1 (sigmoid output, dropout 0.5)"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": (3,)}, "at least the inputs and the outputs"),
        ({"sizes": (3, 0, 2)}, "0 is not a whole number of at least 1"),
        ({"sizes": (3, 2.5, 2)}, "2.5 is not a whole number"),
        ({"sizes": (3, True, 2)}, "True is not a whole number"),
        ({"sizes": (3, 2), "hidden": "swish"}, "unknown hidden activation 'swish': choose one of"),
        ({"sizes": (3, 2), "output": "linear"}, "unknown output 'linear'"),
        ({"sizes": (3, 2), "dropout": 1.0}, r"dropout 1.0 is not a probability in \[0, 1\)"),
        ({"sizes": (3, 2), "dropout": float("nan")}, "dropout nan"),
        ({"sizes": (3, 1)}, "softmax over 1 output is always 1"),
    ],
)
def test_invalid_networks_are_rejected(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        Network(**arguments)


def test_invalid_objectives_are_rejected():
    with pytest.raises(UnknownNameError, match="reduction 'median': choose one of mean, sum"):
        Objective("median")
    for l2 in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidInputError, match=f"l2 {l2}"):
            Objective(l2=l2)


def test_initial_weights_are_reproducible():
    """A seed must give the same weights on every machine and in every release."""
    weights = initialise(Network((784, 256, 10)), 0, "float64")
    digest = hashlib.sha256(flat(weights).tobytes()).hexdigest()
    assert digest[:16] == "3e5255639a628750"
    single = initialise(Network((784, 256, 10)), 0, "float32")
    np.testing.assert_array_equal(flat(single), flat(weights).astype(np.float32))


def test_seeds_give_different_weights():
    network = Network((5, 4, 3))
    assert not np.array_equal(flat(initialise(network, 0)), flat(initialise(network, 1)))


def test_initialisation_schemes():
    network = Network((400, 300, 200), hidden="relu")
    first, last = initialise(network, 0, "float64").weights
    assert first.std() == pytest.approx(np.sqrt(2 / 400), rel=0.02)
    assert np.abs(last).max() == pytest.approx(np.sqrt(6 / 500), rel=0.01)
    assert np.abs(last).max() <= np.sqrt(6 / 500)
    first, _ = initialise(network, 0, "float64", "glorot").weights
    assert np.abs(first).max() == pytest.approx(np.sqrt(6 / 700), rel=0.01)
    first, last = initialise(network, 0, "float64", "workshop").weights
    assert first.min() >= 0
    assert first.max() == pytest.approx(1 / 20, rel=0.01)
    assert last.max() == pytest.approx(1 / np.sqrt(300), rel=0.01)
    first, last = initialise(network, 0, "float64", "he").weights
    assert last.std() == pytest.approx(np.sqrt(2 / 300), rel=0.02)
    for scheme in ("auto", "glorot", "he", "workshop"):
        assert not any(b.any() for b in initialise(network, 0, scheme=scheme).biases)
    with pytest.raises(UnknownNameError, match="initialisation 'xavier'"):
        initialise(network, 0, scheme="xavier")


def test_parameters_are_validated():
    network = Network((3, 4, 2))
    good = initialise(network, 0)
    good.check(network)
    with pytest.raises(InvalidInputError, match="1 layer do not fit a network of 2"):
        Parameters(good.weights[:1], good.biases[:1]).check(network)
    with pytest.raises(InvalidInputError, match=r"b2 has shape \(3,\), the network needs \(2,\)"):
        Parameters(good.weights, (good.biases[0], np.zeros(3))).check(network)
    bad = good.copy()
    bad.weights[1][0, 0] = np.inf
    with pytest.raises(InvalidInputError, match="W2 holds NaN or infinite"):
        bad.check(network)


def test_copies_convert_and_share_no_memory():
    original = zeros(Network((3, 4, 2)), "float32")
    copy = original.copy("float64")
    assert copy.dtype == np.float64
    copy.weights[0][0, 0] = 1
    assert original.weights[0][0, 0] == 0


def test_streams_are_independent():
    draws = {stream: generator(7, stream).random() for stream in Stream}
    assert len(set(draws.values())) == len(Stream)
    assert generator(7, Stream.SHUFFLE, 1).random() != generator(7, Stream.SHUFFLE, 2).random()
    assert generator(7, Stream.SHUFFLE, 1).random() == generator(7, Stream.SHUFFLE, 1).random()
    for seed in (-1, 2**64, 1.5, True):
        with pytest.raises(InvalidInputError, match="seed"):
            generator(seed, Stream.SHUFFLE)
