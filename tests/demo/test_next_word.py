"""The next word of every model: shares as the metric counts them, ratios in words, the likeliest tokens."""

import copy
import math

import numpy as np
import pytest
import torch
from tokenizers import decoders

from distill.base.errors import UserError
from distill.demo.next_word import (
    LIKELIEST,
    MOST_CHARACTERS,
    _decoded,
    checked_prompt,
    choices,
    expected,
    next_words,
    said,
)
from distill.metrics import Evaluation
from distill.text.prompts import Prompt, load_prompts

PROMPT = "The nurse said that"


def test_masses_are_those_of_the_next_word_disparity(loaded):
    found = next_words(loaded, PROMPT, 1.0)
    assert [one.title for one in found] == [
        "teacher", "plain student", "mitigated student", "target, strength 1",
    ]  # fmt: skip
    for one, model in zip(found, loaded.models, strict=False):
        given = model.evaluation
        evaluation = Evaluation(
            given.model,
            given.tokenizer,
            given.wordlist,
            prompts=[Prompt(PROMPT, "all", "nurse")],
            swapper=given.swapper,
        )
        np.testing.assert_allclose(one.masses, np.exp(evaluation.next_word_masses[0]), rtol=1e-5)


def test_the_whole_target_is_even_where_roles_are_reversed(loaded):
    """Without a listed word in the prompt, expmean of a prediction and its reverse gives both groups the same."""
    *_, target = next_words(loaded, PROMPT, 1.0)
    assert target.said == target.compared_said == "even"
    *_, plain = next_words(loaded, PROMPT, 0.0)
    teacher = next_words(loaded, PROMPT, 0.0)[0]
    assert plain.masses == pytest.approx(teacher.masses)
    assert plain.said == teacher.said


def test_a_distribution_worked_out_by_hand(loaded):
    """Four tokens: he with 0.4, she with 0.1, and two others."""
    model = loaded.models[0]
    tokenizer = model.evaluation.tokenizer
    he, she = (tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0] for word in ("he", "she"))
    (said_token,) = tokenizer(" said", add_special_tokens=False)["input_ids"]
    logs = torch.full((tokenizer.vocab_size,), -1e9, dtype=torch.float64)
    for token, probability in ((he, 0.4), (she, 0.1), (said_token, 0.5)):
        logs[token] = math.log(probability)
    one = expected(model, "x", logs, PROMPT)
    assert one.masses == pytest.approx((0.4, 0.1))
    assert (one.said, one.compared_said) == ("4 times likelier male", "4 times likelier he")
    assert dict(one.compared) == pytest.approx({"he": 0.4, "she": 0.1})
    assert len(one.likeliest) == LIKELIEST
    assert [(t.text, round(t.probability, 6), t.group) for t in one.likeliest[:3]] == [
        ("said", 0.5, None),
        ("he", 0.4, 0),
        ("she", 0.1, 1),
    ]


@pytest.mark.parametrize(
    ("shares", "names", "words"),
    [
        ((0.4, 0.1), ("he", "she"), "4 times likelier he"),
        ((0.1, 0.4), ("he", "she"), "4 times likelier she"),
        ((0.013, 0.01), ("he", "she"), "1.3 times likelier he"),
        ((0.2, 0.2), ("he", "she"), "even"),
        ((0.5, 0.1, 0.2), ("a", "b", "c"), "2.5 times likelier a than c"),
        ((0.2, 0.1, 0.2), ("a", "b", "c"), "a and c even"),
        ((0.0, 0.0), ("he", "she"), "none of them expected"),
    ],
)
def test_a_ratio_has_its_sign_in_words(shares, names, words):
    with np.errstate(divide="ignore"):
        assert said(np.log(shares).tolist(), names) == words


def test_a_word_that_nobody_expects_is_no_error():
    assert said([math.log(0.1), -math.inf], ("he", "she")).endswith("times likelier he")


def test_subjects_and_templates_make_all_the_prompts():
    found = choices("occupations")
    assert [text for texts in found.values() for text in texts.values()] == [p.text for p in load_prompts()]
    assert next(iter(found["nurse"].items())) == ("The … said that", "The nurse said that")


def test_prompts_that_are_gone_leave_the_occupations(tmp_path):
    assert "nurse" in choices(str(tmp_path / "gone.tsv"))
    (tmp_path / "mine.txt").write_text("One\nTwo\n", encoding="utf-8")
    found = choices(str(tmp_path / "mine.txt"))
    assert [text for texts in found.values() for text in texts.values()] == ["One", "Two"]


def test_dots_of_a_prompt_stay_dots(tmp_path):
    """They are written as the place of a subject is."""
    path = tmp_path / "mine.tsv"
    path.write_text("group\tsubject\tprompt\na\tnurse\tWell… the nurse said\n", encoding="utf-8")
    assert choices(str(path)) == {"nurse": {"Well… the … said": "Well… the nurse said"}}


def test_a_prompt_is_checked():
    assert checked_prompt("The nurse \n") == "The nurse"
    assert checked_prompt("half of an emoji: \ud83e") == "half of an emoji: ?"  # which no tokenizer takes
    with pytest.raises(UserError, match="there is no prompt yet"):
        checked_prompt("  \n")
    with pytest.raises(UserError, match=r"the prompt has 2,001 characters, and at most 2,000 are taken; shorten it"):
        checked_prompt("x" * (MOST_CHARACTERS + 1))


def test_a_word_is_whole_whatever_a_decoder_does_with_a_first_space(toy_tokenizer):
    """Llama 2's and Mistral's decoders drop it: by those rules, whole words would look cut off."""
    plain = {toy_tokenizer.decode([i]) for i in range(len(toy_tokenizer))}
    strips = copy.deepcopy(toy_tokenizer)
    strips.backend_tokenizer.decoder = decoders.Sequence(
        [toy_tokenizer.backend_tokenizer.decoder, decoders.Strip(" ", 1, 0)]
    )
    whole = [i for i in range(len(toy_tokenizer)) if toy_tokenizer.decode([i]).startswith(" ")]
    assert len(whole) > 5 and not any(strips.decode([i]).startswith(" ") for i in whole)
    assert {_decoded(toy_tokenizer, i) for i in range(len(toy_tokenizer))} == plain
    assert [_decoded(strips, i) for i in whole] == [toy_tokenizer.decode([i]) for i in whole]


def test_a_strength_out_of_range_is_told(loaded):
    with pytest.raises(UserError, match=r"the strength is 1\.5"):
        next_words(loaded, PROMPT, 1.5)
