"""Every metric against a hand-computed case or a naive second way, and the laws that all of them obey."""

import json
import math
import socket

import evaluate
import numpy as np
import pytest
import torch
from bigram import BigramModel
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

import distill.metrics
from distill.base.errors import UserError
from distill.metrics import (
    CARDS,
    METRICS,
    Evaluation,
    Measurement,
    NotMeasured,
    cards,
    chosen,
    difference,
    measured,
    score,
)
from distill.metrics import evaluation as evaluation_module
from distill.metrics.bootstrap import resampled_totals
from distill.metrics.log_ratio import log_ratio
from distill.metrics.polarity import NEUTRAL, TIE, group_counter, polarity
from distill.recipe import ScoreConfig
from distill.text.counterfactual import Swapper
from distill.text.prompts import Prompt
from distill.text.wordlist import load_wordlist

LN2 = math.log(2)
SMALL = ScoreConfig(samples=2, max_new_tokens=5, bootstrap=200, batch_size=3)
PROMPTS = [
    Prompt("The nurse said that", "health", "nurse"),
    Prompt("The nurse was", "health", "nurse"),
    Prompt("The doctor said that", "craft", "doctor"),
]
DOCUMENTS = [
    "The nurse said that she was tired. Nothing happened at all.",
    "Nothing happened at all. The king and the queen saw him and her.",
    "The book was late. A book was tired.",
    "He took his coat.",
]
GENDER = (
    "male\tfemale\twhen\nhe\tshe\nhim\ther\tobject\nhis\ther\tdeterminer\nhis\thers\tpronoun\nking\tqueen\nman\twoman\n"
)


@pytest.fixture
def wordlist(tmp_path):
    """A function from the text of a word list to the list."""

    def make(text: str = GENDER):
        rows = [line.split("\t") for line in text.splitlines()]
        width = max(map(len, rows))
        path = tmp_path / "words.tsv"
        path.write_text("".join("\t".join(row + [""] * (width - len(row))) + "\n" for row in rows), encoding="utf-8")
        return load_wordlist(path)

    return make


@pytest.fixture
def bigram(toy_tokenizer):
    """A function from {last word: {next word: probability}} to a model, `None` for the start token; rest uniform."""

    def token(word):
        if word is None:
            return toy_tokenizer.bos_token_id
        (only,) = toy_tokenizer(word)["input_ids"]
        return only

    def make(rows=None, **keys):
        model = BigramModel(len(toy_tokenizer), **keys)
        for last, probabilities in (rows or {}).items():
            model.table[token(last)] = -torch.inf
            for word, probability in probabilities.items():
                model.table[token(last), token(word)] = math.log(probability)
        return model

    return make


@pytest.fixture
def evaluated(toy_tokenizer, wordlist):
    """A function from a model to an `Evaluation` of it; keywords change its fields."""

    def make(model, words: str = GENDER, **fields):
        fields = {"documents": DOCUMENTS, "prompts": PROMPTS, "settings": SMALL, "seed": 0} | fields
        return Evaluation(model, toy_tokenizer, wordlist(words), **fields)

    return make


def scored(name: str, evaluation: Evaluation):
    """The score of a metric by name."""
    module = METRICS[name]
    return score(module.CARD, module.measure(evaluation), resamples=evaluation.settings.bootstrap, seed=0)


def swapped(words: str) -> str:
    """A word list of two groups with its columns exchanged."""
    rows = [line.split("\t") for line in words.splitlines()]
    return "".join("\t".join([row[1], row[0], *row[2:]]) + "\n" for row in rows)


# -------------------------------------------------------------------------------------------------------- statistics


def test_resampled_totals_equal_a_plain_loop(monkeypatch):
    units = np.random.default_rng(1).normal(size=(7, 2))
    rng = np.random.default_rng(3)
    expected = [units[rng.integers(7, size=7)].sum(axis=0) for _ in range(50)]
    np.testing.assert_allclose(resampled_totals(units, 50, seed=3), expected)
    monkeypatch.setattr(distill.metrics.bootstrap, "_CELLS", 20)  # A few resamples at a time: the same ones.
    np.testing.assert_allclose(resampled_totals(units, 50, seed=3), expected)


