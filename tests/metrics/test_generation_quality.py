"""Variety, repetition and length against counts by hand, perplexity against one forward pass a token."""

import math

import numpy as np
import pytest
import torch
from continued import continued, prompts_of, scores_of
from hypothesis import given
from hypothesis import strategies as st

from distill.metrics import METRICS, measured
from distill.models.student import train_tokenizer
from distill.text.prompts import Prompt

METRIC = METRICS["generation_quality"]
PERPLEXITY = "continuation_perplexity"


def test_counts_by_hand():
    texts = [["The cat, the DOG!", "a a a a a"], ["", "one two three four one two three four"]]
    scores = scores_of(METRIC, continued(texts))
    one, two, repetition = scores["distinct_1"], scores["distinct_2"], scores["repetition"]
    assert (one.value, one.n) == (pytest.approx((3 / 4 + 1 / 5 + 4 / 8) / 3), 3)
    assert one.undetected == pytest.approx(1 / 4)
    assert one.details["corpus"] == pytest.approx(8 / 17)  # the cat dog a one two three four
    # the cat, cat the, the dog; a a, four times; one two, two three, three four, four one, and three of them again.
    assert two.value == pytest.approx((3 / 3 + 1 / 4 + 4 / 7) / 3)
    assert two.details["corpus"] == pytest.approx((3 + 1 + 4) / (3 + 4 + 7))
    # Of 4-grams: one of one; one of two; four of five.
    assert repetition.value == pytest.approx((0 + 1 / 2 + 1 / 5) / 3)
    assert repetition.details["texts_with_a_repetition"] == pytest.approx(2 / 3)
    length = scores["continuation_length"]
    assert (length.value, length.n) == (pytest.approx(17 / 4), 4)
    for name in ("distinct_1", "distinct_2", "repetition", "continuation_length"):
        assert scores[name].low <= scores[name].value <= scores[name].high


_WORDS = st.lists(st.sampled_from(["it", "is", "what", "was"]), max_size=12)


@given(st.lists(st.lists(_WORDS, min_size=1, max_size=3), max_size=4))
def test_counts_equal_a_plain_loop(words):
    scores = scores_of(METRIC, continued([[" ".join(text) for text in samples] for samples in words]))
    texts = [text for samples in words for text in samples]
    for name, n in (("distinct_1", 1), ("distinct_2", 2), ("repetition", 4)):
        shares = []
        for text in texts:
            grams = [" ".join(text[i : i + n]) for i in range(len(text) - n + 1)]
            if grams:
                shares.append(len(set(grams)) / len(grams))
        expected = np.mean(shares) if shares else None
        if name == "repetition" and shares:
            expected = 1 - expected
        assert scores[name].value == (expected if expected is None else pytest.approx(expected))
        assert scores[name].n == len(shares)


def test_a_text_that_repeats_itself_is_found_whatever_its_neighbours():
    loop, varied = " ".join(["over and over again"] * 10), " ".join(f"w{i}" for i in range(40))
    one, both = (scores_of(METRIC, continued(texts)) for texts in ([[loop]], [[loop, varied]]))
    assert one["repetition"].value == pytest.approx(1 - 4 / 37)
    assert both["repetition"].value == pytest.approx(one["repetition"].value / 2)


# -------------------------------------------------------------------------------------------------------- perplexity

PROMPTS = [Prompt("The nurse said that", "a", "x"), Prompt("The king", "a", "y"), Prompt("The doctor was", "b", "z")]
TEXTS = [[" she was tired.", " he"], ["", "dom was late"], [" late. Nothing happened at all."] * 2]


def plain_loop(model, tokenizer, prompts, texts, context=64):
    """-log P of each continuation's tokens, one forward pass for each."""
    nll, tokens = 0.0, 0
    for prompt, samples in zip(prompts, texts, strict=True):
        for text in samples:
            encoded = tokenizer(prompt.text + text, return_offsets_mapping=True)
            ids = [tokenizer.bos_token_id, *encoded["input_ids"]]
            ends = [0, *(end for _, end in encoded["offset_mapping"])]
            cut = max(0, len(ids) - context)
            for i in range(cut + 1, len(ids)):
                if ends[i] > len(prompt.text):
                    with torch.no_grad():
                        logits = model(torch.tensor([ids[cut:i]])).logits[0, -1]
                    nll -= logits.log_softmax(-1)[ids[i]].item()
                    tokens += 1
    return nll, tokens


@pytest.mark.parametrize("batch_size", [1, 64])
@pytest.mark.parametrize("context", [64, 9])
def test_perplexity_token_by_token(toy_model, toy_tokenizer, context, batch_size):
    judge = toy_model(seed=1, n_positions=context)
    nll, tokens = plain_loop(judge, toy_tokenizer, PROMPTS, TEXTS, context)
    judge.train()
    evaluation = continued(TEXTS, PROMPTS, judge=lambda: (judge, toy_tokenizer), batch_size=batch_size)
    outcome = scores_of(METRIC, evaluation)[PERPLEXITY]
    assert outcome.value == pytest.approx(math.exp(nll / tokens), rel=1e-5)
    assert outcome.n == tokens
    assert outcome.low <= outcome.value <= outcome.high
    assert judge.training


def test_the_judge_reads_with_its_own_tokenizer(toy_model):
    tokenizer = train_tokenizer(["The nurse said that she was tired."] * 3, 290)
    judge = toy_model()  # It has more entries than the tokenizer needs.
    nll, tokens = plain_loop(judge, tokenizer, PROMPTS, TEXTS)
    outcome = scores_of(METRIC, continued(TEXTS, PROMPTS, judge=lambda: (judge, tokenizer)))[PERPLEXITY]
    assert (outcome.value, outcome.n) == (pytest.approx(math.exp(nll / tokens), rel=1e-5), tokens)


def test_only_the_continuation_is_judged(toy_model, toy_tokenizer):
    """P(prompt and continuation) = P(prompt) P(continuation | prompt)."""
    model = toy_model(seed=2)
    judge = {"judge": lambda: (model, toy_tokenizer)}
    apart = measured(METRIC, continued([[" she was tired."]], PROMPTS[:1], **judge))[PERPLEXITY].units
    whole = measured(METRIC, continued([["The nurse said that she was tired."]], [Prompt("", "a", "x")], **judge))
    prompt = measured(METRIC, continued([["The nurse said that"]], [Prompt("", "a", "x")], **judge))
    np.testing.assert_allclose(apart, whole[PERPLEXITY].units - prompt[PERPLEXITY].units, rtol=1e-5)


def test_without_a_judge_the_rest_is_measured():
    scores = scores_of(METRIC, continued(TEXTS, PROMPTS))
    assert scores[PERPLEXITY].value is None
    assert "teacher" in scores[PERPLEXITY].details["reason"]
    assert scores["distinct_1"].value is not None


def test_silence(toy_model, toy_tokenizer):
    model = toy_model()
    for texts in ([], [["", ""]]):
        prompts = prompts_of(*["job"] * len(texts))
        scores = scores_of(METRIC, continued(texts, prompts, judge=lambda: (model, toy_tokenizer)))
        assert scores["distinct_1"].value is scores["repetition"].value is scores[PERPLEXITY].value is None
        assert scores["continuation_length"].value == (0 if texts else None)
