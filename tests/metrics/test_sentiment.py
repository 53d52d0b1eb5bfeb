"""The gap between groups by hand, for a sentiment that is given and for VADER's own."""

import sys

import pytest
from continued import continued, scores_of

from distill.metrics import METRICS, NotMeasured
from distill.text.prompts import Prompt

METRIC = METRICS["sentiment"]


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