def _mean(units, **fields) -> Measurement:
    units = np.column_stack([units, np.ones(len(units))])
    return Measurement(units, lambda t: t[..., 0] / t[..., 1], "prompt", len(units), "prompts", **fields)


CARD = METRICS["perplexity"].CARD


def test_interval_of_a_mean_is_near_the_normal_one():
    values = np.random.default_rng(0).normal(3, 2, size=400)
    outcome = score(CARD, _mean(values), resamples=4000, seed=0)
    half = 1.96 * values.std() / 20
    assert outcome.value == pytest.approx(values.mean())
    assert (outcome.low, outcome.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_interval_of_an_absolute_value_is_the_image_of_the_signed_one():
    for mean in (0.0, 0.05, 2.0, -2.0):
        values = np.random.default_rng(0).normal(size=100)
        values += mean - values.mean()
        signed = score(CARD, _mean(values), resamples=500, seed=0)
        outcome = score(CARD, _mean(values, absolute=True), resamples=500, seed=0)
        assert outcome.value == abs(signed.value)
        assert outcome.details["signed"] == {"value": signed.value, "low": signed.low, "high": signed.high}
        ends = sorted((abs(signed.low), abs(signed.high)))
        assert outcome.high == ends[1]
        assert outcome.low == (0 if signed.low < 0 < signed.high else ends[0])


@given(st_np.arrays(float, st.integers(0, 6), elements=st.floats(-10, 10)), st.booleans())
def test_a_model_does_not_differ_from_itself(values, absolute):
    outcome = difference(_mean(values, absolute=absolute), _mean(values, absolute=absolute), resamples=50, seed=0)
    if len(values) == 0:
        assert set(outcome.values()) == {None, 0}
        return
    assert outcome["value"] == 0
    assert (outcome["low"], outcome["high"]) == ((0, 0) if len(values) > 1 else (None, None))
    assert outcome["ratio"] in (1, None)
    json.dumps(outcome, allow_nan=False)


def test_a_constant_shift_is_found_without_noise():
    values = np.random.default_rng(0).normal(size=50)
    outcome = difference(_mean(values + 0.25), _mean(values), resamples=200, seed=0)
    assert [outcome[key] for key in ("value", "low", "high")] == pytest.approx([0.25] * 3)


def test_difference_and_ratio_of_absolute_values():
    first, second = _mean(np.full(4, -1.0), absolute=True), _mean(np.full(4, 4.0), absolute=True)
    outcome = difference(first, second, resamples=20, seed=0)
    assert outcome == {
        "value": -3, "low": -3, "high": -3, "ratio": 0.25, "ratio_low": 0.25, "ratio_high": 0.25, "n": 4,
    }  # fmt: skip


def test_models_measured_on_other_units_are_not_compared():
    with pytest.raises(ValueError, match="cannot pair 3 units with 2"):
        difference(_mean(np.ones(3)), _mean(np.ones(2)), resamples=10, seed=0)


@given(st_np.arrays(float, st.tuples(st.integers(0, 5), st.just(2)), elements=st.sampled_from([0.0, 1.0, 1e308])))
def test_undefined_values_are_none_and_never_nan(units):
    measurement = Measurement(units, lambda t: np.exp(t[..., 0] / t[..., 1]), "prompt", len(units), "prompts")
    outcome = score(CARD, measurement, resamples=20, seed=0)
    json.dumps(outcome.to_dict(), allow_nan=False)
    json.dumps(difference(measurement, measurement, resamples=20, seed=0), allow_nan=False)
    assert ("reason" in outcome.details) == (outcome.value is None)


@given(st_np.arrays(float, st_np.array_shapes(min_dims=1, max_dims=3, min_side=2), elements=st.floats(-50, 50)))
def test_log_ratio_against_its_definition(logs):
    outcome = log_ratio(logs)
    for index in np.ndindex(logs.shape[:-1]):
        row = logs[index]
        if len(row) == 2:
            assert outcome[index] == row[0] - row[1]
        else:
            pairs = [abs(row[a] - row[b]) for a in range(len(row)) for b in range(a)]
            assert outcome[index] == pytest.approx(sum(pairs) / len(pairs))


# --------------------------------------------------------------------------------------------------------- next word


def test_next_word_disparity_by_hand(bigram, evaluated):
    model = bigram({" that": {" he": 0.6, " she": 0.3, " book": 0.1}, " was": {" his": 0.1, " her": 0.4, " book": 0.5}})
    outcome = scored("next_word_disparity", evaluated(model))
    # nurse: log 2 after "that", -log 4 after "was"; doctor: log 2.
    assert outcome.value == pytest.approx(4 * LN2 / 3)
    assert outcome.n == 3
    assert outcome.undetected == 0
    details = outcome.details
    assert details["groups"] == ["male", "female"]
    assert details["mean_signed"] == pytest.approx(0, abs=1e-6)
    means = {subject: mean["value"] for subject, mean in details["subjects"].items()}
    assert means == pytest.approx({"nurse": -LN2 / 2, "doctor": LN2})
    # Of nurse's two prompts a resample holds one, the other, or both; of doctor's single one there is no interval.
    nurse, doctor = details["subjects"]["nurse"], details["subjects"]["doctor"]
    assert (nurse["low"], nurse["high"], nurse["n"]) == (pytest.approx(-2 * LN2), pytest.approx(LN2), 2)
    assert (doctor["low"], doctor["high"], doctor["n"]) == (None, None, 1)
    assert details["spread"] == pytest.approx(0.75 * LN2)
    assert details["listed_mass"] == pytest.approx((0.9 + 0.5 + 0.9) / 3)


def test_next_word_lean_by_hand(bigram, evaluated):
    model = bigram({" that": {" he": 0.6, " she": 0.3, " book": 0.1}, " was": {" his": 0.1, " her": 0.4, " book": 0.5}})
    evaluation = evaluated(model)
    found = METRICS["next_word_lean"].measure(evaluation)
    mean, spread = (score(CARDS[name], found[name], resamples=100, seed=0) for name in found)
    # nurse: log 2 after "that", -log 4 after "was"; doctor: log 2.
    assert mean.value == pytest.approx(0, abs=1e-6)
    assert spread.value == pytest.approx(0.75 * LN2)
    assert (mean.n, spread.details["subjects"]) == (3, 2)
    details = scored("next_word_disparity", evaluation).details
    assert (details["mean_signed"], details["spread"]) == pytest.approx((mean.value, spread.value), abs=1e-6)


def test_next_word_mean_changes_its_sign_with_the_columns(bigram, evaluated):
    model = bigram({" that": {" he": 0.6, " she": 0.3, " book": 0.1}, " was": {" he": 0.1, " she": 0.2, " book": 0.7}})
    one, other = (METRICS["next_word_lean"].measure(evaluated(model, words)) for words in (GENDER, swapped(GENDER)))
    means = [score(CARDS["next_word_mean"], found["next_word_mean"], resamples=100, seed=0) for found in (one, other)]
    assert means[0].value == pytest.approx(LN2 / 3)
    assert means[1].value == pytest.approx(-means[0].value)
    assert (means[1].low, means[1].high) == pytest.approx((-means[0].high, -means[0].low), abs=0.2)
    spreads = [
        found["next_word_spread"].statistic(found["next_word_spread"].units.sum(axis=0)) for found in (one, other)
    ]
    assert spreads[0] == pytest.approx(spreads[1])


def test_a_prompt_after_which_a_group_has_no_mass_is_left_out(bigram, evaluated):
    model = bigram({" that": {" he": 0.6, " she": 0.3, " book": 0.1}, " was": {" he": 1.0}})
    outcome = scored("next_word_disparity", evaluated(model))
    assert outcome.value == pytest.approx(LN2)
    assert (outcome.n, outcome.undetected) == (2, pytest.approx(1 / 3))


def test_words_that_no_token_stands_for(bigram, evaluated):
    words = "a\tb\nhatch\thatched\n"  # Both begin with the same token.
    assert evaluated(bigram(), words).roles.groups == ((), ())
    outcome = scored("next_word_disparity", evaluated(bigram(), words))
    assert (outcome.value, outcome.n, outcome.undetected) == (None, 0, 1)
    assert scored("corpus_disparity", evaluated(bigram(), words)).value is None


def test_three_groups_are_compared_pair_by_pair(bigram, evaluated):
    words = "a\tb\tc\nking\tqueen\tbook\n"
    model = bigram({" that": {" king": 0.4, " queen": 0.2, " book": 0.1, " was": 0.3}})
    outcome = scored("next_word_disparity", evaluated(model, words, prompts=PROMPTS[:1]))
    assert outcome.value == pytest.approx((LN2 + 2 * LN2 + LN2) / 3)
    assert outcome.details["mean_signed"] is None


# ------------------------------------------------------------------------------------------------------------ corpus


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


def test_swapping_the_groups_turns_the_sign(toy_model, evaluated):
    model = toy_model(seed=3)
    one, other = evaluated(model), evaluated(model, swapped(GENDER))
    corpus = [scored("corpus_disparity", e) for e in (one, other)]
    assert corpus[0].value == pytest.approx(-corpus[1].value)
    assert (corpus[0].low, corpus[0].high) == pytest.approx((-corpus[1].high, -corpus[1].low))
    word = [scored("next_word_disparity", e) for e in (one, other)]
    assert word[0].value == pytest.approx(word[1].value)
    assert word[0].details["mean_signed"] == pytest.approx(-word[1].details["mean_signed"])
    texts = [scored("generation_disparity", e) for e in (one, other)]
    assert texts[0].value == pytest.approx(texts[1].value)
    assert texts[0].details["signed"]["value"] == pytest.approx(-texts[1].details["signed"]["value"])
    gap = [scored("equivariance_gap", e) for e in (one, other)]
    assert gap[0].value == pytest.approx(gap[1].value, rel=1e-4)


# -------------------------------------------------------------------------------------------------------- generation


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("he said", 0),
        (" HE said,", 0),
        ("“He’s tired,” they said", 0),
        ("she's tired", 1),
        ("to the woman.", 1),
        ("(her)", 1),
        ("he and she", TIE),
        ("he and she and her", 1),
        ("the teacher there", NEUTRAL),
        ("", NEUTRAL),
        ("...", NEUTRAL),
        ("the king", NEUTRAL),  # BOLD's words are pronouns and man, woman, boy, girl.
        ("woman's work", NEUTRAL),  # Only he's and she's have an apostrophe there.
        ("himself—herself—girls", 1),
    ],
)
def test_polarity_after_bold(text, expected, wordlist):
    words = wordlist()
    count, rule = group_counter(words, Swapper(words))
    assert rule == "BOLD's words"
    assert polarity(count(text)) == expected
    other = wordlist(swapped(GENDER))
    count, _ = group_counter(other, Swapper(other))
    assert polarity(count(text)) == {0: 1, 1: 0}.get(expected, expected)


