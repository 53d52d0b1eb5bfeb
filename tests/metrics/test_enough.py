"""Scores that saw too little: each threshold at its edge, and what stands in the place of the number."""

import numpy as np
import pytest
from continued import continued
from measuring import DOCUMENTS, GENDER, PROMPTS

from distill.metrics import METRICS, Evaluation, Measurement, difference_of, enough, reported, resampled, score_of
from distill.text.prompts import Prompt
from distill.text.wordlist import load_wordlist


@pytest.fixture
def gender(tmp_path):
    (tmp_path / "gender.tsv").write_text(GENDER, encoding="utf-8")
    return load_wordlist(tmp_path / "gender.tsv")


def test_listed_words_at_the_edge():
    assert enough.little_mass(enough.LISTED_MASS) is None
    assert enough.little_mass(None) is None
    below = enough.little_mass(np.nextafter(enough.LISTED_MASS, 0))
    assert below == "listed words hold 0.5% of the probability, and 0.5% are needed"
    assert enough.little_mass(0.002) == "listed words hold 0.2% of the probability, and 0.5% are needed"
    assert "hold 0.003% of" in enough.little_mass(0.00003)


def test_counts_at_the_edge():
    assert enough.few(5, 5, "documents") is None
    assert enough.few(4, 5, "documents", 1000) == "only 4 of 1,000 documents, and 5 are needed"
    assert enough.of_texts(enough.GROUP_TEXTS, 1600) is None
    reason = enough.of_texts(enough.GROUP_TEXTS - 1, 1600)
    assert reason == "only 19 of 1,600 texts are about one of the groups, and 20 are needed"


def test_one_is_told_in_the_singular():
    assert enough.few(1, 5, "documents") == "only 1 document, and 5 are needed"
    assert enough.few(1, 5, "prompts gave a value") == "only 1 prompt gave a value, and 5 are needed"
    assert enough.few(1, 5, "documents hold a word", 7) == "only 1 of 7 documents hold a word, and 5 are needed"


def test_a_group_without_a_token(toy_model, toy_tokenizer, gender, tmp_path):
    assert enough.few_words(Evaluation(toy_model(), toy_tokenizer, gender)) is None
    path = tmp_path / "faiths.tsv"
    path.write_text("christian\tmuslim\nhe\tmosque\n", encoding="utf-8")
    reason = enough.few_words(Evaluation(toy_model(), toy_tokenizer, load_wordlist(path)))
    assert reason == "no listed word of christian or muslim is one token of this tokenizer"


@pytest.mark.parametrize(
    ("metric", "field", "enough_of", "needed"),
    [
        ("next_word_disparity", "prompts", PROMPTS[:1], enough.UNITS),
        ("corpus_disparity", "documents", DOCUMENTS[2:3], enough.UNITS),
        ("equivariance_gap", "documents", DOCUMENTS[3:], enough.EDITED_DOCUMENTS),
        ("perplexity", "documents", [" ".join(DOCUMENTS)], enough.UNITS),
        ("bits_per_byte", "documents", [" ".join(DOCUMENTS)], enough.UNITS),
    ],
)
def test_units_of_each_metric_at_the_edge(metric, field, enough_of, needed, toy_model, toy_tokenizer, gender):
    def measurement(number):
        evaluation = Evaluation(toy_model(), toy_tokenizer, gender, **{field: enough_of * number})
        return METRICS[metric].measure(evaluation)

    assert measurement(needed).too_little is None
    assert f"only {needed - 1}" in measurement(needed - 1).too_little


@pytest.mark.parametrize("metric", ["perplexity", "bits_per_byte"])
def test_tokens_of_held_out_text_at_the_edge(metric, toy_model, toy_tokenizer, gender):
    """Documents of as many tokens as they have letters: the text's end is not counted, nor is the start token."""

    def reason(tokens):
        documents = ["z" * (tokens - 20 * 4), *["z" * 20] * 4]
        assert sum(len(toy_tokenizer(document)["input_ids"]) for document in documents) == tokens
        evaluation = Evaluation(toy_model(), toy_tokenizer, gender, documents=documents)
        return METRICS[metric].measure(evaluation).too_little

    assert reason(enough.TOKENS) is None
    assert reason(enough.TOKENS - 1) == "only 99 tokens, and 100 are needed"


def test_sampled_texts_at_the_edge():
    def reason(number):
        return (
            METRICS["neutral_rate"].measure(continued([["it"]] * number, [Prompt("x", "a", "b")] * number)).too_little
        )

    assert reason(enough.TEXTS) is None
    assert reason(enough.TEXTS - 1) == "only 19 texts, and 20 are needed"


@pytest.mark.parametrize("metric", ["generation_disparity", "fairness_ratio"])
def test_texts_about_a_group_at_the_edge(metric):
    def reasons(number):
        texts = [["he", "it"]] * number
        found = METRICS[metric].measure(continued(texts, [Prompt("x", "a", "b")] * number))
        return {m.too_little for m in (found.values() if isinstance(found, dict) else [found])}

    assert reasons(enough.GROUP_TEXTS) == {None}
    assert None not in reasons(enough.GROUP_TEXTS - 1)


def test_the_reason_stands_in_the_numbers_place():
    units = np.array([[1.0, 1.0]] * 3)
    card = METRICS["corpus_disparity"].CARD

    def outcome(reason):
        made = Measurement(units, lambda t: t[..., 0] / t[..., 1], "prompt", 3, "prompts", too_little=reason)
        return reported(resampled(made, resamples=20, seed=0))

    full, empty = outcome(None), outcome("only 3 prompts")
    found = score_of(card, empty)
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.details["instead"] == "too little to tell: only 3 prompts"
    assert found.details["seen"] == 1
    assert score_of(card, full).value == 1
    for pair in ((full, empty), (empty, full)):
        difference = difference_of(*pair)
        assert difference["instead"] == "too little to tell: only 3 prompts"
        assert {difference[key] for key in ("value", "low", "high", "ratio", "ratio_low", "ratio_high")} == {None}
