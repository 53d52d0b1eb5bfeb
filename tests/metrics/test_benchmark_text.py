"""The likelihood of a continuation, one sentence at a time."""

import numpy as np
import pytest
from measuring import alone

from distill.metrics import Evaluation
from distill.metrics.benchmark_text import likelihood
from distill.text.wordlist import load_wordlist


def test_likelihood_of_a_continuation_is_that_of_the_whole_less_that_of_the_context(toy_model, toy_tokenizer):
    model = toy_model()
    evaluation = Evaluation(model, toy_tokenizer, load_wordlist("english_gender"))
    texts = [("The nurse said", " that she was tired."), ("", "The king"), ("The doctor was late.", " Her book")]
    outcome = likelihood(evaluation, texts, "")
    for (context, continuation), total, tokens in zip(texts, outcome.total, outcome.tokens, strict=True):
        whole = alone(model, toy_tokenizer, context + continuation)
        assert total == pytest.approx(whole - alone(model, toy_tokenizer, context), abs=1e-3)
        assert tokens == len(toy_tokenizer(continuation)["input_ids"])
    np.testing.assert_allclose(outcome.mean, outcome.total / outcome.tokens)


def test_a_token_across_the_border_belongs_to_the_continuation(toy_model, toy_tokenizer):
    (token,) = toy_tokenizer(" king")["input_ids"]
    evaluation = Evaluation(toy_model(), toy_tokenizer, load_wordlist("english_gender"))
    outcome = likelihood(evaluation, [("The ki", "ng"), ("The", " king")], "")
    assert outcome.tokens.tolist() == [1, 1]
    assert outcome.total[0] == pytest.approx(outcome.total[1], abs=1e-5)
    assert token in toy_tokenizer("The king")["input_ids"]