def test_another_list_is_counted_with_its_own_words(wordlist):
    words = wordlist("a\tb\tc\nking\tqueen\tbook\n")
    count, rule = group_counter(words, Swapper(words))
    assert rule == "the word list's words"
    assert count("The King, a book; he has two books, a Book.") == [1, 0, 2]


def test_generation_disparity_by_hand(bigram, evaluated):
    evaluation = evaluated(bigram())
    evaluation.continuations = [["he said", "he and his"], ["she said", "nobody"], ["he or she", "him"]]
    outcome = scored("generation_disparity", evaluation)
    assert outcome.value == pytest.approx(math.log(3.5 / 1.5))
    assert (outcome.n, outcome.undetected) == (6, pytest.approx(1 / 6))
    details = outcome.details
    assert details["texts"] == {"male": 3, "female": 1, "tie": 1, "no group": 1}
    assert details["fairness_ratios"] == {"health": 0.5, "craft": 0.0}
    assert (details["fairness_ratio_mean"], details["fairness_ratio_min"]) == (0.25, 0.0)
    assert details["decoding"]["samples"] == 2
    neutral = scored("neutral_rate", evaluation)
    assert (neutral.value, neutral.n, neutral.ideal) == (pytest.approx(1 / 6), 6, None)


def test_a_silent_model_is_undetected_not_fair(bigram, evaluated):
    evaluation = evaluated(bigram())
    evaluation.continuations = [["nobody", ""]] * 3
    outcome = scored("generation_disparity", evaluation)
    assert (outcome.value, outcome.undetected) == (0, 1)
    assert outcome.details["fairness_ratios"] == {"health": None, "craft": None}
    assert (outcome.details["fairness_ratio_mean"], outcome.details["fairness_ratio_min"]) == (None, None)
    assert scored("neutral_rate", evaluation).value == 1


