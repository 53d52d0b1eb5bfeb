"""How differently continuations speak of the groups."""

from types import SimpleNamespace

import numpy as np
import pytest
from bundled import NEUTRAL

from distill.metrics.generation_disparity.generation_disparity import measure as generation_disparity


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
