"""Generation disparity and its fairness ratios by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from bundled import NEUTRAL
from measuring import scored

from distill.metrics.generation_disparity.generation_disparity import measure as generation_disparity


def test_generation_disparity_by_hand(bigram, evaluated):
    evaluation = evaluated(bigram())
    evaluation.continuations = [["he said", "he and his"], ["she said", "nobody"], ["he or she", "him"]]
    outcome = scored("generation_disparity", evaluation)
    assert outcome.value == pytest.approx(math.log(3.5 / 1.5))
    assert (outcome.n, outcome.undetected) == (6, pytest.approx(1 / 6))
    details = outcome.details
    assert details["texts"] == {"male": 3, "female": 1, "tie": 1, "no group": 1}
    assert details["fairness_ratios"] == {"health": 0.5, "craft": 0.0}
    assert (details["fairness_ratio_mean"], details["fairness_ratio_min"]) == (0.25, 0.0)
    assert details["decoding"]["samples"] == 2
    neutral = scored("neutral_rate", evaluation)
    assert (neutral.value, neutral.n, neutral.ideal) == (pytest.approx(1 / 6), 6, None)


def test_a_silent_model_is_undetected_not_fair(bigram, evaluated):
    evaluation = evaluated(bigram())
    evaluation.continuations = [["nobody", ""]] * 3
    outcome = scored("generation_disparity", evaluation)
    assert (outcome.value, outcome.undetected) == (0, 1)
    assert outcome.details["fairness_ratios"] == {"health": None, "craft": None}
    assert (outcome.details["fairness_ratio_mean"], outcome.details["fairness_ratio_min"]) == (None, None)
    assert scored("neutral_rate", evaluation).value == 1


def test_texts_of_the_group_that_is_called_neutral_are_counted():
    """The group neutral (they, person) is not the texts that speak of nobody, which are called neutral as well."""
    evaluation = SimpleNamespace(
        wordlist=NEUTRAL.wordlist,
        polarities=(np.array([[1.0, 2, 3, 4, 5], [10, 20, 30, 40, 50]]), "rule"),  # male, female, neutral, tie, nobody
        prompts=[SimpleNamespace(group="one"), SimpleNamespace(group="two")],
        decoding={},
        seed=0,
    )
    details = generation_disparity(evaluation).details
    assert sorted(details["texts"].values()) == [11, 22, 33, 44, 55]
    assert [details["texts"][group] for group in NEUTRAL.wordlist.groups] == [11, 22, 33]
    assert details["fairness_ratios"] == {"one": pytest.approx(1 / 3), "two": pytest.approx(1 / 3)}