def test_one_sampling_serves_both_metrics(toy_model, evaluated, monkeypatch):
    calls = []
    monkeypatch.setattr(
        evaluation_module, "generate", lambda *a, **k: calls.append(a) or [["he", "she"]] * len(PROMPTS)
    )
    evaluation = evaluated(toy_model())
    scored("generation_disparity", evaluation)
    scored("neutral_rate", evaluation)
    assert len(calls) == 1


# -------------------------------------------------------------------------------------------------------- likelihood


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


def test_bytes_are_utf8(bigram, evaluated):
    assert scored("bits_per_byte", evaluated(bigram(), documents=["é€"])).n == 5


# ------------------------------------------------------------------------------------------------------ equivariance


def test_a_model_that_treats_groups_alike_has_no_gap(bigram, evaluated, toy_tokenizer):
    """P(next | last) = (T(next | last) + T(partner of next | partner of last)) / 2 for any table T."""
    words = "a\tb\nhe\tshe\nking\tqueen\n"
    documents = [document for document in DOCUMENTS if not document.startswith("He")]  # "She" is two tokens here.
    model = bigram()
    model.table = torch.randn(model.table.shape, generator=torch.Generator().manual_seed(0))
    partner = torch.arange(len(toy_tokenizer))
    for source, destination in evaluated(model, words).roles.edges[0]:
        partner[source] = destination
    biased = scored("equivariance_gap", evaluated(model, words, documents=documents))
    probabilities = model.table.softmax(-1)
    model.table = ((probabilities + probabilities[partner][:, partner]) / 2).log()
    fair = scored("equivariance_gap", evaluated(model, words, documents=documents))
    assert biased.value > 0.05
    assert fair.value == pytest.approx(0, abs=1e-6)
    assert fair.n == biased.n
    assert fair.undetected == pytest.approx(1 / 3)  # One of the documents holds no word of the list.


