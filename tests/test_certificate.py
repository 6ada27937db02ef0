"""The parity certificate: it finds injected faults, and names the faulty operation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import twins
from fusedmlp.datasets import load_digits
from fusedmlp.errors import InvalidInputError
from fusedmlp.model import DTYPES
from fusedmlp.parity import certify
from fusedmlp.parity.checks import comparisons
from fusedmlp.parity.comparison import Comparison
from fusedmlp.parity.fingerprints import Fingerprint, unequal
from fusedmlp.parity.masks import MASKED_ROWS, dropout_masks
from fusedmlp.parity.recording import digest
from fusedmlp.parity.trajectories import Trajectory
from fusedmlp.registry import Selection, backend_class
from fusedmlp.tolerance import accuracy_bound, ulps


def selections(*names):
    return [Selection(name, None, "argument", "") for name in names]


@pytest.fixture(scope="module")
def certificate():
    """Certificate of two correct backends."""
    return certify(selections("numpy", "numba"), load_digits())


def test_the_backends_are_within_every_bound(certificate):
    assert certificate.breaches() == []
    assert certificate.is_met
    assert certificate.reference == "numpy"


def test_every_part_was_really_compared(certificate):
    kinds = {each.operation.partition(",")[0] for each in certificate.comparisons}
    assert {"weighted sums", "gradients", "dropout masks", "update", "training step"} <= kinds
    assert {each.dtype for each in certificate.comparisons} == {"float32", "float64"}
    assert any(each.found > 0.0 for each in certificate.comparisons), "nothing ever rounds"
    assert {check.backend for check in certificate.gradient_checks} == {"numpy", "numba"}
    for each in certificate.trajectories:
        assert len(each.differences) >= 20
        assert each.first_differing_step is not None
    assert all(each.accuracy > 0.8 for each in certificate.accuracies)
    assert {(each.threads, each.run) for each in certificate.fingerprints} >= {(1, 1), (1, 2)}
    strict = {(e.dtype, e.backend): e.weights for e in certificate.fingerprints if e.strict}
    for dtype in ("float32", "float64"):
        assert strict[dtype, "numpy"] == strict[dtype, "numba"]
        ordinary = {
            e.weights for e in certificate.fingerprints if (e.dtype, e.strict) == (dtype, 0)
        }
        assert strict[dtype, "numpy"] not in ordinary


def test_the_document_is_strict_json(certificate):
    text = json.dumps(certificate.document(), allow_nan=False)
    document = json.loads(text)
    assert (document["kind"], document["met"], document["breaches"]) == (
        "fusedmlp-parity",
        True,
        [],
    )
    for comparison in document["comparisons"]:
        assert comparison["met"] == (comparison["found"] <= comparison["bound"])


def with_fault(monkeypatch, name, fault):
    """Replace a formula of the reference engine by a wrong one; other backends do not change."""
    from fusedmlp.reference import engine, operations, updates

    places = {"dropout_mask": operations.Operations, "sgd": updates}
    place = places.get(name, engine)
    right = getattr(place, name)
    monkeypatch.setattr(place, name, lambda *given: fault(right, *given))


def flipped_sign(right, ops, delta, *rest):
    right(ops, delta, *rest)
    np.negative(delta, out=delta)


def uphill(right, arrays, lr):
    right(arrays, -lr)


def dropped_bias(right, ops, z, b, *rest):
    right(ops, z, np.zeros_like(b), *rest)


def reused_mask(right, ops, mask):
    right(ops, mask._replace(step=0))


def shared_mask(right, ops, mask):
    right(ops, mask._replace(layer=0))


@pytest.mark.parametrize(
    ("kernel", "fault", "breached", "met"),
    [
        ("hidden_delta", flipped_sign, "gradients, sigmoid units", "sigmoid of hidden units"),
        ("bias_activation", dropped_bias, "biases of hidden units", "update, sgd"),
        ("dropout_mask", reused_mask, "dropout masks", "gradients, sigmoid units"),
        ("dropout_mask", shared_mask, "dropout masks", "gradients, sigmoid units"),
        ("sgd", uphill, "update, sgd", "update, momentum"),
    ],
)
def test_a_wrong_kernel_is_found_and_named(monkeypatch, kernel, fault, breached, met):
    with_fault(monkeypatch, kernel, fault)
    backends = {name: backend_class(name)() for name in ("numba", "numpy")}
    found = [each for group in comparisons(backends, DTYPES) for each in group]
    names = [each.operation for each in found if not each.is_met]
    assert breached in names[0]  # the line that is read first
    assert not any(met in name for name in names), names


def test_a_wrong_gradient_is_found_without_a_second_backend(monkeypatch):
    """A fault common to all backends shows in the finite differences."""
    from fusedmlp.parity.finite_differences import OBJECTIVES, gradient_check

    with_fault(monkeypatch, "hidden_delta", flipped_sign)
    backend = backend_class("numpy")()
    found = gradient_check("numpy", backend, "sigmoid", "softmax", OBJECTIVES[0])
    assert not found.is_met
    assert found.at.startswith(("W1", "b1", "W2", "b2"))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("numpy",), "fewer than two"),
        (("numpy", "numpy"), "twice"),
    ],
)
def test_backends_that_cannot_be_compared(names, words):
    with pytest.raises(InvalidInputError, match=words):
        certify(selections(*names), load_digits())


def test_masks_are_those_of_the_contract():
    """They equal those of the reference engine, which follows the formula of the contract."""
    from fusedmlp.parity.masks import MASK_SEED, MASKED_SIZES, MASKED_STEPS

    found = dropout_masks(backend_class("numpy")(), "float64")
    for step, layers in zip(MASKED_STEPS, found, strict=True):
        for layer, mask in enumerate(layers):
            drawn = np.empty((MASKED_ROWS, MASKED_SIZES[layer + 1]), bool)
            twins.dropout_mask(drawn, MASK_SEED, step, layer, 0.5)
            np.testing.assert_array_equal(mask, drawn)


def fingerprint(**changes):
    values = {
        "backend": "numba",
        "threads": 1,
        "run": 1,
        "by_threads": False,
        "strict": False,
        "dtype": "float32",
        "start": "s",
        "shuffles": "o",
        "masks": "m",
        "weights": "w",
    }
    return Fingerprint(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backend": "other", "start": "S"}, "starting weights of other"),
        ({"backend": "other", "shuffles": "O"}, "shuffles of other"),
        ({"backend": "other", "masks": "M"}, "dropout masks of other"),
        ({"run": 2, "weights": "W"}, "run 1 on 1 threads and run 2 on 1 threads"),
        ({"threads": 2, "weights": "W"}, "run 1 on 1 threads and run 1 on 2 threads"),
        ({"run": 2, "by_threads": True, "weights": "W"}, "final weights"),
    ],
)
def test_unequal_hashes_are_named(changes, words):
    found = unequal(
        [fingerprint(by_threads=changes.get("by_threads", False)), fingerprint(**changes)]
    )
    assert len(found) == 1
    assert words in found[0]


def test_strict_hashes_are_equal_on_all_backends():
    found = unequal(
        [fingerprint(strict=True), fingerprint(strict=True, backend="other", weights="W")]
    )
    assert found == ["strict mode's final weights of other in float32 are not numba's"]


def test_hashes_that_may_differ():
    assert unequal([fingerprint(), fingerprint(backend="other", weights="W")]) == []
    assert unequal([fingerprint(), fingerprint(dtype="float64", start="S", weights="W")]) == []
    by_threads = fingerprint(by_threads=True), fingerprint(by_threads=True, threads=2, weights="W")
    assert unequal(by_threads) == []


def test_digests_see_values_shapes_types_and_signs():
    base = np.arange(6.0)
    others = [base.astype("f4"), base.reshape(2, 3), base + 1e-15, -base, base[::-1]]
    found = {digest([array]) for array in [base, *others]}
    assert len(found) == 6
    assert (
        digest([base]) == digest([base.astype(">f8")]) == digest([np.stack([base, base], 1)[:, 0]])
    )


def test_ulps():
    one = np.array([1.0, 1.0, -1.0, 0.0, np.nan, 1.0, 1e-320], np.float64)
    next_ = np.nextafter(one, 2.0)
    other = np.array([1.0, next_[1], -1.0, 0.0, np.nan, np.nan, 0.0])
    found = ulps(other, one, "float64")
    np.testing.assert_array_equal(found[:6], [0.0, 1.0, 0.0, 0.0, 0.0, np.inf])
    assert 0.0 < found[6] < 1.0
    assert ulps(np.float64([1 + 2**-23]), np.float64([1.0]), "float32")[0] == 1.0


def test_bounds():
    assert accuracy_bound(0.97, 10_000) == pytest.approx(3 * math.sqrt(0.97 * 0.03 / 10_000))
    assert accuracy_bound(1.0, 50) == 1 / 50
    comparison = Comparison("o", "p", "a", "b", "float32", 0.0, 0.0, math.nan, 1.0)
    assert not comparison.is_met


def test_growth():
    steps = np.arange(1, 101)
    for p in (0.5, 1.0, 2.0):
        growing = Trajectory("t", "a", "b", "float32", list(1e-8 * steps**p), 1e-3)
        assert growing.growth == pytest.approx(p)
    still = Trajectory("c", "a", "b", "float32", [0.0] * 30, 1e-3)
    assert (still.growth, still.first_differing_step, still.is_met) == (None, None, True)
    assert not Trajectory("c", "a", "b", "float32", [0.0, math.nan], 1e-3).is_met
