"""Turns that wait for a steady machine, with workers that follow a script."""

from __future__ import annotations

import pytest

from fusedmlp.bench import document, noise, results
from fusedmlp.bench.channel import WorkerError
from fusedmlp.bench.scheduler import Options, RoundRobin
from fusedmlp.bench.subjects import PEAK, Subject
from fusedmlp.bench.tasks import Task

TINY = Task("tiny", sizes=(6, 8, 3), inputs="normal", batch_size=8, rows=40, samples=40)
THE_PEAK, OTHER = Subject(PEAK, "", "numpy"), Subject("other", "", "numpy")
WIDE_PEAK, WIDE = (Subject(name, "", "numpy", threads=2) for name in (PEAK, "other"))

KNOWN = (10.0,) * noise.FIRST_SAMPLES
"""Rates from which the best one is known."""

OWN = (10.0,) * 3
"""Rates at the peak's own turn, which comes between the other's turn and repeats."""


class ScriptedChannel:
    """A worker whose turns take 1, 2, 3, … s; the peak's rates follow a script, then are 10."""

    def __init__(self, subject, rates=(), handovers=(), lasts=None):
        self.subject, self._lasts = subject, lasts
        self._rates, self._handovers = iter(rates), iter(handovers)
        self._turns = self._samples = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def greeting(self):
        return {"versions": {}, "is_gpu": False, "device": ""}

    def cpu_seconds(self):
        return 0.0

    def ask(self, do, **_):
        if do == "prepare":
            return {"prepare_seconds": 0.0}
        if do == "handover":
            return {"seconds": next(self._handovers, 1.0)}
        if do != "round":
            return {}
        if self.subject.name != PEAK:
            self._turns += 1
            return {"seconds": float(self._turns), "samples": 40}
        if self._samples == self._lasts:
            raise WorkerError("its process has ended")
        self._samples += 1
        return {"flops": next(self._rates, 10.0), "seconds": 1.0}


def one_round(*rates, subjects=(THE_PEAK, OTHER), monitor=True, say=print, **script):
    """Run one round with these rates; return the other's turn, and (disturbed, all) turns."""

    def channel(subject, _cpus, _timeout):
        return ScriptedChannel(subject, rates, **script)

    options = Options(
        lambda _task: (None, None),
        monitor_noise=monitor,
        wait_seconds=0.0,
        repeat_seconds=0.3,
        channel=channel,
    )
    found = document.new({}, [])
    with RoundRobin(subjects, found, say, options) as benchmark:
        benchmark._inputs = lambda _task: ""
        found["tasks"].append(benchmark.run(TINY, 1))
    (kept,) = (e["rounds"] for e in found["tasks"][0]["entries"] if e["peer"] == "other")
    return kept[0], results.unsteady(found["tasks"])


@pytest.mark.parametrize(
    ("rates", "seconds", "steadiness"),
    [
        ((9.6, 9.7), 1.0, 0.96),  # steady: the first turn counts
        ((5.0, 10.0), 2.0, 1.0),  # disturbed before: repeated
        ((10.0, 5.0), 2.0, 1.0),  # disturbed after: repeated
        ((10.0, 5.0, *OWN, 6.0, 7.0, 8.4, 9.6, 9.7), 2.0, 0.96),  # once the machine is steady
        ((20.0, 15.0, *[20.0] * 3, 20.0, 19.5), 2.0, 0.975),  # a faster sample is the new best
    ],
)
def test_a_disturbed_turn_is_repeated(rates, seconds, steadiness):
    kept, counted = one_round(*KNOWN, *rates)
    assert (kept["seconds"], kept["steadiness"]) == (seconds, pytest.approx(steadiness))
    assert counted == (0, 2)  # the peak's own turn is one


def test_a_machine_that_is_never_steady_keeps_the_first_turn():
    kept, counted = one_round(*KNOWN, *[5.0] * 100_000)
    assert (kept["seconds"], kept["steadiness"]) == (1.0, 0.5)
    assert counted == (2, 2)


@pytest.mark.parametrize(
    "given",
    [{"monitor": False}, {"subjects": (OTHER,)}, {"subjects": (THE_PEAK, WIDE)}],
)
def test_without_a_peak_on_as_many_threads_every_turn_counts(given):
    kept, _ = one_round(*KNOWN, 5.0, 5.0, **given)
    assert kept["seconds"] == 1.0
    assert "steadiness" not in kept


@pytest.mark.parametrize("lasts", [0, noise.FIRST_SAMPLES, noise.FIRST_SAMPLES + 1])
def test_a_peak_that_crashes_is_named_and_nothing_else_fails(lasts):
    said = []
    kept, counted = one_round(lasts=lasts, say=said.append)
    assert kept["seconds"] == 1.0
    assert counted == (0, 0)
    assert any("its process has ended" in line for line in said)


def test_slow_handovers_are_a_disturbance():
    handovers = (*[1.0] * noise.FIRST_SAMPLES, 1.0, 5.0, 1.0, 1.0, 1.0, 1.05)
    kept, counted = one_round(subjects=(WIDE_PEAK, WIDE), handovers=handovers)
    assert (kept["seconds"], kept["steadiness"]) == (2.0, pytest.approx(1 / 1.05))
    assert counted == (0, 2)


def test_handovers_within_one_core_are_no_bar_for_those_between_two():
    handovers = (*[0.5] * noise.FIRST_SAMPLES, 1.0, 1.05, *[1.0] * 100)
    slow = [5.0] * noise.FIRST_SAMPLES  # both threads share a core
    kept, counted = one_round(*slow, subjects=(WIDE_PEAK, WIDE), handovers=handovers)
    assert (kept["seconds"], kept["steadiness"]) == (1.0, pytest.approx(1 / 1.05))
    assert counted == (0, 2)


def test_the_machine_is_waited_for(monkeypatch):
    monkeypatch.setattr(noise, "PAUSE", 0.0)
    found = noise.NoiseMonitor(ScriptedChannel(THE_PEAK, (*KNOWN, 5.0, 6.0, 9.9)))
    assert found.wait() == pytest.approx(0.99)
