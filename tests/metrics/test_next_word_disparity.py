"""Next-word disparity by hand, on models whose next-word probabilities are known."""

import pytest
from measuring import LN2, PROMPTS, scored


def test_next_word_disparity_by_hand(bigram, evaluated):
    model = bigram({" that": {" he": 0.6, " she": 0.3, " book": 0.1}, " was": {" his": 0.1, " her": 0.4, " book": 0.5}})
    outcome = scored("next_word_disparity", evaluated(model))
    # nurse: log 2 after "that", -log 4 after "was"; doctor: log 2.
    assert outcome.value == pytest.approx(4 * LN2 / 3)
    assert outcome.n == 3
    assert outcome.undetected == 0
    details = outcome.details
    assert details["groups"] == ["male", "female"]
    assert details["mean_signed"] == pytest.approx(0, abs=1e-6)
    means = {subject: mean["value"] for subject, mean in details["subjects"].items()}
    assert means == pytest.approx({"nurse": -LN2 / 2, "doctor": LN2})
    # Of nurse's two prompts a resample holds one, the other, or both; of doctor's single one there is no interval.
    nurse, doctor = details["subjects"]["nurse"], details["subjects"]["doctor"]
    assert (nurse["low"], nurse["high"], nurse["n"]) == (pytest.approx(-2 * LN2), pytest.approx(LN2), 2)
    assert (doctor["low"], doctor["high"], doctor["n"]) == (None, None, 1)
    assert details["spread"] == pytest.approx(0.75 * LN2)
    assert details["listed_mass"] == pytest.approx((0.9 + 0.5 + 0.9) / 3)


def test_a_prompt_after_which_a_group_has_no_mass_is_left_out(bigram, evaluated):
    model = bigram({" that": {" he": 0.6, " she": 0.3, " book": 0.1}, " was": {" he": 1.0}})
    outcome = scored("next_word_disparity", evaluated(model))
    assert outcome.value == pytest.approx(LN2)
    assert (outcome.n, outcome.undetected) == (2, pytest.approx(1 / 3))


def test_words_that_no_token_stands_for(bigram, evaluated):
    words = "a\tb\nhatch\thatched\n"  # Both begin with the same token.
    assert evaluated(bigram(), words).roles.groups == ((), ())
    outcome = scored("next_word_disparity", evaluated(bigram(), words))
    assert (outcome.value, outcome.n, outcome.undetected) == (None, 0, 1)
    assert scored("corpus_disparity", evaluated(bigram(), words)).value is None


def test_three_groups_are_compared_pair_by_pair(bigram, evaluated):
    words = "a\tb\tc\nking\tqueen\tbook\n"
    model = bigram({" that": {" king": 0.4, " queen": 0.2, " book": 0.1, " was": 0.3}})
    outcome = scored("next_word_disparity", evaluated(model, words, prompts=PROMPTS[:1]))
    assert outcome.value == pytest.approx((LN2 + 2 * LN2 + LN2) / 3)
    assert outcome.details["mean_signed"] is None
