"""Agreement: its sentences, models whose pronouns are known, and likelihoods one sentence at a time."""

import re
from collections import Counter

import numpy as np
import pytest
from measuring import alone

from distill.metrics import CARDS, METRICS, Evaluation, measured, score
from distill.metrics.benchmark_text import Likelihood
from distill.recipe import ScoreConfig
from distill.text.counterfactual import Swapper
from distill.text.wordlist import load_wordlist

agreement = METRICS["agreement"]
MALE = re.compile(r"\b(he|him|his|himself)\b", re.IGNORECASE)
_PAIRS = "1 The clerk saw [the mover] and thanked [{}].\n2 The CEO and [the clerk] sold [{}] car.\n"
WINOBIAS = {
    "male_occupations.txt": "mover\nCEO\n",
    "female_occupations.txt": "clerk\nbaker\n",
    "pro_stereotyped_type2.txt.dev": _PAIRS.format("him", "her"),
    "anti_stereotyped_type2.txt.dev": _PAIRS.format("her", "his"),
}


@pytest.fixture
def evaluation(toy_model, toy_tokenizer, short_wordlist):
    """A function from settings to an evaluation of a toy model."""

    def make(model=None, **settings):
        settings = ScoreConfig(**{"bootstrap": 200} | settings)
        return Evaluation(model or toy_model(), toy_tokenizer, short_wordlist, settings=settings)

    return make


def scored(evaluation: Evaluation) -> dict:
    found = measured(agreement, evaluation).items()
    return {name: score(CARDS[name], m, resamples=evaluation.settings.bootstrap, seed=0) for name, m in found}


def judging(monkeypatch, likes):
    """Let a function from a whole text to a log-likelihood stand for the model; returns the texts it was asked."""
    asked = []

    def likelihood(_, texts, what):
        asked.extend(texts)
        return Likelihood(np.array([float(likes(before + after)) for before, after in texts]), np.ones(len(texts)), 0)

    monkeypatch.setattr(agreement, "likelihood", likelihood)
    return asked


# --------------------------------------------------------------------------------------------------------- sentences


def test_the_sentences_are_many_and_even():
    rows = agreement.read_rows()
    assert 2 * len(rows) >= 200
    assert set(Counter(row.role for row in rows)) == set(agreement.PRONOUNS)
    assert len(set(Counter(row.role for row in rows).values())) == 1
    assert len({(row.male, row.female) for row in rows}) >= 60
    texts = [before + after for row in rows for group in (0, 1) for before, after in agreement.readings(row, group)]
    assert len(set(texts)) == len(texts) == 4 * len(rows)


def test_a_sentence_is_the_counterfactual_of_its_pair():
    """The swap of the whole list turns noun and pronoun, and nothing else, both ways: no other word tells a group."""
    wordlist = load_wordlist("english_gender")
    swapper = Swapper(wordlist)
    for row in agreement.read_rows():
        about_him, about_her = ("".join(agreement.readings(row, group)[0]) for group in (0, 1))
        assert swapper.counterfactuals(about_him)[0].text == about_her
        assert swapper.counterfactuals(about_her)[0].text == about_him
        assert len(swapper.matches(about_him)) == 2
        groups = [wordlist.group_of.get(noun.lower()) for noun in (row.male, row.female)]
        assert groups == [wordlist.groups.index(group) for group in agreement.GROUPS]


def test_readings_by_hand():
    row = agreement.Row("object", "lad", "lass", "The {noun} ran, but we saw {pronoun} again.")
    assert agreement.readings(row, 1) == [("The lass ran, but we saw", " her again."),
                                          ("The lass ran, but we saw", " him again.")]  # fmt: skip
    row = agreement.Row("subject", "lad", "lass", "The {noun} fell, and {pronoun} cried.")
    assert agreement.readings(row, 0) == [("The lad fell, and", " he cried."), ("The lad fell, and", " she cried.")]


# --------------------------------------------------------------------------------------------------------- decisions


def test_one_that_always_says_he_keeps_half(monkeypatch, evaluation):
    judging(monkeypatch, lambda text: 3.0 * bool(MALE.search(text)))
    outcome = scored(evaluation())
    kept, ratio = outcome["agreement_kept"], outcome["agreement_log_ratio"]
    assert (kept.value, kept.low, kept.high) == (0.5, 0.5, 0.5)
    assert (kept.n, kept.ideal, kept.undetected) == (256, 1.0, 0.0)
    assert (ratio.value, ratio.ideal) == (0.0, None)
    assert kept.details["groups"] == {"male": {"kept": 1.0, "n": 128}, "female": {"kept": 0.0, "n": 128}}


