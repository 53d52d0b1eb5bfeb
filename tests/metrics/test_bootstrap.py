"""Totals, intervals and paired differences against plain loops, the normal interval, and laws."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

import distill.metrics
from distill.metrics import (
    METRICS,
    Measurement,
    difference,
    score,
)
from distill.metrics.bootstrap import difference_of, resampled, resampled_totals


def test_resampled_totals_equal_a_plain_loop(monkeypatch):
    units = np.random.default_rng(1).normal(size=(7, 2))
    rng = np.random.default_rng(3)
    expected = [units[rng.integers(7, size=7)].sum(axis=0) for _ in range(50)]
    np.testing.assert_allclose(resampled_totals(units, 50, seed=3), expected)
    monkeypatch.setattr(distill.metrics.bootstrap, "_CELLS", 20)  # A few resamples at a time: the same ones.
    np.testing.assert_allclose(resampled_totals(units, 50, seed=3), expected)


def _mean(units, **fields) -> Measurement:
    units = np.column_stack([units, np.ones(len(units))])
    return Measurement(units, lambda t: t[..., 0] / t[..., 1], "prompt", len(units), "prompts", **fields)


CARD = METRICS["perplexity"].CARD


def test_interval_of_a_mean_is_near_the_normal_one():
    values = np.random.default_rng(0).normal(3, 2, size=400)
    outcome = score(CARD, _mean(values), resamples=4000, seed=0)
    half = 1.96 * values.std() / 20
    assert outcome.value == pytest.approx(values.mean())
    assert (outcome.low, outcome.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_interval_of_an_absolute_value_is_the_image_of_the_signed_one():
    for mean in (0.0, 0.05, 2.0, -2.0):
        values = np.random.default_rng(0).normal(size=100)
        values += mean - values.mean()
        signed = score(CARD, _mean(values), resamples=500, seed=0)
        outcome = score(CARD, _mean(values, absolute=True), resamples=500, seed=0)
        assert outcome.value == abs(signed.value)
        assert outcome.details["signed"] == {"value": signed.value, "low": signed.low, "high": signed.high}
        ends = sorted((abs(signed.low), abs(signed.high)))
        assert outcome.high == ends[1]
        assert outcome.low == (0 if signed.low < 0 < signed.high else ends[0])


@given(st_np.arrays(float, st.integers(0, 6), elements=st.floats(-10, 10)), st.booleans())
def test_a_model_does_not_differ_from_itself(values, absolute):
    outcome = difference(_mean(values, absolute=absolute), _mean(values, absolute=absolute), resamples=50, seed=0)
    if len(values) == 0:
        assert set(outcome.values()) == {None, 0}
        return
    assert outcome["value"] == 0
    assert (outcome["low"], outcome["high"]) == ((0, 0) if len(values) > 1 else (None, None))
    assert outcome["ratio"] in (1, None)
    json.dumps(outcome, allow_nan=False)


def test_a_constant_shift_is_found_without_noise():
    values = np.random.default_rng(0).normal(size=50)
    outcome = difference(_mean(values + 0.25), _mean(values), resamples=200, seed=0)
    assert [outcome[key] for key in ("value", "low", "high")] == pytest.approx([0.25] * 3)


def test_difference_and_ratio_of_absolute_values():
    first, second = _mean(np.full(4, -1.0), absolute=True), _mean(np.full(4, 4.0), absolute=True)
    outcome = difference(first, second, resamples=20, seed=0)
    assert outcome == {
        "value": -3, "low": -3, "high": -3, "ratio": 0.25, "ratio_low": 0.25, "ratio_high": 0.25, "n": 4,
    }  # fmt: skip


def test_how_much_farther_from_the_ideal_by_hand_and_by_a_plain_loop():
    """From one side of the ideal to the other, what counts is the distance."""
    later, earlier = np.array([40.0, 30.0, 45.0]), np.array([52.0, 54.0, 59.0])
    ours, theirs = (resampled(_mean(values), resamples=200, seed=0) for values in (later, earlier))
    found = difference_of(ours, theirs, aim=50.0)
    assert found["value"] == pytest.approx(115 / 3 - 55)
    assert found["farther"] == pytest.approx((50 - 115 / 3) - 5)
    draws = np.random.default_rng(0).integers(3, size=(200, 3))
    distances = [abs(later[drawn].mean() - 50) - abs(earlier[drawn].mean() - 50) for drawn in draws]
    assert [found["farther_low"], found["farther_high"]] == pytest.approx(np.quantile(distances, [0.025, 0.975]))
    back = difference_of(theirs, ours, aim=50.0)
    assert [back[key] for key in ("farther", "farther_low")] == pytest.approx(
        [-found[key] for key in ("farther", "farther_high")]
    )
    assert not difference_of(ours, theirs).keys() & {"farther", "farther_low", "farther_high"}
    lower = difference_of(ours, theirs, aim=np.inf)
    assert [lower[f"farther{end}"] for end in ("", "_low", "_high")] == pytest.approx(
        [-lower[end] for end in ("value", "high", "low")]
    )
    far = difference_of(ours, theirs, aim=1e6)  # of aims that no value reaches, the distances differ alike
    assert lower["farther_low"] == pytest.approx(far["farther_low"], rel=1e-6)
    unlike = resampled(_mean(earlier, too_little="nothing"), resamples=200, seed=0)
    assert difference_of(ours, unlike, aim=50.0)["farther"] is None


def test_models_measured_on_other_units_are_not_compared():
    with pytest.raises(ValueError, match="cannot pair 3 units with 2"):
        difference(_mean(np.ones(3)), _mean(np.ones(2)), resamples=10, seed=0)


@given(st_np.arrays(float, st.tuples(st.integers(0, 5), st.just(2)), elements=st.sampled_from([0.0, 1.0, 1e308])))
def test_undefined_values_are_none_and_never_nan(units):
    measurement = Measurement(units, lambda t: np.exp(t[..., 0] / t[..., 1]), "prompt", len(units), "prompts")
    outcome = score(CARD, measurement, resamples=20, seed=0)
    json.dumps(outcome.to_dict(), allow_nan=False)
    json.dumps(difference(measurement, measurement, resamples=20, seed=0), allow_nan=False)
    assert ("reason" in outcome.details) == (outcome.value is None)


@given(st_np.arrays(float, st.integers(2, 6), elements=st.floats(0, 10)), st.booleans())
def test_an_interval_holds_its_value(values, smallest):
    """Also where resampling moves the statistic to one side, as it does with a minimum or a ratio."""
    bounds = (0.0, 10.0) if smallest else None
    units = np.column_stack([values, values**2, np.ones(len(values))])
    measurement = Measurement(
        units, lambda t: np.sqrt(np.maximum(t[..., 1] / t[..., 2] - (t[..., 0] / t[..., 2]) ** 2, 0)), "prompt",
        len(units), "prompts", bounds=bounds,
    )  # fmt: skip
    outcome = score(CARD, measurement, resamples=30, seed=0)
    assert outcome.low <= outcome.value <= outcome.high
    assert bounds is None or 0 <= outcome.low <= outcome.high <= 10
    other = difference(measurement, _mean(values), resamples=30, seed=0)
    assert other["low"] <= other["value"] <= other["high"]
    if None not in (other["ratio"], other["ratio_low"]):
        assert other["ratio_low"] <= other["ratio"] <= other["ratio_high"]


def test_other_rulers_give_no_difference():
    values = np.arange(5.0)
    one = _mean(values, ruler={"tokenizer": "a", "context": 64})
    for ruler, reason in (
        ({"tokenizer": "b", "context": 64}, "no difference: it is counted in tokens, and the two models have other"),
        ({"tokenizer": "a", "context": 32}, "no difference: the text was read through windows of 64 and of 32 tokens"),
        ({"tokenizer": "a", "context": 64, "conversations": "c"}, "no difference: the two models' chat templates put"),
    ):
        found = difference(one, _mean(values, ruler=ruler), resamples=10, seed=0)
        assert found["instead"].startswith(reason)
        assert {found[key] for key in ("value", "low", "high", "ratio", "ratio_low", "ratio_high")} == {None}
    assert "instead" not in difference(one, one, resamples=10, seed=0)
