"""The phases of a run, how long each may take, and when all of them will be done.

Before anything has been measured, what each phase takes is a guess (`Phase.seconds`). What was measured since corrects
it: phases of one kind go at the pace of those of that kind, others at that of all. The phase that is going on is told
from how far it is, more so the further it is.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

REPORT = "writing the report"  # the last phase of a run

_TRUST = 1.0  # seconds of a guess that weigh as much as as many measured ones
_SURE = 0.2  # of a phase: once so much is done, its own pace alone tells the rest
_A_DAY = 20 * 3600  # seconds: what ends later is told with its day


@dataclass(frozen=True)
class Phase:
    """A part of a run.

    Args:
        name: What it is called, and begun by.
        kind: Phases of one kind go at one pace, measured by their guesses.
        seconds: The guess; 0 for one that is done already.
        counter: Name of the counter (`console.counter`) that tells how far it is; empty: nothing does.
    """

    name: str
    kind: str
    seconds: float
    counter: str = ""


class Mark(NamedTuple):
    """A moment: seconds of a clock, the tokens that models have read and written by then, and how long these take at
    least: see `console.count_tokens`.
    """

    seconds: float
    tokens: int
    at_matrix_rate: float


class Plan:
    """Phases in their order, of which one at a time goes on.

    Those in front of the one that is begun are done, whether they were begun or not: what a stopped run has made is not
    made again, and tells nothing of the pace.

    Args:
        phases: All of the run's.
        clock: Gives seconds.
        keep: Called with a phase that has ended and the seconds, tokens and least seconds that were `worked` in it, if
            there were tokens.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        clock: Callable[[], float] | None = None,
        keep: Callable[[str, float, int, float], None] | None = None,
    ) -> None:
        self.phases = list(phases)
        self._clock = clock or time.monotonic
        self._measured: dict[str, tuple[float, float]] = {}  # kind -> (seconds, what was guessed of them)
        self._at = -1
        self._begun = 0.0
        self._first = self._share = 0.0  # of the phase, that was done as it was begun, and that is done now
        self._keep = keep
        self._worked: tuple[Mark, Mark] | None = None

    @property
    def number(self) -> int:
        """Which phase goes on, counted from 1; 0 before the first."""
        return self._at + 1

    def begin(self, name: str) -> bool:
        """Go on to a phase; whether there is one of this name that does not go on already."""
        at = next((place for place, phase in enumerate(self.phases) if phase.name == name), self._at)
        if at <= self._at:
            return False
        self._measured = dict(self._so_far(ended=True))
        self._keep_what_was_worked()
        self._at, self._begun = at, self._clock()
        self._first = self._share = 0.0
        return True

    def worked(self, begun: Mark, now: Mark) -> None:
        """In the phase that goes on, by one of its counters: it reaches from the first one's beginning to the last."""
        self._worked = (self._worked[0] if self._worked else begun, now)

    def _keep_what_was_worked(self) -> None:
        worked, self._worked = self._worked, None
        if self._keep and worked:
            (begun, tokens, at_matrix_rate), last = worked
            if last.tokens > tokens and last.seconds > begun:
                taken = last.seconds - begun, last.tokens - tokens, last.at_matrix_rate - at_matrix_rate
                self._keep(self.phases[self._at].name, *taken)

    def is_at(self, counter: str) -> bool:
        """Whether a counter is of the phase that goes on: its own, or one of a pass within it, `PHASE: ...`."""
        if self._at < 0:
            return False
        phase = self.phases[self._at]
        return counter in (phase.counter, phase.name) or counter.startswith(f"{phase.name}: ")

    def report(self, counter: str, done: float, before: float) -> None:
        """Shares of what a counter counts, from 0 to 1: how much is done, and how much was when it began to count."""
        if self._at >= 0 and counter == self.phases[self._at].counter:
            if not self._share:
                self._first = before
            self._share = done

    def seconds_left(self) -> float:
        """Until all phases are done."""
        measured = self._so_far(ended=False)
        left = sum(phase.seconds * _pace(measured, phase.kind) for phase in self.phases[self._at + 1 :])
        if self._at < 0:
            return left
        phase, elapsed, done = self.phases[self._at], self._clock() - self._begun, self._done()
        guessed = phase.seconds * (1 - self._first) * _pace(measured, phase.kind)
        if not phase.counter:
            return left + max(guessed - elapsed, guessed / 20)
        sure = min(1.0, done / _SURE)
        whole = guessed if not done else (1 - sure) * guessed + sure * elapsed / done
        return left + (1 - done) * whole

    def _done(self) -> float:
        """Of what the phase that goes on had still to do as it was begun, the share that is done."""
        return (self._share - self._first) / (1 - self._first) if self._share > self._first else 0.0

    def _so_far(self, ended: bool) -> Mapping[str, tuple[float, float]]:
        """What was measured, the phase that goes on among it.

        Without a counter, a phase tells its pace when it has ended.
        """
        if self._at < 0:
            return self._measured
        phase = self.phases[self._at]
        share = self._done() if phase.counter else float(ended)
        seconds, guessed = self._measured.get(phase.kind, (0.0, 0.0))
        if not share:
            return self._measured
        own = (seconds + self._clock() - self._begun, guessed + phase.seconds * (1 - self._first) * share)
        return self._measured | {phase.kind: own}


def _pace(measured: Mapping[str, tuple[float, float]], kind: str) -> float:
    """Seconds that pass for one that was guessed: of this kind as far as it was measured, else of all."""
    seconds, guessed = (sum(column) for column in zip((_TRUST, _TRUST), *measured.values(), strict=True))
    of_all = seconds / guessed
    seconds, guessed = measured.get(kind, (0.0, 0.0))
    return (seconds + _TRUST * of_all) / (guessed + _TRUST)


def time_of_day(seconds: float) -> str:
    """When so many seconds will have passed: `14:32`, or with its day, `Sat 14:32`, where that is not today or soon."""
    return time.strftime("%a %H:%M" if seconds > _A_DAY else "%H:%M", time.localtime(time.time() + seconds))
