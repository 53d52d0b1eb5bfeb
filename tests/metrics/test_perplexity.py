"""Perplexity token by token, with every stride."""

import math

import pytest
import torch
from measuring import DOCUMENTS, scored

from distill.recipe import ScoreConfig


@pytest.mark.parametrize("stride", [None, 1, 7, 15, 100])
def test_perplexity_token_by_token(toy_model, toy_tokenizer, evaluated, stride):
    """One forward pass for each token, on exactly the tokens that its window holds before it."""
    context = 16
    model = toy_model(n_positions=context)
    documents = [DOCUMENTS[0] * 3, "A", DOCUMENTS[1], DOCUMENTS[2] * 2]
    step = {None: 8, 100: 15}.get(stride, stride)
    nll, tokens = 0.0, 0
    for document in documents:
        ids = [toy_tokenizer.bos_token_id, *toy_tokenizer(document)["input_ids"]]
        for t in range(1, len(ids)):
            end = context
            while end <= t:
                end += step
            begin = max(0, min(end, len(ids)) - context)
            with torch.no_grad():
                logits = model(torch.tensor([ids[begin:t]])).logits[0, -1]
            nll -= logits.log_softmax(-1)[ids[t]].item()
            tokens += 1
    settings = ScoreConfig(stride=stride, bootstrap=20, batch_size=3)
    evaluation = evaluated(model, documents=documents, settings=settings)
    outcome = scored("perplexity", evaluation)
    assert outcome.value == pytest.approx(math.exp(nll / tokens), rel=1e-5)
    assert outcome.n == tokens
    assert outcome.details["stride"] == step
    bits = scored("bits_per_byte", evaluation)
    assert bits.n == sum(len(document.encode()) for document in documents)
    assert bits.value == pytest.approx(math.log2(outcome.value) * tokens / bits.n)


def test_perplexity_of_a_uniform_model_is_its_vocabulary(bigram, evaluated, toy_tokenizer):
    outcome = scored("perplexity", evaluated(bigram()))
    assert outcome.value == pytest.approx(len(toy_tokenizer), rel=1e-5)
    assert (outcome.low, outcome.high) == pytest.approx((outcome.value, outcome.value))
