"""Updates compared with the published formulas, hyper-parameters, and learning-rate schedules."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest

from fusedmlp.errors import InvalidInputError, UnknownNameError
from fusedmlp.network import Parameters
from fusedmlp.optimizers import SGD, Adam, Lion, make_optimizer
from fusedmlp.portable import half_cosine, inverse_powers, powers
from fusedmlp.training.schedules import (
    SCHEDULES,
    Adaptive,
    Cosine,
    Exponential,
    InverseScaling,
    OneCycle,
    Span,
    Step,
    make_schedule,
)
from problems import OPTIMIZERS, engine, flat, problem


def reference_steps(optimizer, theta, gradients, rates, *, is_weight):
    """Apply the published formulas to one parameter, in Python floats."""
    v = m = s = 0.0
    for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), start=1):
        if isinstance(optimizer, SGD):
            v = optimizer.momentum * v - lr * g
            theta += optimizer.momentum * v - lr * g if optimizer.nesterov else v
        elif isinstance(optimizer, Lion):
            b1, b2 = optimizer.beta1, optimizer.beta2
            sign = math.copysign(1, b1 * m + (1 - b1) * g)
            theta -= lr * (sign + optimizer.weight_decay * theta * is_weight)
            m = b2 * m + (1 - b2) * g
        else:
            b1, b2 = optimizer.beta1, optimizer.beta2
            theta -= lr * optimizer.weight_decay * theta * is_weight
            m = b1 * m + (1 - b1) * g
            s = b2 * s + (1 - b2) * g * g
            if optimizer.eps_hat:
                alpha = lr * math.sqrt(1 - b2**t) / (1 - b1**t)
                theta -= alpha * m / (math.sqrt(s) + optimizer.eps)
            else:
                theta -= lr * (m / (1 - b1**t)) / (math.sqrt(s / (1 - b2**t)) + optimizer.eps)
    return theta


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_match_the_formulas(backend, name):
    optimizer = OPTIMIZERS[name]
    built, _ = engine(backend, problem((3, 4, 2)), optimizer)
    start = built.parameters()
    rng = np.random.default_rng(0)
    steps = [
        Parameters(
            tuple(rng.normal(size=W.shape) for W in start.weights),
            tuple(rng.normal(size=b.shape) for b in start.biases),
        )
        for _ in range(4)
    ]
    rates = [0.1, 0.2, 0.05, 0.01]
    for gradients, lr in zip(steps, rates, strict=True):
        built.apply_gradients(gradients, lr)
    expected = [
        reference_steps(optimizer, theta, g, rates, is_weight=is_weight)
        for theta, *g, is_weight in zip(
            flat(start),
            *map(flat, steps),
            flat(
                Parameters(
                    *(
                        tuple(np.full(a.shape, i) for a in group)
                        for i, group in ((1.0, start.weights), (0.0, start.biases))
                    )
                )
            ),
            strict=True,
        )
    ]
    np.testing.assert_allclose(flat(built.parameters()), expected, rtol=1e-12, atol=1e-14)
    assert built.state().step == 4


def test_epsilon_hat_converges_to_epsilon():
    given = {"eps": 1e-3, "beta2": 0.99}
    assert set(Adam(**given).epsilons(0, 5)) == {1e-3}
    hat = Adam(**given, eps_hat=True).epsilons(0, 5000)
    assert hat[0] == pytest.approx(1e-3 / math.sqrt(0.01))
    assert hat[-1] == 1e-3
    assert (np.diff(hat) <= 0).all()
    np.testing.assert_array_equal(Adam(**given, eps_hat=True).epsilons(7, 3), hat[7:10])


def test_repr_of_adam_is_compatible_with_older_checkpoints():
    old = "Adam(lr=0.001, beta1=0.9, beta2=0.999, eps=1e-08, weight_decay=0.0)"
    assert repr(Adam()) == old
    assert repr(Adam(eps_hat=True)) == old[:-1] + ", eps_hat=True)"
    assert eval(repr(Adam(0.01, eps_hat=True))) == Adam(0.01, eps_hat=True)


def test_optimizers_by_name():
    assert make_optimizer("sgd", 0.5) == SGD(0.5)
    assert make_optimizer("momentum") == SGD(momentum=0.9)
    assert make_optimizer("nesterov") == SGD(momentum=0.9, nesterov=True)
    assert make_optimizer("adam") == Adam()
    assert make_optimizer("adamw", 0.01) == Adam(0.01, weight_decay=0.01)
    assert make_optimizer("lion") == Lion()
    with pytest.raises(UnknownNameError, match="optimizer 'lamb': choose one of sgd, momentum"):
        make_optimizer("lamb")


@pytest.mark.parametrize(
    "build",
    [
        lambda: SGD(0.0),
        lambda: SGD(float("nan")),
        lambda: SGD(momentum=1.0),
        lambda: SGD(nesterov=True),
        lambda: Adam(lr=-1),
        lambda: Adam(beta1=1.0),
        lambda: Adam(beta2=-0.1),
        lambda: Adam(eps=0.0),
        lambda: Adam(weight_decay=-1.0),
        lambda: Lion(beta2=1.0),
        lambda: Lion(weight_decay=float("nan")),
        lambda: Step(every=0),
        lambda: Step(factor=0.0),
        lambda: Exponential(1.5),
        lambda: InverseScaling(-1.0),
        lambda: OneCycle(rise=1.0),
        lambda: OneCycle(start_divisor=0.5),
        lambda: Adaptive(patience=0),
    ],
)
def test_invalid_hyper_parameters_are_rejected(build):
    with pytest.raises(InvalidInputError):
        build()


def all_rates(schedule, lr=1.0, steps_per_epoch=10, epochs=10, losses=()):
    return np.concatenate(
        [
            schedule.rates(
                lr, Span(e * steps_per_epoch, steps_per_epoch, steps_per_epoch, epochs, losses)
            )
            for e in range(epochs)
        ]
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_return_one_rate_per_step_for_any_division_of_an_epoch(name):
    schedule = make_schedule(name)
    rates = all_rates(schedule)
    assert rates.shape == (100,)
    assert rates.dtype == np.float64
    assert (rates >= 0).all()
    assert (rates <= 1).all()
    halves = [schedule.rates(1.0, Span(start, 5, 10, 10)) for start in range(0, 100, 5)]
    np.testing.assert_array_equal(np.concatenate(halves), rates)


def test_values_of_the_schedules():
    assert (all_rates(make_schedule("constant"), 0.3) == 0.3).all()
    np.testing.assert_allclose(
        all_rates(Step(3, 0.1))[::10], [1] * 3 + [0.1] * 3 + [0.01] * 3 + [0.001]
    )
    np.testing.assert_allclose(all_rates(Exponential(0.5))[::10], 0.5 ** np.arange(10))
    cosine = all_rates(Cosine())
    assert cosine[0] == 1
    assert cosine[-1] == pytest.approx(0, abs=1e-15)
    assert cosine[:50].sum() + cosine[50:].sum() == pytest.approx(50)
    np.testing.assert_allclose(all_rates(InverseScaling(0.5))[[0, 3, 99]], [1, 0.5, 0.1])
    cycle = all_rates(OneCycle())
    assert cycle[0] == pytest.approx(1 / 25)
    assert cycle.max() == pytest.approx(1, rel=1e-3)
    assert cycle.argmax() in (29, 30)
    assert cycle[-1] == pytest.approx(1 / 250_000)
    with pytest.raises(UnknownNameError, match="schedule 'linear'"):
        make_schedule("linear")


def test_half_cosines_and_inverse_powers_are_those_of_numpy():
    x, t = np.linspace(0.0, 1.0, 1001), np.arange(1.0, 1001.0)
    found = half_cosine(x)
    np.testing.assert_allclose(found, 0.5 * (1.0 + np.cos(np.pi * x)), rtol=0, atol=4e-16)
    np.testing.assert_allclose(found[::-1], 0.5 * (1.0 - np.cos(np.pi * x)), rtol=0, atol=4e-16)
    assert (found[0], found[-1]) == (1, 0)
    assert (np.diff(found) < 0).all()
    for power in (0.0, 0.5, 3.0):
        np.testing.assert_allclose(inverse_powers(t, power), t**-power, rtol=8e-15)


def test_powers_are_rounded_once():
    for base, first in ((0.95, 0), (0.95, 300), (1.0, 7), (0.5, 5)):
        exact = [float(Fraction(base) ** t) for t in range(first, first + 20)]
        assert powers(base, first, 20).tolist() == exact


RATES = {
    "constant": "477afa2cb9000084",
    "step": "23b454fe49d4bb46",
    "exponential": "bcefb12072c80d58",
    "cosine": "ccc1534f3aac5e50",
    "inverse-scaling": "e4b9843607bb3f82",
    "one-cycle": "cef3c39a4be360f6",
    "adaptive": "00ae0e223fe774e1",
}
"""Hashes of rates; they must be the same on every processor."""


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_have_the_same_bits_everywhere(name):
    rates = all_rates(make_schedule(name), lr=0.1, steps_per_epoch=7, epochs=30, losses=[1.0] * 30)
    assert hashlib.sha256(rates.tobytes()).hexdigest()[:16] == RATES[name]


def test_adaptive_reduces_the_rate_after_patience_epochs_without_improvement():
    schedule = Adaptive(factor=0.2, patience=2, tolerance=0.01)
    losses = [1.0, 0.5, 0.495, 0.499, 0.3, 0.31, 0.31, 0.31]
    rates = all_rates(schedule, steps_per_epoch=1, epochs=9, losses=losses)
    np.testing.assert_allclose(rates, [1, 1, 1, 1, 0.2, 0.2, 0.2, 0.04, 0.04])