def test_one_that_knows_nouns_keeps_all_and_one_that_knows_nothing_none(monkeypatch, evaluation):
    nouns = {row.male.lower() for row in agreement.read_rows()}

    def knows(text):
        about_him = any(re.search(rf"\b{re.escape(noun)}\b(?!-)", text.lower()) for noun in nouns)
        return 2.0 * (about_him == bool(MALE.search(text)))

    judging(monkeypatch, knows)
    assert {name: entry.value for name, entry in scored(evaluation()).items()} == {
        "agreement_kept": 1.0,
        "agreement_log_ratio": 2.0,
    }
    judging(monkeypatch, lambda _: 0.0)  # a tie is not kept
    nothing = scored(evaluation())["agreement_kept"]
    assert (nothing.value, nothing.undetected) == (0.0, 1.0)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_log_ratios_one_sentence_at_a_time(architecture, toy_model, toy_tokenizer, evaluation, monkeypatch):
    keys = {"gpt2": "n_positions", "llama": "max_position_embeddings"}
    model = toy_model(architecture, **{keys[architecture]: 128})
    rows = agreement.read_rows()[::8]
    monkeypatch.setattr(agreement, "read_rows", lambda: rows)
    expected = [
        np.subtract(*(alone(model, toy_tokenizer, before + after) for before, after in agreement.readings(row, group)))
        for row in rows
        for group in (0, 1)
    ]
    outcome = scored(evaluation(model))
    assert outcome["agreement_log_ratio"].value == pytest.approx(np.mean(expected), abs=1e-3)
    assert outcome["agreement_kept"].value == np.mean(np.array(expected) > 0)
    roles = outcome["agreement_kept"].details["roles"]
    assert roles["object"] == {"kept": np.mean(np.array(expected[8:16]) > 0), "n": 8}


# ---------------------------------------------------------------------------------------------------------- WinoBias


def test_winobias_says_first_of_whom_the_pronoun_is(monkeypatch, evaluation, tmp_path):
    (tmp_path / "winobias").mkdir()
    for name, text in WINOBIAS.items():
        (tmp_path / "winobias" / name).write_text(text, encoding="utf-8")
    asked = judging(monkeypatch, lambda text: "mover is a woman" in text and text.endswith("thanked her."))
    outcome = scored(evaluation(data=str(tmp_path)))
    told, others = "The mover is a man.", "The mover is a woman."
    him, her = " The clerk saw the mover and thanked him.", " The clerk saw the mover and thanked her."
    assert asked[4 * 128 :][:4] == [(told, him), (told, her), (others, her), (others, him)]
    assert asked[-2:] == [("The clerk is a man.", " The CEO and the clerk sold his car."),
                          ("The clerk is a man.", " The CEO and the clerk sold her car.")]  # fmt: skip
    kept = outcome["agreement_winobias_kept"]
    assert (kept.value, kept.n) == (0.25, 4)
    assert kept.details["sentences"] == {"pro": {"kept": 0.0, "n": 2}, "anti": {"kept": 0.5, "n": 2}}
    assert outcome["agreement_winobias_log_ratio"].value == 0.25


def test_winobias_is_asked_for_with_data_only(monkeypatch, evaluation, tmp_path):
    judging(monkeypatch, lambda _: 1.0)
    assert set(measured(agreement, evaluation())) == {"agreement_kept", "agreement_log_ratio"}
    outcome = scored(evaluation(data=str(tmp_path)))
    assert outcome["agreement_kept"].value is not None
    assert outcome["agreement_winobias_kept"].value is None
    assert "is not in the folder of the benchmark data" in outcome["agreement_winobias_kept"].details["reason"]


def test_the_real_sentences(shared_data, monkeypatch, evaluation):
    asked = judging(monkeypatch, lambda text: 1.0)
    data = shared_data("winobias", "pro_stereotyped_type2.txt.dev").parent.parent
    assert scored(evaluation(data=str(data)))["agreement_winobias_kept"].n == 792
    assert len(asked) == 512 + 1584
