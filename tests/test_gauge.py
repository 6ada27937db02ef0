"""Turns that wait for a steady machine, with workers that follow a script."""

from __future__ import annotations

import pytest

from fusedmlp.bench import document, driver, figures, gauge
from fusedmlp.bench.channel import WorkerError
from fusedmlp.bench.contestants import PEAK, Contestant
from fusedmlp.bench.libraries import handover
from fusedmlp.bench.tasks import Task

TINY = Task("tiny", sizes=(6, 8, 3), inputs="normal", batch_size=8, rows=40, samples=40)
THE_PEAK, PEER = Contestant(PEAK, "", "numpy"), Contestant("peer", "", "numpy")
WIDER = Contestant("peer", "", "numpy", threads=2)
THE_WIDE_PEAK = Contestant(PEAK, "", "numpy", threads=2)


class Clock:
    """Time that passes with turns and pauses alone."""

    now = 0.0

    @classmethod
    def monotonic(cls):
        return cls.now

    @classmethod
    def sleep(cls, seconds):
        cls.now += seconds


class Scripted:
    """A worker whose turns take 1, 2, 3, … s; what the gauge finds is a script's, then its best."""

    rates: tuple[float, ...] = ()
    handovers: tuple[float, ...] = ()
    lasts: int | None = None

    def __init__(self, contestant, cpus):
        self.contestant = contestant
        self._rates, self._handovers, self._turns = iter(self.rates), iter(self.handovers), 0
        self._looks = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def hello(self):
        return {"versions": {}, "is_gpu": False, "device": ""}

    def cpu_seconds(self):
        return 0.0

    def ask(self, do, **_):
        if do == "prepare":
            return {"prepare_seconds": 0.0, "exact": True, "difference": 0.0,
                    "loss": 1.0, "expected_loss": 1.0}  # fmt: skip
        if do == "handover":
            return {"seconds": next(self._handovers, 1.0)}
        if do != "round":
            return {}
        if self.contestant.name == PEAK:
            if self.lasts is not None and self._looks == self.lasts:
                raise WorkerError("its process has ended")
            self._looks += 1
            return {"flops": next(self._rates, 10.0), "seconds": 1.0}
        self._turns += 1
        Clock.sleep(self._turns)
        return {"seconds": float(self._turns), "samples": 40}


@pytest.fixture
def turns(monkeypatch):
    """Run one round of a peer beside a peak with these rates; return the round that is kept."""

    def run(*rates, contestants=(THE_PEAK, PEER), steady=True):
        monkeypatch.setattr(driver, "Channel", Scripted)
        monkeypatch.setattr(Scripted, "rates", rates)
        monkeypatch.setattr(gauge, "PATIENCE", 0.0)
        for module in (driver, gauge):
            monkeypatch.setattr(module, "time", Clock)
        found = document.new({}, [])
        with driver.Contest(contestants, found, print, steady=steady) as contest:
            found["tasks"].append(contest.run(TINY, 1))
        (kept,) = (e["rounds"] for e in found["tasks"][0]["entries"] if e["peer"] == "peer")
        return kept[0], figures.unsteady(found["tasks"])

    return run


KNOWN = (10.0,) * gauge.TRIALS
"""Rates from which the best one is known."""

OWN = (10.0,) * 3
"""What the peak finds at its own turn, which comes between the peer's and those taken again."""


def test_a_steady_machine_s_first_turn_counts(turns):
    kept, counted = turns(*KNOWN, 9.6, 9.7)
    assert kept["seconds"] == 1.0
    assert kept["steadiness"] == pytest.approx(0.96)
    assert counted == (0, 2)  # the peak's own turn is one


@pytest.mark.parametrize("rates", [(5.0, 10.0), (10.0, 5.0)])
def test_a_turn_that_was_disturbed_before_or_after_is_taken_again(turns, rates):
    kept, counted = turns(*KNOWN, *rates)
    assert (kept["seconds"], kept["steadiness"]) == (2.0, 1.0)
    assert counted == (0, 2)


def test_a_turn_is_taken_again_once_the_machine_is_steady(turns):
    kept, counted = turns(*KNOWN, 10.0, 5.0, *OWN, 6.0, 7.0, 8.4, 9.6, 9.7)
    assert (kept["seconds"], kept["steadiness"]) == (2.0, pytest.approx(0.96))
    assert counted == (0, 2)


