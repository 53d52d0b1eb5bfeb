"""Contexts that are read once for all that stands behind them, against each text read by itself."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from architectures import CAUSAL, toy
from hypothesis import given
from hypothesis import strategies as st

from distill.metrics import Evaluation
from distill.metrics.benchmark_text import likelihood
from distill.metrics.shared_context import Shared, batches, can_share, contexts, states_behind, targets
from distill.recipe import ScoreConfig
from distill.text.wordlist import load_wordlist

TEXTS = st.lists(st.integers(0, 2), min_size=1, max_size=6)


@given(st.lists(st.tuples(TEXTS, st.integers(0, 6)), max_size=12))
def test_every_sequence_is_either_shared_or_alone(drawn):
    sequences, asked = [ids for ids, _ in drawn], [min(number, len(ids) - 1) for ids, number in drawn]
    shared, others = contexts(sequences, asked)
    assert sorted([*others, *(place for one in shared for place in one.places)]) == list(range(len(sequences)))
    for one in shared:
        assert len(one.places) == len(one.behind) > 1
        assert one.places == list(range(one.places[0], one.places[-1] + 1))
        for place, behind in zip(one.places, one.behind, strict=True):
            assert one.context + behind == sequences[place]
            assert len(behind) == asked[place] > 0 < len(one.context)
    alone = [(sequences[i][: len(sequences[i]) - asked[i]], asked[i] > 0) for i in range(len(sequences))]
    for left, right in pairwise(others):
        assert right > left + 1 or alone[left] != alone[right] or not alone[left][1]


@given(st.lists(st.tuples(st.integers(1, 5), st.lists(st.integers(1, 4), min_size=2, max_size=4)), max_size=15))
def test_batches_are_of_one_length_and_hold_each_context_once(sizes):
    shared = [Shared([number], [number] * length, [[1] * n for n in of]) for number, (length, of) in enumerate(sizes)]
    made = list(batches(shared, places=40, rows=3))
    assert sorted(one.places[0] for batch in made for one in batch) == list(range(len(shared)))
    lengths = [{len(one.context) for one in batch} for batch in made]
    assert all(len(of_batch) == 1 for of_batch in lengths)
    assert [max(of_batch) for of_batch in lengths] == sorted((max(of_batch) for of_batch in lengths), reverse=True)
    for batch in made:
        padded = sum((len(one.context) + max(map(len, one.behind))) * len(one.behind) for one in batch)
        assert len(batch) == 1 or (len(batch) <= 3 and padded <= 40)


def naive(model, context: list[int], behind: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits = model.eval()(torch.tensor([context + behind])).logits[0].double().log_softmax(-1)
    return torch.stack([logits[len(context) + n - 1, token] for n, token in enumerate(behind)])


@pytest.mark.parametrize("name", sorted(CAUSAL))
def test_whatever_can_share_predicts_as_without(name):
    """Of every architecture: either it says that it cannot, or nothing changes by more than rounding."""
    torch.manual_seed(0)
    model = toy(name).eval()
    if not can_share(model):
        return
    rng = np.random.default_rng(0)
    batch = [
        Shared([], rng.integers(20, 60, 5).tolist(), [rng.integers(20, 60, n).tolist() for n in sizes])
        for sizes in ((1, 3), (2, 2, 4))
    ]
    expected = torch.cat([naive(model, one.context, behind) for one in batch for behind in one.behind])
    with torch.inference_mode():
        states = states_behind(model, batch)
        logits = Evaluation(model, None, load_wordlist("english_gender"), swapper=object()).logits(states)  # type: ignore[arg-type]
    found = logits.double().log_softmax(-1)[torch.arange(len(expected)), targets(batch)]
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "opt", "gpt_neox"])
def test_the_usual_architectures_can(name):
    torch.manual_seed(0)
    assert can_share(toy(name))


def test_a_likelihood_is_that_of_each_text_by_itself(toy_model, toy_tokenizer):
    """Answers of a question, a question that is alone, one too long for the context, an answer without a token."""
    model = toy_model()
    context = "The nurse said that"
    long = " ".join(["The king was here."] * 40)
    texts = [(context, " he left."), (context, " she left the house."), (context, ""), ("The king", " was here.")]
    texts += [
        (long, " He left."),
        (long, " She"),
        ("", "The man"),
        ("", "The woman"),
        (context, " he"),
        (context, " she"),
    ]
    evaluation = Evaluation(model, toy_tokenizer, load_wordlist("english_gender"), settings=ScoreConfig(context=48))
    assert evaluation.shares
    together = likelihood(evaluation, texts, "test")
    alone = [likelihood(evaluation, [text], "test") for text in texts]
    assert together.total == pytest.approx([one.total[0] for one in alone], abs=1e-4)
    assert together.tokens.tolist() == [one.tokens[0] for one in alone]
    assert together.cut == 2
    evaluation.__dict__["shares"] = False
    assert likelihood(evaluation, texts, "test").total == pytest.approx(together.total, abs=1e-4)


def test_what_is_no_model_of_transformers_cannot():
    assert not can_share(object())
