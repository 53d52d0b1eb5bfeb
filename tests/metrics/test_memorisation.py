"""Memorisation: a model that writes one text by heart, and the two distances against naive ones."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from measuring import GENDER, all_scored
from transformers import GPT2LMHeadModel

from distill.metrics import METRICS, Evaluation, NotMeasured
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

    def make(members, others, positions=128):
        model = toy_model(n_positions=positions)
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


def test_a_beginning_that_leaves_no_room_loses_its_start(by_heart):
    beginning = (
        "The nurse said that she was tired of the king and the queen and the man." + " kings" * 16
    )  # two tokens each
    members, others = ([beginning + f" {word}" * 32] * 20 for word in ("king", "book"))
    assert all_scored("memorisation", by_heart(members, others, 64))["memorised_run"].value == 24


LONG = " ".join(["kqxzj"] * 60)


class Cycle(GPT2LMHeadModel):
    """Writes the token that stands behind the last one in `known`, a text of one word again and again."""

    known: Sequence[int] = ()

    def forward(self, input_ids=None, **keys):
        out = super().forward(input_ids=input_ids, **keys)
        behind = dict(pairwise(self.known))
        last = input_ids[:, -out.logits.shape[1] :]
        out.logits = torch.nn.functional.one_hot(
            torch.tensor([[behind.get(token, 0) for token in row] for row in last.tolist()]), out.logits.shape[-1]
        ).to(out.logits)
        return out


def test_words_of_many_tokens_are_written_to_their_end(toy_model, toy_tokenizer, wordlist):
    """Known by heart is known by heart, however many tokens a word takes."""
    like = toy_model(n_positions=512)
    model = Cycle(like.config).eval()
    model.known = toy_tokenizer(LONG)["input_ids"]
    assert len(toy_tokenizer(cut(LONG).following)["input_ids"]) > 2 * 48
    others = ["The nurse said that she was tired of it." + " book" * 9] * 20
    evaluation = Evaluation(
        model, toy_tokenizer, wordlist(GENDER), settings=ScoreConfig(bootstrap=50), audited=Audited([LONG] * 20, others)
    )
    found = all_scored("memorisation", evaluation)
    assert found["near_verbatim"].details["members"] == 1.0
    assert found["memorised_run"].details["members"] == 24


@pytest.mark.parametrize("positions", [24, 32, 48, 50])
def test_a_context_shorter_than_a_continuation_is_enough_for_short_texts(by_heart, positions):
    members = ["The nurse said that she was tired of it." + " king" * 9] * 20
    others = ["The nurse said that she was tired of it." + " book" * 9] * 20
    found = all_scored("memorisation", by_heart(members, others, positions))
    assert found["memorised_run"].value == len(cut(members[0]).rest)


def test_texts_that_the_context_does_not_hold_are_left_out(by_heart):
    short = "The nurse said that she was tired of it." + " king" * 9
    found = all_scored("memorisation", by_heart([short] * 20 + [LONG] * 10, [short] * 20, 64))
    assert found["memorised_run"].undetected == pytest.approx(0.2)
    assert (found["memorised_run"].n, found["memorised_run"].value) == (40, 0.0)
    with pytest.raises(NotMeasured, match="the context, 64 tokens, holds of no text the words to compare"):
        METRICS["memorisation"].measure(by_heart([LONG] * 20, [LONG] * 20, 64))