def test_equivariance_gap_position_by_position(toy_model, toy_tokenizer, evaluated):
    """Alignment by characters, one text at a time, KL as its definition has it."""
    model = toy_model(seed=1)
    evaluation = evaluated(model)
    total, aligned = 0.0, 0
    for document in DOCUMENTS:
        (edited,) = evaluation.swapper.counterfactuals(document) or [None]
        if edited is None or not edited.spans:
            continue
        to_edited = {0: 0}  # Character boundary -> boundary in the counterfactual, outside of edited words.
        shift = 0
        for boundary in range(len(document) + 1):
            span = next((s for s in edited.spans if s.start < boundary <= s.end), None)
            if span is not None and boundary == span.end:
                shift = span.cf_end - span.end
            if span is None or boundary == span.end:
                to_edited[boundary] = boundary + shift
        sides = []
        for text in (document, edited.text):
            encoded = toy_tokenizer(text, return_offsets_mapping=True)
            ids = [toy_tokenizer.bos_token_id, *encoded["input_ids"]]
            ends = [0, *(end for _, end in encoded["offset_mapping"])]
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            sides.append({end: logits[i] for i, end in enumerate(ends)})
        for end, own in sides[0].items():
            if (other := sides[1].get(to_edited.get(end))) is not None:
                target = evaluation.role_maps[0].reverse(own[None], other[None])[0]
                total += float((own.exp() * (own - target)).sum())
                aligned += 1
    outcome = scored("equivariance_gap", evaluation)
    assert outcome.n == aligned
    assert outcome.value == pytest.approx(total / aligned, rel=1e-4)


def test_long_documents_are_read_up_to_the_context(toy_model, evaluated):
    model = toy_model(n_positions=12)
    for metric in ("equivariance_gap", "corpus_disparity"):
        long = scored(metric, evaluated(model, documents=[" ".join(DOCUMENTS), DOCUMENTS[0] * 9]))
        assert long.value is not None
        assert long.n <= 24


# --------------------------------------------------------------------------------------------------- all the metrics


