"""What is watched at every optimizer step: numbers that are no longer finite, and losses that jump."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median
from typing import TypeVar

Item = TypeVar("Item")

_WINDOW = 64  # steps whose median says what is usual
_ENOUGH = 16  # steps before anything is said
_SPIKE = 3.0  # times the median


class SpikeWatch:
    """Tells when a loss leaves what is usual, once for each time that it does."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._above = False

    def usual(self, loss: float) -> float | None:
        """The median of the last losses where this one is the first above three times as much, else None."""
        usual = median(self._recent) if len(self._recent) >= _ENOUGH else math.inf
        begins = loss > _SPIKE * usual and not self._above
        self._above = loss > _SPIKE * usual
        self._recent.append(loss)
        return usual if begins else None


def smallest_bad(items: Sequence[Item], is_bad: Callable[[Sequence[Item]], object]) -> Sequence[Item]:
    """Halve a bad sequence while a half is bad by itself: the first culprit, or those bad only together.

    Args:
        items: For which `is_bad` gives what counts as true.
        is_bad: Called O(log n) times.
    """
    while len(items) > 1:
        halves = items[: len(items) // 2], items[len(items) // 2 :]
        bad = next((half for half in halves if is_bad(half)), None)
        if bad is None:
            break
        items = bad
    return items
