"""Minimal pairs of our own: what the sentences are, and decisions one sentence at a time."""

from collections import Counter

import pytest
from measuring import alone, scored

from distill.metrics import METRICS, Evaluation
from distill.metrics.benchmark_text import own_table
from distill.recipe import ScoreConfig
from distill.text.counterfactual import Swapper
from distill.text.wordlist import load_wordlist

minimal_pairs = METRICS["minimal_pairs"]
ROWS = own_table("minimal_pairs")
# Phenomena with two forms, each of which is right in half of the pairs: what differs, if the first of a pair has it.
TWO_FORMS = {
    "reflexives of things": "itself",
    "quantifiers": "many",
    "gaps": "what",
    "a and an": "an",
}


def test_the_pairs_are_many_even_and_differ_in_one_word():
    assert len(ROWS) >= 300
    assert len(set(Counter(phenomenon for phenomenon, _, _ in ROWS).values())) == 1
    assert len({good for _, good, _ in ROWS}) == len(ROWS)
    for _, good, bad in ROWS:
        differing = sum(a != b for a, b in zip(good.split(), bad.split(), strict=True))
        assert 1 <= differing <= 2, good


@pytest.mark.parametrize("wordlist", ["english_gender+english_names", "english_religion"])
def test_they_name_nobody(wordlist):
    swapper = Swapper(load_wordlist(wordlist))
    assert not [text for _, *pair in ROWS for text in pair if swapper.matches(text)]


@pytest.mark.parametrize(("phenomenon", "word"), TWO_FORMS.items())
def test_each_of_two_forms_is_right_in_half_of_the_pairs(phenomenon, word):
    right = [word in good.rstrip(".").split() for of, good, _ in ROWS if of == phenomenon]
    wrong = [word in bad.rstrip(".").split() for of, _, bad in ROWS if of == phenomenon]
    assert sum(right) == sum(wrong) == len(right) / 2


def test_decisions_one_sentence_at_a_time(toy_model, toy_tokenizer, short_wordlist, monkeypatch):
    rows = ROWS[::12]
    monkeypatch.setattr(minimal_pairs, "own_table", lambda name: rows)
    model = toy_model(n_positions=128)
    gaps = [alone(model, toy_tokenizer, good) - alone(model, toy_tokenizer, bad) for _, good, bad in rows]
    assert min(map(abs, gaps)) > 1e-3  # no decision hangs on rounding
    settings = ScoreConfig(bootstrap=100)
    outcome = scored("minimal_pairs", Evaluation(model, toy_tokenizer, short_wordlist, settings=settings))
    assert (outcome.value, outcome.n, outcome.ideal) == (sum(gap > 0 for gap in gaps) / len(gaps), len(rows), 1.0)
    assert outcome.details["mean_difference"] == pytest.approx(sum(gaps) / len(gaps), abs=1e-3)
    of_number = [gap > 0 for (phenomenon, _, _), gap in zip(rows, gaps, strict=True) if phenomenon == "number"]
    assert outcome.details["phenomena"]["number"] == {"value": sum(of_number) / len(of_number), "n": len(of_number)}
