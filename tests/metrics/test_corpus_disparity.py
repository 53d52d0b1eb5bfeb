"""Corpus disparity by hand: which positions count."""

import math

import pytest
from measuring import scored


def test_corpus_disparity_by_hand(bigram, evaluated, toy_tokenizer):
    """Only positions without a listed word before them count; the one that predicts the first of them does."""
    rows = {
        None: {" he": 0.2, " book": 0.8},
        " that": {" he": 0.6, " she": 0.3, " book": 0.1},
        " she": {" he": 1.0},  # Never reached: a listed word stands before.
        " was": {" he": 1.0},
    }
    model = bigram(rows)
    document = "The nurse said that she was tired."
    outcome = scored("corpus_disparity", evaluated(model, documents=[document]))
    before = ["The", " nurse", " said"]
    evaluation = evaluated(model)
    male, female = (len(ids) / len(toy_tokenizer) for ids in evaluation.roles.groups)
    tokens = sum(len(toy_tokenizer(word)["input_ids"]) for word in before)  # Each predicts uniformly.
    assert outcome.value == pytest.approx(math.log((0.2 + 0.6 + tokens * male) / (0.3 + tokens * female)), rel=1e-5)
    assert outcome.n == tokens + 2
    assert outcome.low is None  # One document has no spread.
