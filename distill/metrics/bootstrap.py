"""From sums per unit to a score with its interval, and to the paired difference of two models.

Every metric reduces a model to a table of sums, one row per unit (a prompt, a document), and to a statistic of the
column totals. A bootstrap resample is then a weighted total, and two models are compared on the same resamples: the
difference is paired by unit, and identical models differ by exactly 0 with an interval of width 0.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

CONFIDENCE = 0.95
TOO_LITTLE = "too little to tell"
# Not that of the run: runs of a study that differ in their seed are asked about the same prompts, by which they pair.
RESAMPLING_SEED = 0
_CELLS = 2**22  # Resampled indices held in memory at one time.

Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Card:
    """What a metric says about itself.

    Args:
        name: Key in scores.json; the name of its file, unless the metric has several scores.
        label: Row heading of a table.
        meaning: What it measures, in one or two sentences.
        formula: How.
        ideal: Value of a perfect model; `None` where there is none.
        direction: Which way is better.
        source: Where the definition comes from.
        limits: What it does not say.
        headline: Rank among the scores of which the first that was measured heads a report, from 1; `None`: none of
            them.
        role: In the trade-off that reports draw and name: a `disparity`, or the `cost` that is set against it, or what
            stands for that cost where the models have other tokenizers. `memory`: what the model remembers of its
            training text, a block of its own in every table. `None`: none of these.
        shows: What of its details reports show: `subjects` (the leaning of each subject), `texts` (texts of each
            polarity), `reference.KEY` (what texts by people score: `value`, or another score's name).
        plain: What it is called in the sentence that heads a report, where that is not its label.
        side: It is beside what a mitigation is for, and may break: where a mitigated model is worse than the other, by
            more than the interval of the difference, the head of a report says so.
    """

    name: str
    label: str
    meaning: str
    formula: str
    ideal: float | None
    direction: str
    source: str
    limits: str
    headline: int | None = None
    role: Literal["disparity", "cost", "cost across tokenizers", "memory"] | None = None
    shows: tuple[str, ...] = ()
    plain: str | None = None
    side: bool = False

    @property
    def aim(self) -> float | None:
        """What models are judged by, how far they lie from it: the ideal, or infinity for a score beside what is
        mitigated that has none and is better the higher it is; `None`: they are not judged by a distance.
        """
        return math.inf if self.side and self.ideal is None else self.ideal

    def to_dict(self) -> dict[str, Any]:
        """All but the name, which is its key in scores.json, ready for JSON."""
        return {key: value for key, value in asdict(self).items() if key != "name"} | {"shows": list(self.shows)}


@dataclass(frozen=True)
class Measurement:
    """What one model gave for one metric, before any statistics.

    Args:
        units: (N, C) float64, C sums for each of N units. A unit that says nothing holds zeros. Or (N,) ones, for a
            statistic that is no function of sums: its columns are then the units, C = N.
        statistic: (..., C) column totals -> (...) value; NaN or infinite where it is undefined. Of (N,) units: how
            often each of them was drawn.
        unit: What a row stands for: `prompt`, `document`.
        n: Observations behind the value (texts, positions, tokens), counted in `counted`.
        counted: What `n` counts.
        absolute: The score is the absolute value of the statistic. Its interval is then the image of the statistic's
            interval, because percentiles of absolute values near 0 would never reach 0.
        undetected: Share of observations that the metric could say nothing about; `None` where this has no meaning.
        details: Further results, ready for JSON.
        bounds: Least and largest value of a statistic that resampling biases, such as a minimum over few texts: its
            resamples are then moved so that their mean is the value, and kept within. `None`: they stay as they are.
        ruler: What the value is measured with beside the metric, see `Evaluation.ruler`: values of models that were
            measured with others cannot be subtracted.
        too_little: Why what was seen is too little to tell anything, see `enough`; `None` where it is not.
    """

    units: np.ndarray
    statistic: Statistic
    unit: str
    n: int
    counted: str
    absolute: bool = False
    undetected: float | None = None
    details: dict[str, Any] = field(default_factory=dict)
    bounds: tuple[float, float] | None = None
    ruler: Mapping[str, Any] = field(default_factory=dict)
    too_little: str | None = None


def undefined(reason: str) -> Measurement:
    """What stands in the place of a score that could not be measured."""
    return Measurement(
        np.zeros((0, 1)), lambda totals: totals[..., 0] * np.nan, "observation", 0, "observations",
        details={"reason": reason},
    )  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """A measurement after its statistics: what scores and paired differences are made of. Ready for JSON.

    Args:
        value: The statistic, with its sign; `None` where it is undefined.
        drawn: The statistic of each bootstrap resample; none with fewer than two units.
        units: Number of units.
        unit, n, counted, absolute, undetected, details, ruler, too_little: See `Measurement`.
    """

    value: float | None
    drawn: tuple[float, ...]
    units: int
    unit: str
    n: int
    counted: str
    absolute: bool
    undetected: float | None
    details: dict[str, Any]
    ruler: Mapping[str, Any] = field(default_factory=dict)
    too_little: str | None = None


def resampled(measurement: Measurement, *, resamples: int, seed: int) -> Outcome:
    """The statistic of a measurement and of its bootstrap resamples (Efron 1979)."""
    value = _value(measurement)
    drawn = _resampled(measurement, value, resamples, seed) if value is not None else np.empty(0)
    return Outcome(
        value,
        tuple(drawn.tolist()),
        len(measurement.units),
        measurement.unit,
        measurement.n,
        measurement.counted,
        measurement.absolute,
        finite(measurement.undetected),
        measurement.details,
        measurement.ruler,
        measurement.too_little,
    )


def reported(outcome: Outcome) -> Outcome:
    """The outcome as reports and studies have it: where too little was seen, the reason is in the value's place.

    A number that looks good because nothing was seen shall not be read as a score, nor be subtracted from one. It goes
    into the details, as `seen`, and what a reader is shown instead, as `instead`.
    """
    if outcome.too_little is None or not outcome.units:  # where there is nothing at all, that is said
        return outcome
    reason = f"{TOO_LITTLE}: {outcome.too_little}"
    details = {**outcome.details, "reason": reason, "instead": reason, "seen": outcome.value}
    return replace(outcome, value=None, drawn=(), details=details)


@dataclass(frozen=True)
class Score:
    """One number about one model, with all that is needed to judge it.

    Args:
        value: The score; `None` where it is undefined.
        low: Lower end of the 95% bootstrap interval; `None` with fewer than two units.
        high: Upper end.
        n: Observations behind the value.
        ideal: Value of a perfect model; `None` where there is none.
        direction: Which way is better.
        undetected: Share of observations that the metric could say nothing about.
        details: Units, signed value, tables per group, decoding settings, seed, hash of the word list, and, where the
            value is undefined, the reason.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    ideal: float | None
    direction: str
    undetected: float | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries for JSON."""
        return asdict(self)


def finite(value: float | np.floating | np.ndarray | None) -> float | None:
    """The value, a number or an array of shape (), as a Python float, or `None` if it is no number: JSON has no NaN."""
    return float(value) if value is not None and math.isfinite(value) else None


def ratio(totals: np.ndarray) -> np.ndarray:
    """The statistic of a mean or a share: (..., 2) totals of what is summed and of what it is divided by -> (...)."""
    return totals[..., 0] / totals[..., 1]


def with_ones(values: np.ndarray | Sequence[float]) -> np.ndarray:
    """The units of a mean: (N,) or (N, C) values -> (N, C + 1), with a column of ones behind them."""
    return np.column_stack([values, np.ones(len(values))])


def resampled_totals(units: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Column totals of bootstrap resamples of the rows.

    Args:
        units: (N, C), or (N,) for the weights of the units themselves.
        resamples: R.
        seed: The same seed and N give the same resamples, whatever the table holds.

    Returns:
        (R, C) totals; (R, N) weights.
    """
    number = len(units)
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // max(1, number))
    totals = np.zeros((resamples, units.shape[-1]))
    for first in range(0, resamples, step):
        rows = min(step, resamples - first)
        drawn = rng.integers(number, size=(rows, number)) + number * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * number).reshape(rows, number)
        totals[first : first + rows] = weights @ units if units.ndim == 2 else weights * units
    return totals


