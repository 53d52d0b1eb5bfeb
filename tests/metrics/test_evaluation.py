"""Evaluations from what a user of evaluate passes, mistakes among it, and of any text."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measuring import DOCUMENTS, scored

from distill.base.errors import UserError
from distill.metrics import (
    METRICS,
    Evaluation,
)
from distill.text.wordlist import load_wordlist


def test_evaluate_takes_names_and_paths(toy_model, toy_tokenizer, tmp_path):
    model = toy_model()
    model.save_pretrained(tmp_path / "model")
    toy_tokenizer.save_pretrained(tmp_path / "model")
    module = METRICS["next_word_disparity"].NextWordDisparity(cache_dir=str(tmp_path))
    by_path = module.compute(
        model=str(tmp_path / "model"), prompts=["The nurse said that", "The king was"], bootstrap=20
    )
    by_object = module.compute(model=model, tokenizer=toy_tokenizer, prompts=["The nurse said that"], bootstrap=20)
    assert by_path["n"] == 1  # The king is a listed word.
    assert by_path["value"] == pytest.approx(by_object["value"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"needs model="),
        ({"model": object()}, r"needs tokenizer="),
        ({"model": "x", "promts": []}, "unknown argument 'promts'; did you mean 'prompts'"),
        ({"model": "./nowhere"}, "nowhere"),
    ],
)
def test_evaluate_mistakes(inputs, message, tmp_path):
    with pytest.raises(UserError, match=message):
        METRICS["perplexity"].Perplexity(cache_dir=str(tmp_path)).compute(**inputs)


def test_any_text_can_be_measured(toy_model, toy_tokenizer):
    model, wordlist = toy_model(), load_wordlist("english_gender")
    first = Evaluation(model, toy_tokenizer, wordlist)

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.text(max_size=40) | st.sampled_from(DOCUMENTS), max_size=4))
    def check(documents):
        evaluation = Evaluation(model, toy_tokenizer, wordlist, documents, swapper=first.swapper)
        evaluation.roles = first.roles
        for name in ("perplexity", "bits_per_byte", "corpus_disparity", "equivariance_gap"):
            json.dumps(scored(name, evaluation).to_dict(), allow_nan=False)

    check()
