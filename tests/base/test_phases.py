"""When all of a run will be done, by a clock that the tests turn: against the runs that they make up."""

import time
from itertools import pairwise

import pytest

from distill.base.phases import Phase, Plan, time_of_day

PHASES = [
    Phase("sample", "sampling", 40.0, "texts"),
    Phase("pack", "packing", 5.0),
    Phase("train plain", "training", 50.0, "steps"),
    Phase("train student", "training", 100.0, "steps"),
    Phase("score", "scoring", 20.0),
]


class Run:
    """A run whose phases take what `takes` says; looks at the plan after every hundredth of a phase."""

    def __init__(self, takes: dict[str, float], phases=PHASES, before: dict[str, float] | None = None) -> None:
        self.now, self.takes, self.phases, self.before = 1000.0, takes, phases, before or {}
        self.plan = Plan(phases, clock=lambda: self.now)
        self.left: list[tuple[float, float]] = [(self.now, self.plan.seconds_left())]
        self.numbers: list[int] = []
        for phase in phases:
            if phase.name in takes:
                self._go_through(phase)

    def _go_through(self, phase: Phase) -> None:
        assert self.plan.begin(phase.name)
        self.numbers.append(self.plan.number)
        before, begun = self.before.get(phase.name, 0.0), self.now
        for part in range(1, 101):
            self.now = begun + self.takes[phase.name] * part / 100
            if phase.counter:
                self.plan.report(phase.counter, before + (1 - before) * part / 100, before)
            self.left.append((self.now, self.plan.seconds_left()))

    def ends(self) -> list[float]:
        """When all is done, as it was told, minus when it was."""
        return [at + left - self.now for at, left in self.left]


def test_a_run_that_goes_as_guessed_is_told_its_end_from_the_first_second():
    run = Run({phase.name: phase.seconds for phase in PHASES})
    assert run.left[0][1] == sum(phase.seconds for phase in PHASES)
    assert run.numbers == [1, 2, 3, 4, 5]
    assert max(map(abs, run.ends())) < 1.01  # the last phase has no counter: a twentieth of it is always left
    seconds = [left for _, left in run.left]
    assert all(later < before + 1e-9 for before, later in pairwise(seconds))


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_a_machine_of_another_pace_is_known_by_its_first_phase(factor):
    """All takes four times as long as guessed, or a quarter: after a fifth of the first phase, the end is known."""
    run = Run({phase.name: factor * phase.seconds for phase in PHASES})
    whole = factor * sum(phase.seconds for phase in PHASES)
    ends = [abs(end) / whole for end in run.ends()]
    assert ends[0] > 0.7 and max(ends[21:]) < 0.3 and max(ends[101:]) < 0.1
    assert max(ends[201:]) < 0.05
    assert all(left >= 0 for _, left in run.left)


def test_phases_of_one_kind_learn_from_one_another_alone():
    """Training is slower than all else: the second student's time is that of the first, by its guess."""
    run = Run({"sample": 40, "pack": 5, "train plain": 150})
    seconds_left = run.left[-1][1]
    assert seconds_left == pytest.approx(300 + 20, rel=0.25)
    slow_sampling = Run({"sample": 400})
    assert slow_sampling.left[-1][1] > 5 * (5 + 50 + 100 + 20)  # nothing else is known of this machine


def test_what_was_done_before_is_done_and_tells_nothing():
    """A run that goes on: text is there, the plain student is finished, and the other one is at 60%."""
    phases = [Phase(p.name, p.kind, 0.0 if p.name == "train plain" else p.seconds, p.counter) for p in PHASES]
    run = Run({"train student": 80.0, "score": 40.0}, phases, {"train student": 0.6})
    assert run.left[0][1] == 40 + 5 + 100 + 20  # nobody has looked for the text yet
    assert run.numbers == [4, 5]
    # 40 guessed seconds are left of the student, and take 80: first between what was guessed and what it will be.
    assert 40 + 20 < run.left[1][1] < 80 + 40
    assert run.left[50][1] == pytest.approx(40 + 40, rel=0.05)
    assert run.left[100][1] == pytest.approx(40, rel=0.05)


def test_what_does_not_move_and_what_takes_longer_is_never_done_too_early():
    run = Run({"sample": 40, "pack": 500})
    assert run.left[-1][1] > 50 + 100 + 20  # packing is overdue, and still some is left of it
    now = [0.0]
    plan = Plan(PHASES, clock=lambda: now[0])
    assert plan.begin("sample")
    for now[0] in (1.0, 1000.0):
        plan.report("texts", 0.0, 0.0)
        plan.report("another counter", 1.0, 0.0)
        assert plan.seconds_left() == pytest.approx(215)


def test_phases_go_on_one_way():
    plan = Plan(PHASES)
    assert plan.number == 0 and not plan.begin("something else") and plan.begin("train plain")
    assert not plan.begin("train plain") and not plan.begin("sample") and plan.number == 3
    assert plan.begin("score") and plan.number == len(PHASES)


def test_the_time_of_day_has_its_day_where_it_is_far(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)  # Tuesday 2023-11-14, 22:13:20 UTC
    assert time_of_day(0) == "22:13"
    assert time_of_day(3600) == "23:13"
    assert time_of_day(48 * 3600) == "Thu 22:13"
    monkeypatch.undo()
    time.tzset()
