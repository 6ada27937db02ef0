"""What ``fusedmlp bench`` is made of: plans, counted work, rooflines, operations, comparisons."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fusedmlp.bench import (
    charts,
    compare,
    machine,
    material,
    parity,
    roofline,
    runner,
    summary,
    tables,
)
from fusedmlp.bench import plan as planning
from fusedmlp.bench.contestants import PEAK
from fusedmlp.bench.contract import UnsupportedError
from fusedmlp.bench.libraries import peak, triad
from fusedmlp.bench.libraries.ours import OwnPeer
from fusedmlp.bench.measure import first_rows, rows_for
from fusedmlp.bench.plan import Request
from fusedmlp.bench.tasks import Task
from fusedmlp.bench.work import work
from fusedmlp.datasets import load_digits
from fusedmlp.errors import InvalidInputError

TINY = Task("tiny", sizes=(6, 8, 3), inputs="normal", batch_size=8, rows=40, samples=40)
KINDS = ("forward", "gradients", "update", "evaluate")


def entry(peer, times, samples=100, **words):
    rounds = [{"seconds": t, "samples": samples} | words for t in times]
    return {"peer": peer, "threads": 1, "status": "measured", "reason": "", "rounds": rounds}


def entries(task, *found):
    return {
        "task": task.to_dict(),
        "flops_per_sample": task.flops_per_sample,
        "entries": list(found),
    }


def document(numpy_times, numba_times, peak=1e9):
    """A run of one training, as it is read from a file."""
    training = entries(
        replace(TINY, name="training"),
        entry(PEAK, [1.0] * 3, flops=peak),
        entry("fusedmlp-numpy", numpy_times),
        entry("fusedmlp-numba", numba_times),
    )
    found = {
        "schema": 1,
        "kind": "fusedmlp-bench",
        "command": ["fusedmlp", "bench"],
        "settings": {"rounds": 3},
        "machine": {"caches": {}, "cpu": "a CPU", "cores": 1},
        "date": "2026-01-01",
        "skipped": {},
        "tasks": [training],
        "predictions": [],
        "operations": [],
        "bandwidths": [],
    }
    return json.loads(json.dumps(found))


@pytest.fixture(scope="module")
def digits():
    return load_digits(0, 0.2)


def test_by_default_one_thing_changes_at_a_time(digits):
    found = planning.plan(Request(threads=(1,)), digits)
    pairs = {(task.sizes[1], task.batch_size) for task in found.trainings}
    assert pairs == {(256, 64), (256, 16), (256, 256), (256, 1_024), (64, 64), (1_024, 64)}
    assert (found.trainings[0].sizes, found.trainings[0].batch_size) == ((64, 256, 10), 64)
    assert all(task.sizes[0] == 64 and task.sizes[-1] == 10 for task in found.compared())
    assert [task.name for task in found.operations] == [
        "forward", "loss_and_gradients", "apply_gradients", "step", "evaluate", "predict",
    ]  # fmt: skip


def test_what_is_named_is_measured_in_every_combination(digits):
    networks = ((64, 5, 10), (64, 7, 7, 10))
    request = Request(networks=networks, batch_sizes=(4, 8), dtypes=("float32", "float64"))
    found = planning.plan(replace(request, threads=(1,), with_roofline=False), digits)
    assert len({task.name for task in found.trainings}) == len(found.trainings) == 8
    assert (found.operations, found.bandwidths) == ((), ())
    assert {task.dtype for task in found.predictions} == {"float32", "float64"}


def test_a_long_epoch_is_cut_in_whole_batches(digits):
    network = (64, 8_192, 8_192, 10)
    request = Request(networks=(network,), batch_sizes=(24,), threads=(1,), with_roofline=False)
    (task,) = planning.plan(request, digits).trainings
    assert task.samples % 24 == 0
    assert planning.LEAST_CALLS * 24 <= task.samples < len(digits.x_train)


def test_rows_are_given_in_the_types_that_engines_take(digits):
    training, *_ = planning.plan(Request(threads=(1,)), digits).trainings
    x, y = rows_for(training, digits)
    assert (len(x), y.dtype) == (training.rows, np.int64)
    predicted, _ = rows_for(replace(training, kind="predict", rows=50), digits)
    assert predicted.shape == (50, 64)
    assert predicted.dtype == np.float32
    assert set(first_rows(training, digits)) == {"x", "y", "x_test", "y_test"}


def test_work_is_counted_as_its_page_says():
    W, P, B, D, K, e = 6 * 8 + 8 * 3, 6 * 8 + 8 * 3 + 11, 8, 6, 3, 4
    one = replace(TINY, samples=B)
    found = {kind: work(replace(one, kind=kind)) for kind in (*KINDS, "train", "predict")}
    assert found["forward"].flops == found["predict"].flops == 2 * B * W
    assert found["forward"].bytes == e * (B * D + B * K + P)
    assert found["gradients"].flops == B * (6 * W - 2 * 6 * 8)
    assert found["gradients"].bytes == e * (B * D + 2 * P)
    assert (found["update"].flops, found["update"].bytes) == (2 * P, 3 * e * P)
    assert found["train"].flops == found["gradients"].flops + found["update"].flops
    assert found["train"].bytes == e * (B * D + 2 * P)
    adam = work(replace(one, kind="update", optimizer="adam"))
    assert (adam.flops, adam.bytes) == (12 * P, 7 * e * P)
    assert work(replace(one, is_pixels=True, kind="evaluate")).bytes == B * D + e * P
    two_steps = work(replace(TINY, samples=16))
    assert two_steps.flops == 2 * found["train"].flops
    assert two_steps.bytes == 2 * found["train"].bytes


def test_the_roof_is_that_of_the_smallest_level_which_holds_the_data():
    found = document([1.0], [1.0])
    found["machine"]["caches"] = {"L1 data": "1K", "L1 instruction": "9K", "L2 unified": "1M"}
    found["bandwidths"] = [
        entries(replace(TINY, name=name, kind="triad"), entry("triad", [1.0], bytes=rate))
        for name, rate in (("L1", 3e9), ("L2", 2e9), ("memory", 1e9))
    ]
    update = replace(TINY, name="apply_gradients", kind="update", samples=8)
    forward = replace(TINY, name="forward", kind="forward", samples=8, sizes=(6, 4_000, 3))
    found["operations"] = [
        entries(task, entry(PEAK, [1.0], flops=1e9), entry("fusedmlp-numpy", [1e-3], samples=8))
        for task in (update, forward)
    ]
    assert machine.capacities(2, found["machine"]["caches"]) == {"L1": 2_048, "L2": 2 << 20}
    near, far = roofline.points(found)
    assert (near.limit, near.bound) == ("L1", pytest.approx(2 / 12 * 3e9))
    assert near.rate == pytest.approx(2 * 83 / 1e-3)
    assert near.share == pytest.approx(near.rate / near.bound)
    assert (far.limit, far.bound) == ("FMA", 1e9)
    assert roofline.peak(found) == 1e9
    step = replace(TINY, name="step", samples=16)  # two steps a call
    measured = (entry(PEAK, [1.0], flops=1e9), entry("fusedmlp-numpy", [1e-3], samples=16))
    (point,) = roofline.points(found | {"operations": [entries(step, *measured)]})
    assert (point.seconds, point.rate) == (
        pytest.approx(5e-4),
        pytest.approx(work(step).flops / 1e-3),
    )
    rows = tables.operations(found).rows
    assert [row[0] for row in rows] == ["apply_gradients", "forward"]
    assert tables.limits(found).rows[-1][-1] == "1.0 GB/s"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_operations_agree_and_a_wrong_one_does_not(kind, dtype, tmp_path):
    task = replace(TINY, kind=kind, dtype=dtype, samples=8)
    material.write(task, tmp_path / "m")
    data = material.read(tmp_path / "m")
    found = runner.runner(OwnPeer(1, "numba"), task, data)
    figures = found.parity()
    assert parity.breach(task, figures) is None
    assert found.round(1)["samples"] >= task.samples
    wrong = [np.array(a) for a in data.expected]
    wrong[-1] = -wrong[-1]
    flipped = runner.runner(OwnPeer(1, "numba"), task, replace(data, expected=wrong))
    assert kind in parity.breach(task, flipped.parity())


def test_a_prediction_without_its_biases_is_a_breach(tmp_path):
    task = replace(TINY, kind="predict")
    material.write(task, tmp_path / "m")
    data = material.read(tmp_path / "m")
    assert parity.breach(task, runner.runner(OwnPeer(1, "numpy"), task, data).parity()) is None
    bare = replace(data.start, biases=tuple(np.zeros_like(b) for b in data.start.biases))
    without = runner.runner(OwnPeer(1, "numpy"), task, replace(data, start=bare))
    assert "a probability differs" in parity.breach(task, without.parity())


def test_records_are_medians_and_ratios_of_paired_rounds():
    found = document([2.0, 4.0, 4.0], [1.0, 1.0, 2.0])
    numpy, numba = summary.records(found)
    assert (numpy.samples_per_s, numpy.slowest, numpy.fastest) == (25.0, 25.0, 50.0)
    assert (numba.ratio, numba.reference, numba.spread) == (2.0, "numpy", 1.0)
    assert numba.share_of_peak == pytest.approx(TINY.flops_per_sample * 100 / 1e9)
    (numba_row, numpy_row) = tables.throughput(found, "training").rows
    assert (numba_row[2], numpy_row[2]) == ("numba", "numpy")
    assert "2.00" in numba_row
    assert "rounds differ by up to 100%" in tables.notes(found)[0]


def test_a_single_round_has_no_spread():
    found = document([2.0], [1.0])
    found["settings"]["rounds"] = 1
    table = tables.throughput(found, "training")
    at = [column.title for column in table.columns].index("spread")
    assert [row[at] for row in table.rows] == ["", ""]


def test_a_slower_machine_is_no_regression_but_a_slower_backend_is():
    before = document([1.0] * 3, [1.0] * 3, peak=2e9)
    throttled = document([2.0] * 3, [2.0] * 3, peak=1e9)
    found = compare.changes(before, throttled)
    assert [change.ratio for change in found] == [1.0, 1.0]
    assert all(change.is_normalised for change in found)
    assert compare.regressions(found, 0.9) == []
    slower = document([1.0] * 3, [1.25] * 3, peak=2e9)
    (change,) = compare.regressions(compare.changes(before, slower), 0.9)
    assert (change.engine, change.ratio) == ("numba", pytest.approx(0.8))
    assert tables.comparison(compare.changes(before, slower), 0.9).marks == ["good", "bad"]
    for each in before["tasks"]:
        each["entries"] = [e for e in each["entries"] if e["peer"] != PEAK]
    found = compare.changes(before, throttled)
    assert [change.ratio for change in found] == [0.5, 0.5]
    assert not any(change.is_normalised for change in found)


def test_a_round_that_is_as_fast_as_before_tells_a_busy_machine_from_slower_code():
    before = document([1.0] * 3, [1.0] * 3)
    busy, slower = document([1.0] * 3, [1.0, 3.0, 3.0]), document([1.0] * 3, [1.2, 3.0, 3.0])
    verdicts = [
        [change.verdict(0.9) for change in compare.changes(before, now)] for now in (busy, slower)
    ]
    assert verdicts == [["held", "unclear"], ["held", "slower"]]
    assert compare.regressions(compare.changes(before, busy), 0.9) == []
    assert tables.comparison(compare.changes(before, busy), 0.9).marks == ["good", ""]


def test_peers_are_compared_and_not_judged():
    before, now = document([1.0] * 3, [1.0] * 3), document([1.0] * 3, [1.0] * 3)
    for found, seconds in ((before, 1.0), (now, 9.0)):
        found["tasks"][0]["entries"].append(entry("jax", [seconds] * 3))
    found = compare.changes(before, now)
    assert [change.engine for change in found] == ["numpy", "numba", "jax"]
    assert compare.regressions(found, 0.9) == []


def test_pictures_are_drawn_of_what_is_there():
    found = document([2.0, 4.0, 4.0], [1.0, 1.0, 2.0])
    assert charts.over_batch(found) is None
    assert charts.rooflines(found) is None
    assert charts.phases(found) is None
    labels = [text.get_text() for text in charts.throughput(found).axes[0].texts]
    assert labels == ["100  (2.0 × numpy)", "25"]
    wider = document([1.0] * 3, [1.0] * 3)["tasks"][0]
    wider["task"] |= {"name": "wider", "batch_size": 16}
    found["tasks"].append(wider)
    assert charts.lines(found, "batch") == {
        ("numpy", 1, "6-8-3, float32"): [(8, 25.0), (16, 100.0)],
        ("numba", 1, "6-8-3, float32"): [(8, 100.0), (16, 100.0)],
    }
    assert len(charts.overview(found).axes) == 2


def test_unknown_caches_leave_the_memory_alone(monkeypatch, digits):
    monkeypatch.setattr(machine, "_caches", dict)
    found = planning.plan(Request(threads=(1,)), digits)
    assert [task.name for task in found.bandwidths] == [machine.MEMORY]


def test_targets_without_classes_are_refused():
    data = SimpleNamespace(task="regression", name="prices")
    with pytest.raises(InvalidInputError, match="prices is for regression"):
        planning.plan(Request(threads=(1,)), data)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_limits_do_what_they_count(dtype, monkeypatch):
    monkeypatch.setattr(peak, "ITERATIONS", 1_000)
    task = Task("limits", "triad", inputs="normal", rows=1_000, dtype=dtype)
    lanes = peak.VECTOR_BYTES // np.dtype(dtype).itemsize
    assert peak.Peak(2).limit(task)() == 2 * 2 * 1_000 * peak.ACCUMULATORS * lanes
    monkeypatch.setattr(triad, "MOVED", 10_000)
    moved = triad.Triad(2).limit(task)()
    assert moved >= 10_000
    assert moved % (3 * 1_000 * np.dtype(dtype).itemsize) == 0
    a, b, c = (np.full(5, value, dtype) for value in (0, 1, 2))
    triad._triad(a, b, c, np.arange(4, dtype=dtype))
    np.testing.assert_array_equal(a, 1 + 3 * 2)


@pytest.mark.parametrize("kind", ["train", "predict"])
@pytest.mark.parametrize("library", ["sklearn_mlp:SklearnMLP", "onnx_session:OnnxSession"])
def test_the_peers_that_tests_install_agree(library, kind, tmp_path):
    module, _, name = library.partition(":")
    module = pytest.importorskip(f"fusedmlp.bench.libraries.{module}")
    task = replace(TINY, kind=kind)
    material.write(task, tmp_path / "m")
    peer = getattr(module, name)(1)
    if (kind, name) == ("train", "OnnxSession"):
        with pytest.raises(UnsupportedError, match="does not train"):
            runner.runner(peer, task, material.read(tmp_path / "m"))
        return
    run = runner.runner(peer, task, material.read(tmp_path / "m"))
    assert parity.breach(task, run.parity()) is None
    assert run.round(1)["samples"] == 40
