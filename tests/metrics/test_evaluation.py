"""Evaluations from what a user of evaluate passes, mistakes among it, and of any text."""

import json

import numpy as np
import pytest
import torch
from chat_templates import TEMPLATES, chat_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from measuring import DOCUMENTS, scored

from distill.base.errors import UserError
from distill.metrics import (
    METRICS,
    Evaluation,
)
from distill.recipe import ScoreConfig
from distill.text.conversations import read_messages
from distill.text.prompts import Prompt
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


# ------------------------------------------------------------------------------------------------------ instruct models

TALK = [
    {"role": "user", "content": "Who lost her coat?"},
    {"role": "assistant", "content": "The nurse lost her coat, she said."},
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_conversations_and_prompts_reach_the_model_as_its_tokenizer_renders_them(
    toy_model, toy_tokenizer, short_wordlist, template
):
    """No start token comes twice, and the next word is asked for right behind the prompt."""
    tokenizer = chat_tokenizer(toy_tokenizer, template)
    model = toy_model(vocab_size=len(tokenizer), n_positions=300)
    evaluation = Evaluation(
        model, tokenizer, short_wordlist, [read_messages(TALK, "x"), "text"], [Prompt("The nurse said", "a", "b")],
        ScoreConfig(chat=True, samples=1, max_new_tokens=4),
    )  # fmt: skip
    start = [tokenizer.bos_token_id] if template == "plain" else []
    theirs = tokenizer.apply_chat_template(TALK, return_dict=True)["input_ids"]
    ids, offsets = evaluation.encode(evaluation.documents[0])
    assert ids == start + list(theirs)
    assert len(offsets) == len(ids) - 1
    assert evaluation.encode("text")[0][0] == tokenizer.bos_token_id
    assert evaluation.likelihoods[0, 1] == len(ids) - 1

    prompt = [
        {"role": "user", "content": "Continue this text: The nurse said"},
        {"role": "assistant", "content": "The nurse said"},
    ]
    whole = tokenizer.apply_chat_template(prompt, tokenize=False)
    begun = whole[: whole.rindex("The nurse said") + len("The nurse said")]
    given = torch.tensor([start + tokenizer(begun, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        logits = model(input_ids=given).logits[:, -1]
    assert evaluation.next_word_masses == pytest.approx(evaluation.group_log_masses(logits), abs=1e-5)
    (texts,) = evaluation.continuations
    uniforms = np.random.default_rng(0).random((1, 1, 4))[0, 0]
    for number in range(4):  # drawn by hand from the same numbers
        with torch.no_grad():
            cumulative = model(input_ids=given).logits[0, -1].double().softmax(0).cumsum(0)
        token = int(torch.searchsorted(cumulative, torch.tensor(uniforms[number], dtype=torch.double), right=True))
        if token == tokenizer.eos_token_id:
            break
        given = torch.cat([given, torch.tensor([[token]])], 1)
    assert tokenizer.decode(given[0], skip_special_tokens=True).endswith(texts[0])


def test_listed_words_of_a_template_are_no_words_of_the_document(toy_model, toy_tokenizer, short_wordlist):
    tokenizer = chat_tokenizer(toy_tokenizer, "chatml")  # its system prompt says: her and the king
    document = read_messages([{"role": "user", "content": "A man"}], "x")
    evaluation = Evaluation(toy_model(), tokenizer, short_wordlist, [document])
    assert [m.word for m in evaluation.swapper.matches(evaluation.documents[0])] == ["man"]