def test_a_recipes_default_metrics_are_here():
    assert set(ScoreConfig().metrics) <= set(METRICS)


def all_scored(name: str, evaluation: Evaluation) -> dict:
    """Every score of a metric; what needs data that are not here is undefined."""
    return {
        of: score(CARDS[of], m, resamples=evaluation.settings.bootstrap, seed=0)
        for of, m in measured(METRICS[name], evaluation).items()
    }


def test_no_two_scores_share_a_name():
    names = [card.name for metric in METRICS.values() for card in cards(metric)]
    assert len(names) == len(set(names)) == len(CARDS)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_says_what_it_is(name):
    for card in cards(METRICS[name]):
        assert hasattr(METRICS[name], "CARDS") or card.name == name
        assert all(len(text) > 5 for text in (card.label, card.meaning, card.formula, card.direction, card.source))
        assert len(card.limits) > 20


@pytest.mark.parametrize("name", METRICS)
def test_nothing_to_measure_is_undefined(name, toy_model, evaluated):
    for outcome in all_scored(name, evaluated(toy_model(), documents=[], prompts=[])).values():
        assert (outcome.value, outcome.low, outcome.high, outcome.n) == (None, None, None, 0)
        assert outcome.details["reason"]
        json.dumps(outcome.to_dict(), allow_nan=False)


@pytest.mark.parametrize("name", METRICS)
def test_batches_and_training_mode_change_nothing(name, toy_model, evaluated, monkeypatch):
    model = toy_model(embd_pdrop=0.5, resid_pdrop=0.5)
    expected = all_scored(name, evaluated(model))
    monkeypatch.setattr(evaluation_module, "MAX_LOGITS", 1)
    model.train()
    outcomes = all_scored(name, evaluated(model, settings=ScoreConfig(**vars(SMALL) | {"batch_size": 1})))
    assert model.training
    for of, outcome in outcomes.items():
        before = expected[of]
        for field in ("value", "low", "high"):
            value, same = getattr(outcome, field), getattr(before, field)
            assert value == same if same is None else value == pytest.approx(same, rel=1e-4)
        assert (outcome.n, outcome.undetected) == (before.n, before.undetected)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_takes_three_groups(name, toy_model, evaluated):
    words = "a\tb\tc\nking\tqueen\tbook\nnurse\tdoctor\twoman\n"
    for outcome in all_scored(name, evaluated(toy_model(), words)).values():
        assert outcome.value is not None or outcome.details["reason"]
        json.dumps(outcome.to_dict(), allow_nan=False)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("form", ["folder", "file"])
def test_every_metric_is_a_module_of_evaluate_offline(
    name, form, toy_model, toy_tokenizer, wordlist, monkeypatch, tmp_path
):
    def refuse(*_):
        raise AssertionError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    path = METRICS[name].__file__
    module = evaluate.load(path.rsplit("/", 1)[0] if form == "folder" else path, cache_dir=str(tmp_path))
    assert all(card.formula in module.description for card in cards(METRICS[name]))
    words = wordlist()
    inputs = {
        "model": toy_model(),
        "tokenizer": toy_tokenizer,
        "wordlist": words,
        "documents": DOCUMENTS,
        "prompts": PROMPTS,
        "seed": 0,
        "samples": 2,
        "max_new_tokens": 5,
        "bootstrap": 200,
    }
    expected = all_scored(name, Evaluation(toy_model(), toy_tokenizer, words, DOCUMENTS, PROMPTS, SMALL))
    try:
        outcomes = module.compute(**inputs)
    except NotMeasured as reason:
        assert {score.details["reason"] for score in expected.values()} == {str(reason)}
        return
    if not hasattr(METRICS[name], "CARDS"):
        outcomes = {name: outcomes}
    for of, outcome in outcomes.items():
        for field in ("value", "low", "high", "n"):
            assert outcome[field] == pytest.approx(getattr(expected[of], field))


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


def test_unknown_metric():
    assert list(chosen(["perplexity", "bits_per_byte"])) == ["perplexity", "bits_per_byte"]
    with pytest.raises(UserError, match="unknown metric 'perplexty'; did you mean 'perplexity'"):
        chosen(["perplexty"])


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
