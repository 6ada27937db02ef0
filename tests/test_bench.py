"""The benchmark harness: plans, counted work, parity, results, comparisons, charts."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fusedmlp.bench import (
    charts,
    compare,
    page,
    parity,
    peak,
    prepare,
    results,
    runner,
    tables,
)
from fusedmlp.bench import plan as planning
from fusedmlp.bench.backend_adapter import BackendAdapter
from fusedmlp.bench.measure import rows_for
from fusedmlp.bench.plan import Request
from fusedmlp.bench.subjects import PEAK
from fusedmlp.bench.tasks import Task
from fusedmlp.datasets import load_digits
from fusedmlp.errors import InvalidInputError
from fusedmlp.registry import backend_class

TINY = Task("tiny", sizes=(6, 8, 3), inputs="normal", batch_size=8, rows=40, samples=40)


def entry(peer, times, samples=100, **words):
    rounds = [{"seconds": t, "samples": samples} | words for t in times]
    return {"peer": peer, "threads": 1, "status": "measured", "reason": "", "rounds": rounds}


def entries(task, *found):
    flops = task.flops_per_sample
    return {"task": task.to_dict(), "flops_per_sample": flops, "entries": list(found)}


def document(numpy_times, numba_times, peak=1e9):
    """A run of one training, as it is read from a file."""
    training = entries(
        replace(TINY, name="training"),
        entry(PEAK, [1.0] * 3, flops=peak),
        entry("fusedmlp-numpy", numpy_times),
        entry("fusedmlp-numba", numba_times),
    )
    found = {
        "settings": {"rounds": len(numpy_times)},
        "machine": {"caches": {}, "cpu": "a CPU", "cores": 1},
        "date": "2026-01-01",
        "skipped": {},
        "tasks": [training],
        "predictions": [],
    }
    return json.loads(json.dumps(found))


def prepared(task):
    return prepare.prepare(task, prepare.named_rows, backend_class("numpy")())


def breach(task, inputs, backend="numpy"):
    run = runner.make_runner(BackendAdapter(1, backend), task, lambda: inputs)
    return parity.breach(task, run.parity())


@pytest.fixture(scope="module")
def digits():
    return load_digits(0, 0.2)


def test_by_default_one_thing_changes_at_a_time(digits):
    found = planning.plan(Request(threads=(1,)), digits)
    pairs = {(task.sizes[1], task.batch_size) for task in found.trainings}
    assert pairs == {(256, 64), (256, 16), (256, 256), (256, 1_024), (64, 64), (1_024, 64)}
    assert (found.trainings[0].sizes, found.trainings[0].batch_size) == ((64, 256, 10), 64)


def test_named_networks_and_batch_sizes_are_combined(digits):
    request = Request(
        networks=((64, 5, 10), (64, 7, 7, 10)),
        batch_sizes=(4, 8),
        dtypes=("float32", "float64"),
        threads=(1,),
    )
    found = planning.plan(request, digits)
    assert len({task.name for task in found.trainings}) == len(found.trainings) == 8
    assert {task.dtype for task in found.predictions} == {"float32", "float64"}


def test_a_long_epoch_is_cut_in_whole_batches(digits):
    request = Request(networks=((64, 8_192, 8_192, 10),), batch_sizes=(24,), threads=(1,))
    (task,) = planning.plan(request, digits).trainings
    assert task.samples % 24 == 0
    assert planning.LEAST_CALLS * 24 <= task.samples < len(digits.x_train)


def test_regression_data_are_refused():
    data = SimpleNamespace(task="regression", name="prices")
    with pytest.raises(InvalidInputError, match="prices is for regression"):
        planning.plan(Request(threads=(1,)), data)


def test_predictions_get_floats(digits):
    training, *_ = planning.plan(Request(threads=(1,)), digits).trainings
    x, y = rows_for(training, digits)
    assert (len(x), y.dtype) == (training.rows, np.int64)
    predicted, _ = rows_for(replace(training, kind="predict", rows=50), digits)
    assert (predicted.shape, predicted.dtype) == ((50, 64), np.float32)


def test_the_products_of_a_row_are_counted_as_documented():
    D, H, K = TINY.sizes
    W = D * H + H * K
    assert TINY.flops_per_sample == 6 * W - 2 * D * H  # no delta of the inputs
    assert replace(TINY, kind="predict").flops_per_sample == 2 * W


def test_a_document_with_a_roofline_is_read_without_it():
    """Documents written before 0.1 may have one, and their tasks say whether inputs are bytes."""
    found = document([1.0] * 3, [1.0] * 3)
    found["tasks"][0]["task"]["is_pixels"] = True
    triad = entry("triad", [1.0], bytes=1e9) | {"status": "failed", "reason": "of the roofline"}
    task = TINY.to_dict() | {"kind": "triad", "name": "memory"}
    found["bandwidths"] = [{"task": task, "flops_per_sample": 0, "entries": [triad]}]
    found["operations"] = [entries(replace(TINY, name="step"), entry("fusedmlp-numpy", [9.0]))]
    without = document([1.0] * 3, [1.0] * 3)
    assert results.records(found) == results.records(without)
    assert tables.notes(found) == tables.notes(without)
    assert len(charts.overview(found).axes) == 1
    changes = compare.compare(found, without, 0.9).changes
    assert [change.ratio for change in changes] == [1.0, 1.0]


class Clocked(runner.Runner):
    """Calls that take given seconds of a clock that nothing else moves."""

    def __init__(self, task, lasting):
        super().__init__(task)
        self.now, self.calls, self._lasting = 0.0, 0, lasting

    def parity(self):
        return {}

    def call(self, number):
        self.now += self._lasting(self.calls)
        self.calls += 1
        return {"loss": 0.5}


@pytest.mark.parametrize(
    ("seconds", "lasting", "calls", "each"),
    [
        (0.0, lambda _n: 0.25, 1, 0.25),
        (1.0, lambda _n: 2.0, 1, 2.0),
        # One interruption does not show, neither in single calls nor in stretches of them.
        (1.0, lambda n: 0.5 if n == 2 else 0.25, 3, 0.25),
        (1.0, lambda n: 0.25 if n == 30 else 2.0**-8, 223, 2.0**-8),
    ],
)
def test_a_round_counts_by_its_median_stretch(seconds, lasting, calls, each):
    run = Clocked(replace(TINY, seconds=seconds), lasting)
    found = run.round(1, clock=lambda: run.now)
    assert run.calls == calls
    assert found == {"loss": 0.5, "seconds": calls * each, "samples": calls * TINY.samples}


def test_a_prediction_without_biases_is_a_breach():
    task = replace(TINY, kind="predict")
    inputs = prepared(task)
    assert breach(task, inputs) is None
    bare = replace(inputs.start, biases=tuple(np.zeros_like(b) for b in inputs.start.biases))
    assert "a probability differs" in breach(task, replace(inputs, start=bare))


def test_a_training_that_does_not_move_is_a_breach():
    start, end = [np.ones((3, 2))], [np.ones((3, 2)) + 1e-6]
    assert runner.path_difference(start, end, start) == pytest.approx(1.0)
    answer = {"exact": True, "difference": 1.0, "loss": 2.0, "expected_loss": 2.0}
    assert "weights" in parity.breach(TINY, answer)
    assert "loss" in parity.breach(TINY, answer | {"difference": 0.0, "loss": 2.1})
    assert "nan" in parity.breach(TINY, answer | {"difference": float("nan")})
    assert parity.breach(TINY, answer | {"exact": False, "loss": 2.1}) is None
    assert "loss" in parity.breach(TINY, answer | {"exact": False, "loss": 2.5})
    assert parity.breach(TINY, answer | {"difference": 0.02, "slack": 32.0}) is None


def test_records_are_medians_and_ratios_of_paired_rounds():
    found = document([2.0, 4.0, 4.0], [1.0, 1.0, 2.0])
    numpy, numba = results.records(found)
    assert (numpy.samples_per_s, numpy.slowest, numpy.fastest) == (25.0, 25.0, 50.0)
    assert (numba.ratio, numba.reference, numba.spread) == (2.0, "numpy", 1.0)
    assert numba.share_of_peak == pytest.approx(TINY.flops_per_sample * 100 / 1e9)
    (numba_row, numpy_row) = tables.throughput(found, "training").rows
    assert (numba_row[2], numpy_row[2]) == ("numba", "numpy")
    assert "2.00" in numba_row
    assert "rounds differ by up to 100%" in tables.notes(found)[0]


@pytest.mark.parametrize(
    ("numba", "said"),
    [
        (
            [1.0, 1.0, 2.0],
            "numba reaches 100 samples/s, but its rounds overlap with those of numpy",
        ),
        ([1.0, 1.0, 1.5], "numba is the fastest with 100 samples/s, 2.7 times as many as numpy"),
    ],
)
def test_the_fastest_is_named_only_if_the_spread_allows_it(numba, said):
    found = document([2.0, 4.0, 4.0], numba) | {"dataset": {"name": "digits"}}
    assert said in page.summary(found)


def test_a_single_round_has_no_spread():
    table = tables.throughput(document([2.0], [1.0]), "training")
    at = [column.title for column in table.columns].index("spread")
    assert [row[at] for row in table.rows] == ["", ""]


def test_a_slower_backend_is_a_regression_and_a_slower_machine_is_not():
    before = document([1.0] * 3, [1.0] * 3, peak=2e9)
    throttled = document([2.0] * 3, [2.0] * 3, peak=1e9)
    found = compare.compare(before, throttled, 0.9)
    assert [(each.ratio, each.is_normalised) for each in found.changes] == [(1.0, True)] * 2
    assert found.slower == []
    slower = document([1.0] * 3, [1.25] * 3, peak=2e9)
    found = compare.compare(before, slower, 0.9)
    (change,) = found.slower
    assert (change.engine, change.ratio) == ("numba", pytest.approx(0.8))
    assert tables.comparison(found).marks == ["good", "bad"]
    before["tasks"][0]["entries"].pop(0)  # without the peak
    found = compare.compare(before, throttled, 0.9)
    assert [(each.ratio, each.is_normalised) for each in found.changes] == [(0.5, False)] * 2


def test_one_round_as_fast_as_before_is_unclear():
    before = document([1.0] * 3, [1.0] * 3)
    busy, slower = document([1.0] * 3, [1.0, 3.0, 3.0]), document([1.0] * 3, [1.2, 3.0, 3.0])
    verdicts = [
        [change.verdict(0.9) for change in compare.compare(before, now, 0.9).changes]
        for now in (busy, slower)
    ]
    assert verdicts == [["held", "unclear"], ["held", "slower"]]


def test_charts_show_what_was_measured():
    found = document([2.0, 4.0, 4.0], [1.0, 1.0, 2.0])
    assert charts.phases(found) is None
    (bars,) = charts.overview(found).axes
    labels = [text.get_text() for text in bars.texts]
    assert labels == ["100  (2.0 × numpy)", "25"]
    wider = document([1.0] * 3, [1.0] * 3)["tasks"][0]
    wider["task"] |= {"name": "wider", "batch_size": 16}
    found["tasks"].append(wider)
    assert charts.lines(found, "batch") == {
        ("numpy", 1, "6-8-3, float32"): [(8, 25.0), (16, 100.0)],
        ("numba", 1, "6-8-3, float32"): [(8, 100.0), (16, 100.0)],
    }
    assert len(charts.overview(found).axes) == 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_peak_does_what_it_counts(dtype):
    lanes = peak.VECTOR_BYTES // np.dtype(dtype).itemsize
    flops = peak.Peak(2, iterations=1_000).peak(replace(TINY, dtype=dtype))()
    assert flops == 2 * 2 * 1_000 * peak.ACCUMULATORS * lanes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_multiply_adds_are_computed(dtype):
    found = peak.fma_loop(dtype)(3)
    a = [1.0 + index / 64 for index in range(peak.ACCUMULATORS)]
    for _ in range(3):
        a = [each * 0.999 + 0.001 for each in a]
    assert found == pytest.approx(sum(a), rel=1e-5)


def test_a_relay_visits_every_number():
    loop, counter = peak.relay_loop(), np.zeros(1, np.int64)
    peak.run_threads(1, loop, counter.ctypes.data, 0, 5, 1)
    assert counter[0] == 5
    assert peak.handover_seconds(loop, 2, rounds=3) > 0
