"""Vectors of texts and of words in context, one text at a time."""

import numpy as np
import pytest
import torch
from downstream_data import (
    evaluation_of,
    plain_states,
    plain_vector,
    write_seat,
)

from distill.metrics.evaluation import Evaluation
from distill.metrics.features import remembered, text_features, word_features
from distill.recipe import ScoreConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_seat(tmp_path_factory.mktemp("data"))


def test_the_vector_of_a_word_is_that_in_the_whole_sentence(toy_model, toy_tokenizer, folder):
    """A causal model's states do not depend on what follows: the context is enough. Every token of the word counts."""
    model = toy_model(seed=1)
    sentence = "The nurse saw the unhappened queen and took his coat."
    contexts, expected = [], []
    for word in ("nurse", "unhappened", "coat", "The"):
        start = sentence.index(word)
        contexts.append((sentence[: start + len(word)], start))
        offsets = toy_tokenizer(sentence, return_offsets_mapping=True)["offset_mapping"]
        tokens = [i + 1 for i, (a, b) in enumerate(offsets) if b > start and a < start + len(word)]
        expected.append(plain_states(model, toy_tokenizer, sentence)[tokens].mean(axis=0))
    assert toy_tokenizer.tokenize("unhappened") != ["unhappened"]
    found = word_features(evaluation_of(model, toy_tokenizer, folder), contexts, "words")
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_long_context_is_read_from_its_end(toy_model, toy_tokenizer, folder):
    model = toy_model(n_positions=12)
    text = "The doctor said that he was late. " * 4 + "The queen"
    found = word_features(evaluation_of(model, toy_tokenizer, folder), [(text, len(text) - 5)], "words")
    ids = toy_tokenizer(text)["input_ids"][-11:]
    word = len(toy_tokenizer(" queen")["input_ids"])
    with torch.no_grad():
        states = model(torch.tensor([[toy_tokenizer.bos_token_id, *ids]]), output_hidden_states=True).hidden_states[-1]
    np.testing.assert_allclose(found[0], states[0, -word:].double().mean(dim=0), atol=1e-5)


def test_vectors_of_texts_are_means_over_their_tokens(folder, toy_model, toy_tokenizer):
    model = toy_model("llama", seed=1)
    texts = ["The king", "", "Nothing happened at all.", "The king"]
    found = text_features(evaluation_of(model, toy_tokenizer, folder), texts, "texts")
    for vector, text in zip(found, texts, strict=True):
        if text:
            np.testing.assert_allclose(vector, plain_vector(model, toy_tokenizer, text), atol=1e-5)
    with torch.no_grad():
        start = model(torch.tensor([[toy_tokenizer.bos_token_id]]), output_hidden_states=True).hidden_states[-1][0, 0]
    np.testing.assert_allclose(found[1], start.double(), atol=1e-5)


def test_files_that_two_metrics_share_count_as_read_for_both(folder, toy_model, toy_tokenizer, tmp_path):
    """Whichever comes first: the second does not read them again."""
    (tmp_path / "shared.txt").write_text("shared")
    (tmp_path / "own.txt").write_text("own")
    settings = ScoreConfig(data=str(tmp_path))
    evaluation = Evaluation(toy_model(), toy_tokenizer, None, settings=settings, swapper=object())
    evaluation.data_file("own.txt")
    for _ in range(2):
        remembered(evaluation, "key", lambda: evaluation.data_file("shared.txt").read_text())
        assert evaluation.data_read >= {tmp_path / "shared.txt"}
        evaluation.data_read.clear()
