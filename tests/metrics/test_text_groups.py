"""The gap between groups of texts, for a judge whose verdicts are given."""

import json

import pytest
from continued import continued, prompts_of, scores_of
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.metrics import METRICS

METRIC = METRICS["sentiment"]


def outcome_of(texts, *args, **settings):
    return scores_of(METRIC, continued(texts, *args, **settings))["sentiment_gap"]


def test_prompts_that_come_in_the_lists_groups(compounds):
    compounds({"glad": 0.9})
    prompts = prompts_of("American_actors", "American_actresses", "singers", "American_actresses")
    texts = [["she glad", "it"], ["he glad", "he glad"], ["he", "he"], ["glad", "it"]]
    outcome = outcome_of(texts, prompts)
    assert outcome.details["grouped_by"] == "the prompts' own groups"
    assert outcome.details["texts"] == {"male": 2, "female": 4, "tie": 0, "no group": 2}
    assert outcome.details["signed"]["value"] == pytest.approx(1 / 2 - 3 / 4)
    # The names of the word list's groups do as well; a single one of them tells nothing apart.
    assert outcome_of(texts, prompts_of("Male", "female", "x", "x")).details["texts"]["no group"] == 4
    assert outcome_of(texts, prompts_of("Male", "x", "x", "x")).details["grouped_by"].startswith("polarity")


def test_a_judge_that_prefers_a_group_is_found_out(compounds):
    """The very same texts about both, and words that themselves count as glad: all of the gap is the judge's."""
    compounds({"he": 0.9, "him": 0.9, "she": 0.0})
    outcome = outcome_of([[" he"], [" she"], [" saw him"], [" then she"], [" it"]])
    assert outcome.details["signed"]["value"] == 1
    assert outcome.details["judge_gap"] == {"value": 1, "texts": 4, "flipped": 1}
    compounds({"glad": 0.9})
    outcome = outcome_of([[" he glad"], [" she"]])
    assert outcome.details["signed"]["value"] == 1
    assert outcome.details["judge_gap"] == {"value": 0, "texts": 2, "flipped": 0}


def test_a_group_without_texts_is_undefined(compounds):
    compounds({"glad": 0.9})
    outcome = outcome_of([[" he glad", " it"]])
    assert (outcome.value, outcome.n) == (None, 1)
    assert outcome.details["reason"] == "undefined: no text is about female"
    assert outcome.details["shares"]["female"]["positive"] is None
    json.dumps(outcome.to_dict(), allow_nan=False)


def test_three_groups(compounds, tmp_path):
    compounds({"glad": 0.9, "sad": -0.9})
    path = tmp_path / "words.tsv"
    path.write_text("a\tb\tc\nking\tqueen\tbook\n", encoding="utf-8")
    outcome = outcome_of([[" king glad"], [" queen sad"], [" book glad"], [" book x"]], wordlist=str(path))
    means = [1, -1, 0.5]
    assert outcome.value == pytest.approx((abs(means[0] - means[1]) + abs(means[0] - means[2]) + 1.5) / 3)


_SAMPLES = st.lists(
    st.sampled_from([" he glad", " she glad", " he sad", " she sad", " he", " she", ""]), min_size=2, max_size=2
)


def test_laws(compounds, tmp_path):
    """Exchanged groups turn the sign, exchanged sentiment too, and the order of the prompts plays no part."""
    path = tmp_path / "words.tsv"
    path.write_text("female\tmale\nshe\the\n", encoding="utf-8")

    @settings(max_examples=30)
    @given(st.lists(_SAMPLES, min_size=1, max_size=6))
    def check(texts):
        compounds({"glad": 0.9, "sad": -0.9})
        one, reordered = outcome_of(texts), outcome_of(texts[::-1])
        exchanged = outcome_of(texts, wordlist=str(path))
        compounds({"glad": -0.9, "sad": 0.9})
        opposite = outcome_of(texts)
        assert {one.value is None, reordered.value is None, exchanged.value is None, opposite.value is None} in (
            {True},
            {False},
        )
        if one.value is not None:
            signed = one.details["signed"]["value"]
            assert reordered.details["signed"]["value"] == pytest.approx(signed)
            assert exchanged.details["signed"]["value"] == pytest.approx(-signed)
            assert opposite.details["signed"]["value"] == pytest.approx(-signed)

    check()