def score(card: Card, measurement: Measurement, *, resamples: int, seed: int) -> Score:
    """Value and 95% percentile interval of one model's measurement, even where too little was seen: see `reported`."""
    return score_of(card, resampled(measurement, resamples=resamples, seed=seed))


def score_of(card: Card, outcome: Outcome) -> Score:
    """Value and 95% percentile interval."""
    value = outcome.value
    low, high = interval(np.array(outcome.drawn), value)
    details = {"unit": outcome.unit, "units": outcome.units, "counted": outcome.counted}
    if outcome.absolute:
        details["signed"] = {"value": value, "low": low, "high": high}
        value, low, high = _absolute(value, low, high)
    if value is None:
        details["reason"] = f"undefined: no {outcome.unit} gave a usable value"
    return Score(
        value, low, high, outcome.n, card.ideal, card.direction, outcome.undetected, details | outcome.details
    )  # fmt: skip


def difference(first: Measurement, second: Measurement, *, resamples: int, seed: int) -> dict[str, Any]:
    """`difference_of` two measurements, even where too little was seen: see `reported`."""
    ours, theirs = (resampled(one, resamples=resamples, seed=seed) for one in (first, second))
    return difference_of(ours, theirs)


def distance(values: float | np.ndarray, aim: float) -> Any:
    """How far values lie from an aim; from infinity, how far less than 0 they are: of two distances, the difference
    alone says something, and that is the limit of those to ever greater aims.
    """
    return np.negative(values) if math.isinf(aim) else np.abs(np.subtract(values, aim))


