"""Contexts that are read once for all that stands behind them, against each text read by itself."""

import numpy as np
import pytest
import torch
from architectures import CAUSAL, toy
from hypothesis import given
from hypothesis import strategies as st

from distill.metrics import Evaluation
from distill.metrics.benchmark_text import likelihood
from distill.metrics.shared_context import Shared, batches, can_share, contexts, states_behind, targets
from distill.models.architecture import turns_otherwise_from
from distill.recipe import ScoreConfig

TEXTS = st.lists(st.integers(0, 2), min_size=1, max_size=6)


@given(st.lists(st.tuples(TEXTS, st.integers(0, 6)), max_size=12))
def test_every_sequence_is_either_shared_or_alone(drawn):
    sequences, asked = [ids for ids, _ in drawn], [min(number, len(ids) - 1) for ids, number in drawn]
    shared, others = contexts(sequences, asked)
    assert sorted([*others, *(place for one in shared for place in one.places)]) == list(range(len(sequences)))
    for one in shared:
        assert one.places == list(range(one.places[0], one.places[-1] + 1))
        for place, behind in zip(one.places, one.behind, strict=True):
            assert one.context + behind == sequences[place]
            assert len(behind) == asked[place] > 0 < len(one.context)
        apart = sum(len(one.context) + len(behind) for behind in one.behind)
        together = len(one.context) + sum(map(len, one.behind))
        assert apart - together > sum(map(len, one.behind))


def test_answers_to_a_question_share_it_and_sentences_do_not_share_their_start():
    question = [1, 2, 3, 4, 5, 6, 7]
    shared, others = contexts([[*question, 8], [*question, 9, 10], [*question, 8]], [1, 2, 1])
    assert shared == [Shared([0, 1, 2], question, [[8], [9, 10], [8]])] and others == []
    sentences = [[0, number, number + 1] for number in range(1, 500)]
    assert contexts(sentences, [2] * len(sentences)) == ([], list(range(len(sentences))))


@given(
    st.lists(st.tuples(st.integers(1, 5), st.lists(st.integers(1, 4), min_size=2, max_size=9)), max_size=15),
    st.integers(9, 60),
)
def test_batches_are_of_one_length_bounded_and_hold_each_continuation_once(sizes, places):
    numbers = iter(range(1000))
    shared = [
        Shared([next(numbers) for _ in of], [n] * length, [[1] * k for k in of]) for n, (length, of) in enumerate(sizes)
    ]
    made = list(batches(shared, places, rows=3))
    assert sorted(place for batch in made for one in batch for place in one.places) == [
        place for one in shared for place in one.places
    ]
    behind = {place: text for one in shared for place, text in zip(one.places, one.behind, strict=True)}
    for batch in made:
        assert len({len(one.context) for one in batch}) == 1
        texts = [(len(one.context), text) for one in batch for text in one.behind]
        assert len(texts) <= 3 and (max(length + len(text) for length, text in texts)) * len(texts) <= places
        assert all(behind[place] == text for one in batch for place, text in zip(one.places, one.behind, strict=True))
    lengths = [len(batch[0].context) for batch in made]
    assert lengths == sorted(lengths, reverse=True)


def naive(model, context: list[int], behind: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits = model.eval()(torch.tensor([context + behind])).logits[0].double().log_softmax(-1)
    return torch.stack([logits[len(context) + n - 1, token] for n, token in enumerate(behind)])


#: Those that keep of a context something else than the keys and values of all its tokens, or have no cache to give.
NOT_SHARING = {
    "bamba", "bart", "cohere2", "deepseek_v32", "exaone4", "falcon_h1", "gemma2", "gemma3_text", "gemma3n_text",
    "gemma4_text", "gpt_oss", "jamba", "lfm2", "llama4_text", "mamba", "mamba2", "mistral", "openai-gpt", "qwen3_next",
    "recurrent_gemma", "rwkv", "starcoder2", "xlstm",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CAUSAL))
def test_whatever_can_share_predicts_as_without(name):
    """Of every architecture: it says that it cannot, or nothing changes by more than rounding."""
    torch.manual_seed(0)
    model = toy(name).eval()
    assert can_share(model) == (name not in NOT_SHARING)
    if name in NOT_SHARING:
        return
    rng = np.random.default_rng(0)
    batch = [
        Shared([], rng.integers(20, 60, 5).tolist(), [rng.integers(20, 60, n).tolist() for n in sizes])
        for sizes in ((1, 3), (2, 2, 4))
    ]
    expected = torch.cat([naive(model, one.context, behind) for one in batch for behind in one.behind])
    with torch.inference_mode():
        states = states_behind(model, batch)
        logits = Evaluation(model, None, None, swapper=object()).logits(states)  # type: ignore[arg-type]
    found = logits.double().log_softmax(-1)[torch.arange(len(expected)), targets(batch)]
    assert torch.allclose(found, expected, atol=1e-4)


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
    evaluation = Evaluation(model, toy_tokenizer, None, settings=ScoreConfig(context=48), swapper=object())
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


def test_a_model_in_sixteen_bits_can():
    """Batches of other shapes are rounded otherwise there, by more than in float32."""
    torch.manual_seed(0)
    assert can_share(toy("llama").half())


def test_a_context_whose_positions_depend_on_what_is_behind_it_is_not_shared():
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 32,
        "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 4.0,
    }  # fmt: skip
    model = toy("phi3", rope_parameters=rope, max_position_embeddings=128, original_max_position_embeddings=32)
    assert turns_otherwise_from(model.config) == 32
    assert not can_share(model)
