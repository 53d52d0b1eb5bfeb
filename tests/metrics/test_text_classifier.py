"""Classifiers of texts from folders against plain transformers code."""

import copy

import numpy as np
import pytest
import torch
from measuring import naive
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from distill.base.errors import UserError
from distill.metrics import text_classifier as module
from distill.metrics.text_classifier import load_classifier

TEXTS = [
    "The nurse said that she was tired.",
    "A",
    "",
    "The king and the queen saw him and her. " * 2,
    "A woman took her coat; a man took his coat.",
    "the the the the",
    "Nothing happened at all.",
]


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize(("architecture", "pad"), [("gpt2", True), ("gpt2", False), ("bert", True)])
def test_probabilities_equal_plain_transformers(classifier_folder, architecture, pad, rows, monkeypatch):
    monkeypatch.setattr(module, "_MAX_ROWS", rows)
    folder = classifier_folder(architecture=architecture, pad=pad)
    found = load_classifier(folder).probabilities(TEXTS)
    np.testing.assert_allclose(found, [naive(folder, text) for text in TEXTS], atol=1e-5)
    assert len(set(found.argmax(axis=1))) > 1


@pytest.mark.parametrize("pad", ["eos", "[PAD]"])
def test_a_padding_token_that_only_the_tokenizer_knows_is_used_where_the_model_has_it(classifier_folder, pad):
    """GPT-2 and Llama classifiers are often saved so; a token added behind the vocabulary has no embedding."""
    folder = classifier_folder(pad=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": tokenizer.eos_token if pad == "eos" else pad})
    tokenizer.save_pretrained(folder)
    classifier = load_classifier(folder)
    known = pad == "eos"
    assert (classifier.tokenizer.pad_token_id < classifier.model.config.vocab_size) == known
    found = classifier.probabilities([text for text in TEXTS if text])
    np.testing.assert_allclose(found, [naive(folder, text) for text in TEXTS if text], atol=1e-5)


def test_long_texts_are_cut_and_large_batches_parted(classifier_folder, monkeypatch):
    folder = classifier_folder()
    texts = ["The nurse said that she was tired. " * 20, *TEXTS]
    expected = load_classifier(folder).probabilities(texts)
    np.testing.assert_allclose(expected[0], naive(folder, texts[0]), atol=1e-5)
    monkeypatch.setattr(module, "_MAX_TOKENS", 20)
    seen = []
    found = load_classifier(folder).probabilities(texts, lambda *done: seen.append(done))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert seen[-1] == (8, 8)
    assert len(seen) > 4
    assert load_classifier(folder).probabilities([]).shape == (0, 3)


def test_labels_that_do_not_exclude_one_another(classifier_folder):
    folder = classifier_folder(("toxic", "obscene"), problem_type="multi_label_classification")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)(TEXTS[0])["input_ids"]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].sigmoid().numpy()
    np.testing.assert_allclose(load_classifier(folder).probabilities(TEXTS[:1])[0], expected, atol=1e-5)


def test_labels_are_plain(classifier_folder):
    assert load_classifier(classifier_folder(("Very Bad", "hate-speech", "OK"))).labels == (
        "very_bad",
        "hate_speech",
        "ok",
    )


def test_what_is_no_classifier(toy_model, toy_tokenizer, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        load_classifier(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no classifier of texts can be loaded from it"):
        load_classifier(str(tmp_path / "empty"))
    toy_model().save_pretrained(tmp_path / "language_model")
    toy_tokenizer.save_pretrained(tmp_path / "language_model")
    with pytest.raises(UserError, match=r"language_model: holds no trained classifier \(score.weight would be random"):
        load_classifier(str(tmp_path / "language_model"))


@pytest.mark.parametrize("pad", [0, 1])
def test_a_model_whose_positions_begin_behind_padding_reads_fewer_tokens(classifier_folder, toy_tokenizer, pad):
    """RoBERTa's: of 64 rows those up to that of padding are no position of a text."""
    toy_tokenizer = copy.deepcopy(toy_tokenizer)
    toy_tokenizer.pad_token = toy_tokenizer.convert_ids_to_tokens(pad)
    folder = classifier_folder(architecture="roberta", pad_token_id=pad)
    toy_tokenizer.save_pretrained(folder)
    text = "The nurse said that she was tired. " * 20
    ids = toy_tokenizer(text)["input_ids"]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model(torch.tensor([ids[: 63 - pad]])).logits[0].softmax(-1).numpy()
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.tensor([ids[: 64 - pad]]))
    found = load_classifier(folder).probabilities([text, "A"])
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