def difference_of(first: Outcome, second: Outcome, aim: float | None = None) -> dict[str, Any]:
    """First minus second, and the ratio of their absolute values, both paired by unit.

    The two must come from the same number of resamples and the same seed.

    Args:
        first, second: Two models' outcomes of one score.
        aim: What the two are judged by, the card's `aim`.

    Returns:
        `value`, `low`, `high` of the difference, `ratio`, `ratio_low`, `ratio_high`, and `n` units; with an aim also
        `farther`, `farther_low`, `farther_high`: by how much the first lies farther from it than the second. `None` for
        what is undefined. Where the two cannot be compared, none of them, and `instead`: why.

    Raises:
        ValueError: the two were not measured on the same units.
    """
    outcome: dict[str, Any] = dict.fromkeys(("value", "low", "high", "ratio", "ratio_low", "ratio_high"))
    outcome["n"] = min(first.units, second.units)
    outcome |= {} if aim is None else dict.fromkeys(("farther", "farther_low", "farther_high"))
    if reason := no_difference(first, second):
        return outcome | {"instead": reason}
    if first.value is None or second.value is None:
        return outcome
    if first.units != second.units:
        raise ValueError(f"cannot pair {first.units} units with {second.units}")
    values, drawn = (first.value, second.value), (np.array(first.drawn), np.array(second.drawn))
    if first.absolute:
        values, drawn = (abs(values[0]), abs(values[1])), (np.abs(drawn[0]), np.abs(drawn[1]))
    outcome["value"] = values[0] - values[1]
    if aim is not None:
        outcome["farther"] = float(distance(values[0], aim) - distance(values[1], aim))
        distances = distance(drawn[0], aim) - distance(drawn[1], aim)
        outcome["farther_low"], outcome["farther_high"] = interval(distances, outcome["farther"])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        outcome["low"], outcome["high"] = interval(drawn[0] - drawn[1], outcome["value"])
        if values[1] != 0:
            outcome["ratio"] = finite(np.abs(np.float64(values[0]) / values[1]))
            outcome["ratio_low"], outcome["ratio_high"] = interval(np.abs(drawn[0] / drawn[1]), outcome["ratio"])
    return outcome


def no_difference(first: Outcome, second: Outcome) -> str | None:
    """Why a value cannot be subtracted from another, though both may be sound; `None` where it can."""
    for outcome in (first, second):
        if outcome.too_little is not None:
            return f"{TOO_LITTLE}: {outcome.too_little}"
    ours, theirs = first.ruler.get("tokenizer"), second.ruler.get("tokenizer")
    if ours != theirs:
        return "no difference: it is counted in tokens, and the two models have other tokenizers"
    ours, theirs = first.ruler.get("context"), second.ruler.get("context")
    if ours != theirs:
        return f"no difference: the text was read through windows of {ours} and of {theirs} tokens"
    if first.ruler.get("conversations") != second.ruler.get("conversations"):
        return "no difference: the two models' chat templates put other text around what is said in the conversations"
    return None


def _value(measurement: Measurement) -> float | None:
    if len(measurement.units) == 0 or measurement.n == 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        units = measurement.units
        return finite(measurement.statistic(units.sum(axis=0) if units.ndim == 2 else units))


def _resampled(measurement: Measurement, value: float, resamples: int, seed: int) -> np.ndarray:
    if len(measurement.units) < 2:
        return np.empty(0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        drawn = measurement.statistic(resampled_totals(measurement.units, resamples, seed))
    if measurement.bounds is None or not np.isfinite(drawn).any():
        return drawn
    return np.clip(drawn + (value - drawn[np.isfinite(drawn)].mean()), *measurement.bounds)


def interval(values: np.ndarray, value: float | None = None) -> tuple[float | None, float | None]:
    """95% percentile interval. Undefined resamples are left out; with more of them than not there is no interval.

    Args:
        values: The statistic of each resample.
        value: That of the sample itself. The interval reaches to it where resampling has moved all but a few to one
            side, as it does with ratios of small numbers.
    """
    kept = values[np.isfinite(values)]
    if len(kept) * 2 <= len(values):
        return None, None
    low, high = map(float, np.quantile(kept, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    return (low, high) if value is None else (min(low, value), max(high, value))


def _absolute(
    value: float | None, low: float | None, high: float | None
) -> tuple[float | None, float | None, float | None]:
    if value is None or low is None or high is None:
        return (None if value is None else abs(value)), None, None
    ends = sorted((abs(low), abs(high)))
    return abs(value), (0.0 if low <= 0 <= high else ends[0]), ends[1]
