"""Memorisation: a model that writes one text by heart, and the two distances against naive ones."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from measuring import GENDER, all_scored

from distill.metrics import METRICS, Evaluation
from distill.metrics.audited import Audited
from distill.metrics.memorisation.memorisation import cut, edits, longest_run
from distill.recipe import ScoreConfig

WORDS = st.lists(st.sampled_from("abc"), max_size=8)


@given(WORDS, WORDS)
def test_the_longest_run_is_that_of_all_pairs(ours, theirs):
    runs = [
        n
        for i in range(len(ours))
        for j in range(len(theirs))
        for n in range(1, len(ours) + 1)
        if ours[i : i + n] == theirs[j : j + n] and i + n <= len(ours)
    ]
    assert longest_run(ours, theirs) == max(runs, default=0)


@given(WORDS, WORDS)
def test_edits_are_levenshteins(ours, theirs):
    def naive(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(naive(a[1:], b) + 1, naive(a, b[1:]) + 1, naive(a[1:], b[1:]) + (a[0] != b[0]))

    assert edits(ours[:5], theirs[:5]) == naive(tuple(ours[:5]), tuple(theirs[:5]))


@given(st.lists(st.sampled_from(["she", "took", "it"]), max_size=90), st.sampled_from([" ", "\n", "  "]))
def test_a_text_is_cut_between_words(words, space):
    text = space.join(words)
    found = cut(text)
    if len(words) < 16:
        assert found is None
        return
    first = min(32, len(words) // 2)
    assert found.beginning == space.join(words[:first])
    assert found.rest == words[first : first + 24]


@pytest.fixture
def by_heart(toy_model, toy_tokenizer, wordlist):
    """A function from members and others to the evaluation of a model that repeats ` king king king ...`."""

    def make(members, others):
        model = toy_model(n_positions=128)
        (king,) = toy_tokenizer(" king")["input_ids"]
        with torch.no_grad():  # whatever it reads, the head sees the embedding of the one word
            model.transformer.ln_f.weight.zero_()
            model.transformer.ln_f.bias.copy_(100 * model.transformer.wte.weight[king])
        return Evaluation(
            model, toy_tokenizer, wordlist(GENDER), settings=ScoreConfig(bootstrap=200, batch_size=7),
            audited=Audited(members, others),
        )  # fmt: skip

    return make


def test_what_is_written_word_for_word_is_counted(by_heart):
    """Members go on as the model does, others do not: 8 words in a row against 0."""
    members = ["The nurse said that she was tired of it." + " king" * 9] * 20
    others = ["The nurse said that she was tired of it." + " book" * 9] * 20
    found = all_scored("memorisation", by_heart(members, others))
    assert found["memorised_run"].details["members"] == len(cut(members[0]).rest)
    assert found["memorised_run"].value == len(cut(members[0]).rest)
    assert found["near_verbatim"].value == 1.0
    assert found["memorised_run"].details["longest"][0]["written"].split() == ["king"] * len(cut(members[0]).rest)


def test_what_others_give_as_well_is_taken_away(by_heart):
    texts = ["The nurse said that she was tired of it." + " king" * 9] * 20
    found = all_scored("memorisation", by_heart(texts, list(texts)))
    assert found["memorised_run"].value == found["near_verbatim"].value == 0.0


def test_short_texts_are_said_to_say_nothing(by_heart):
    long = "The nurse said that she was tired of it." + " king" * 9
    found = all_scored("memorisation", by_heart([long] * 20 + ["short"] * 10, [long] * 20))
    assert found["memorised_run"].undetected == pytest.approx(0.2)
    assert found["memorised_run"].n == 40
    found = METRICS["memorisation"].measure(by_heart([long] * 19 + ["short"], [long] * 20))
    assert "only 19 members are long enough" in found["memorised_run"].too_little


def test_a_beginning_that_leaves_no_room_loses_its_start(toy_model, toy_tokenizer, wordlist):
    texts = ["The nurse said that she was tired of the king and the queen and the man. " * 3] * 20
    evaluation = Evaluation(
        toy_model(n_positions=64), toy_tokenizer, wordlist(GENDER), settings=ScoreConfig(bootstrap=50),
        audited=Audited(texts, texts),
    )  # fmt: skip
    assert np.isfinite(all_scored("memorisation", evaluation)["memorised_run"].value)
