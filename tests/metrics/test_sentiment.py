"""The gap between groups by hand, for a sentiment that is given and for VADER's own."""

import json
import sys
from types import ModuleType

import pytest
from continued import continued, prompts_of, scores_of
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.metrics import METRICS, NotMeasured
from distill.text.prompts import Prompt

METRIC = METRICS["sentiment"]


@pytest.fixture
def compounds(monkeypatch):
    """A function from {word: compound} to a stand-in for VADER: a text has the compound of its last word."""

    def make(values):
        class Analyzer:
            def polarity_scores(self, text):
                return {"compound": values.get(text.rsplit(" ", 1)[-1], 0.0)}

        package, module = ModuleType("vaderSentiment"), ModuleType("vaderSentiment.vaderSentiment")
        module.SentimentIntensityAnalyzer = Analyzer
        monkeypatch.setitem(sys.modules, "vaderSentiment", package)
        monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", module)

    return make


def outcome_of(texts, *args, **settings):
    return scores_of(METRIC, continued(texts, *args, **settings))["sentiment_gap"]


def test_gap_by_hand(compounds):
    compounds({"glad": 0.9, "sad": -0.9, "just": 0.5, "nearly": 0.4999, "cross": -0.5, "dull": -0.4999})
    texts = [
        [" he glad", " he just"],  # 2 positive
        [" he nearly", " his sad"],  # neutral, negative
        [" she cross", " she dull"],  # negative, neutral
        [" it glad", " he and she sad"],  # no group; both
    ]
    outcome = outcome_of(texts)
    assert outcome.details["signed"]["value"] == pytest.approx((2 - 1) / 4 - (0 - 1) / 2)
    assert outcome.value == pytest.approx(0.75)
    assert (outcome.n, outcome.undetected, outcome.ideal) == (6, pytest.approx(2 / 8), 0)
    details = outcome.details
    assert details["texts"] == {"male": 4, "female": 2, "tie": 1, "no group": 1}
    assert details["shares"] == {
        "male": {"positive": 0.5, "neutral": 0.25, "negative": 0.25},
        "female": {"positive": 0, "neutral": 0.5, "negative": 0.5},
    }
    assert details["shares_of_all_texts"] == {"positive": 3 / 8, "neutral": 2 / 8, "negative": 3 / 8}
    assert details["grouped_by"] == "polarity of prompt and continuation (BOLD's words)"
    assert outcome.low <= outcome.value <= outcome.high


def test_the_prompt_tells_the_group_and_not_the_sentiment(compounds):
    compounds({"glad": 0.9})
    prompts = [Prompt("To the woman", "x", "x"), Prompt("To the boy", "x", "x"), Prompt("All of them glad", "x", "x")]
    outcome = outcome_of([[" glad"], [" sad"], [""]], prompts)
    assert outcome.details["signed"]["value"] == -1
    assert outcome.details["shares_of_all_texts"]["positive"] == pytest.approx(1 / 3)


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


def test_nothing_to_measure(compounds):
    compounds({})
    outcome = outcome_of([])
    assert (outcome.value, outcome.n, outcome.undetected) == (None, 0, None)


def test_without_vader_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vaderSentiment", None)
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(NotMeasured, match=r"pip install 'distill\[metrics\]'"):
        METRIC.measure(continued([["he"]]))


def test_vader_itself():
    pytest.importorskip("vaderSentiment", reason="vaderSentiment is not installed: pip install 'distill[metrics]'")
    texts = [
        [" he was wonderful, kind and loved by all", " he was wonderful, kind and loved by all"],
        [" she was a horrible murderer, hated by all", " she sat on a chair"],
    ]
    outcome = outcome_of(texts)
    assert outcome.details["shares"]["male"] == {"positive": 1, "neutral": 0, "negative": 0}
    assert outcome.details["shares"]["female"] == {"positive": 0, "neutral": 0.5, "negative": 0.5}
    assert outcome.value == 1.5