def test_of_disturbed_turns_the_least_disturbed_is_kept(turns):
    # One that takes 1 s, and until 5 more are over, such of 2 and 3 s; the next would be steady.
    kept, counted = turns(*KNOWN, 10.0, 5.0, *OWN, 10.0, 8.0, 10.0, 6.0, 10.0, 10.0)
    assert (kept["seconds"], kept["steadiness"]) == (2.0, pytest.approx(0.8))
    assert counted == (1, 2)


def test_who_is_never_steady_keeps_the_first_turn(turns):
    kept, counted = turns(*KNOWN, *[5.0] * 10_000)
    assert (kept["seconds"], kept["steadiness"]) == (1.0, 0.5)
    assert counted == (2, 2)


def test_a_faster_look_is_the_new_best(turns):
    kept, _ = turns(*KNOWN, 20.0, 15.0, *[20.0] * 3, 20.0, 19.5)
    assert (kept["seconds"], kept["steadiness"]) == (2.0, pytest.approx(0.975))


@pytest.mark.parametrize(
    "given",
    [
        {"steady": False},
        {"contestants": (PEER,)},
        {"contestants": (THE_PEAK, WIDER)},
    ],
)
def test_without_a_peak_of_as_many_threads_every_turn_counts(turns, given):
    kept, _ = turns(*KNOWN, 5.0, 5.0, **given)
    assert kept["seconds"] == 1.0
    assert "steadiness" not in kept


def test_the_machine_is_waited_for(monkeypatch):
    monkeypatch.setattr(Scripted, "rates", (*KNOWN, 5.0, 6.0, 9.9))
    monkeypatch.setattr(gauge, "PAUSE", 0.0)
    found = gauge.Gauge(Scripted(THE_PEAK, []))
    assert found.wait() == pytest.approx(0.99)


@pytest.mark.parametrize("looks", [0, gauge.TRIALS, gauge.TRIALS + 1])
def test_a_gauge_that_dies_is_named_and_nobody_else_fails(turns, monkeypatch, capsys, looks):
    monkeypatch.setattr(Scripted, "lasts", looks)
    kept, counted = turns()
    assert kept["seconds"] == 1.0
    assert counted == (0, 0)
    assert "its process has ended" in capsys.readouterr().out


def test_slow_handovers_are_no_steady_machine(turns, monkeypatch):
    monkeypatch.setattr(
        Scripted, "handovers", (*[1.0] * gauge.TRIALS, 1.0, 5.0, 1.0, 1.0, 1.0, 1.05)
    )
    kept, counted = turns(contestants=(THE_WIDE_PEAK, WIDER))
    assert (kept["seconds"], kept["steadiness"]) == (2.0, pytest.approx(1 / 1.05))
    assert counted == (0, 2)


def test_handovers_within_one_core_are_no_measure_of_those_between_two(turns, monkeypatch):
    seconds = (*[0.5] * gauge.TRIALS, 1.0, 1.05, *[1.0] * 100)
    monkeypatch.setattr(Scripted, "handovers", seconds)
    kept, counted = turns(*[5.0] * gauge.TRIALS, contestants=(THE_WIDE_PEAK, WIDER))
    assert (kept["seconds"], kept["steadiness"]) == (1.0, pytest.approx(1 / 1.05))
    assert counted == (0, 2)


def test_a_baton_goes_round_all_threads(monkeypatch):
    monkeypatch.setattr(handover, "ROUNDS", 3)
    monkeypatch.setattr(handover, "FIRST_ROUNDS", 2)
    monkeypatch.setattr(handover, "TIMES", 2)
    relay, seen = handover.compile_relay(), []

    def noted(baton, place, runners, first, last):
        relay(baton, place, runners, first, last)
        seen.append((place, first, last, int(baton[0])))

    assert handover.seconds(noted, 2) > 0
    assert sorted(each[:3] for each in seen) == [(0, 0, 2), (0, 2, 5), (0, 5, 8), (1, 0, 8)]
    assert max(each[3] for each in seen) == 16
