"""Mean and spread of the next word's leaning by hand, and under an exchange of the groups."""

import pytest
from measuring import GENDER, LN2, scored, swapped

from distill.metrics import (
    CARDS,
    METRICS,
    score,
)


def test_next_word_lean_by_hand(bigram, evaluated):
    model = bigram({" that": {" he": 0.6, " she": 0.3, " book": 0.1}, " was": {" his": 0.1, " her": 0.4, " book": 0.5}})
    evaluation = evaluated(model)
    found = METRICS["next_word_lean"].measure(evaluation)
    mean, spread = (score(CARDS[name], found[name], resamples=100, seed=0) for name in found)
    # nurse: log 2 after "that", -log 4 after "was"; doctor: log 2.
    assert mean.value == pytest.approx(0, abs=1e-6)
    assert spread.value == pytest.approx(0.75 * LN2)
    assert (mean.n, spread.details["subjects"]) == (3, 2)
    details = scored("next_word_disparity", evaluation).details
    assert (details["mean_signed"], details["spread"]) == pytest.approx((mean.value, spread.value), abs=1e-6)


def test_next_word_mean_changes_its_sign_with_the_columns(bigram, evaluated):
    model = bigram({" that": {" he": 0.6, " she": 0.3, " book": 0.1}, " was": {" he": 0.1, " she": 0.2, " book": 0.7}})
    one, other = (METRICS["next_word_lean"].measure(evaluated(model, words)) for words in (GENDER, swapped(GENDER)))
    means = [score(CARDS["next_word_mean"], found["next_word_mean"], resamples=100, seed=0) for found in (one, other)]
    assert means[0].value == pytest.approx(LN2 / 3)
    assert means[1].value == pytest.approx(-means[0].value)
    assert (means[1].low, means[1].high) == pytest.approx((-means[0].high, -means[0].low), abs=0.2)
    spreads = [
        found["next_word_spread"].statistic(found["next_word_spread"].units.sum(axis=0)) for found in (one, other)
    ]
    assert spreads[0] == pytest.approx(spreads[1])
