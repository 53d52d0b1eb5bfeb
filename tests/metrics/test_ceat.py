"""CEAT: contexts, vectors in them, effect sizes draw by draw, and the random-effects model against its definition."""

import json
import math

import numpy as np
import pytest
from downstream_data import (
    GENDER,
    MEN,
    SETTINGS,
    THINGS,
    WOMEN,
    evaluation_of,
    plain_associations,
    plain_effect_size,
    plain_states,
    write_people,
    write_seat,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from distill.metrics import METRICS, NotMeasured, score
from distill.metrics.association import GENDER_TESTS, read_test, score_name
from distill.metrics.ceat import ceat
from distill.metrics.ceat.ceat import TESTS, combined_effect, contexts_of, draw_effects
from distill.recipe import ScoreConfig

CEAT = METRICS["ceat"]
DOCUMENTS = [f"The {a} and the {b} took a {thing}. A {b} is {thing}." for a in MEN for b in WOMEN for thing in THINGS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_seat(tmp_path_factory.mktemp("data"))


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(ceat, "SAMPLES", 20)


# ----------------------------------------------------------------------------------------------------------- contexts


def test_contexts_are_sentences_up_to_the_word():
    texts = ["John sat. Then he saw John’s art! (Art) is his art", "art", "Johnson art-house"]
    found = contexts_of(("John", "art", "he", "calculus"), texts, seed=0)
    assert found == {
        "John": [("John", 0), ("Then he saw John", 12)],
        "art": [("Then he saw John’s art", 19), ("(Art) is his art", 13), ("art", 0), ("Johnson art", 8)],
        "he": [("Then he", 5)],
        "calculus": [],
    }


def test_a_word_has_a_limited_number_of_contexts_drawn_with_the_seed():
    texts = [f"{number} art" for number in range(500)]
    first, again, other = (contexts_of(["art"], texts, seed)["art"] for seed in (0, 0, 1))
    assert len(first) == ceat.CONTEXTS == len(set(first))
    assert first == again != other


@given(st.lists(st.text("aA .\nbé-", max_size=30), max_size=4))
def test_a_context_ends_with_its_word(texts):
    for word, contexts in contexts_of(("a", "bA"), texts, seed=0).items():
        for text, start in contexts:
            assert text[start:] == word
            assert any(text in whole for whole in texts)
            assert "\n" not in text[:start]


# ------------------------------------------------------------------------------------------------------- random effects


def dersimonian_laird(sizes, variances):
    """Term by term; (combined, standard error, variance between)."""
    weights = [1 / v for v in variances]
    fixed = sum(w * e for w, e in zip(weights, sizes, strict=True)) / sum(weights)
    heterogeneity = sum(w * (e - fixed) ** 2 for w, e in zip(weights, sizes, strict=True))
    excess = heterogeneity - (len(sizes) - 1)
    between = max(0, excess / (sum(weights) - sum(w * w for w in weights) / sum(weights)))
    weights = [1 / (v + between) for v in variances]
    return sum(w * e for w, e in zip(weights, sizes, strict=True)) / sum(weights), sum(weights) ** -0.5, between


effects = st.lists(st.tuples(st.floats(-2, 2), st.floats(0.01, 3)), min_size=2, max_size=8)


@given(effects)
def test_random_effects_term_by_term(pairs):
    sizes, variances = map(list, zip(*pairs, strict=True))
    found = combined_effect(np.array(sizes), np.array(variances))
    assert [float(part) for part in found] == pytest.approx(dersimonian_laird(sizes, variances), abs=1e-9)


def test_random_effects_by_hand():
    # No more spread than the variances explain: the inverse-variance mean, (1 * 0 + 3 * 0.4) / 4.
    combined, error, between = combined_effect(np.array([0.0, 0.4]), np.array([1.0, 1 / 3]))
    assert (combined, error, between) == (pytest.approx(0.3), pytest.approx(0.5), 0)
    # Q = 2, one degree of freedom, c = 2 - 2 / 2: the variance between is 1, and both weigh 1 / 2.
    combined, error, between = combined_effect(np.array([0.0, 2.0]), np.array([1.0, 1.0]))
    assert (combined, error, between) == pytest.approx((1, 1, 1))


def test_combination_of_many_at_once_is_that_of_each():
    rng = np.random.default_rng(0)
    sizes, variances = rng.normal(size=(3, 5, 7)), rng.uniform(0.1, 1, size=(3, 5, 7))
    together = combined_effect(sizes, variances)
    for index in np.ndindex(3, 5):
        alone = combined_effect(sizes[index], variances[index])
        assert [part[index] for part in together] == pytest.approx(alone)


# ------------------------------------------------------------------------------------------------------------ measured


def plain_word(model, tokenizer, text, start):
    """Mean state of the tokens of the word at the end of a text."""
    tokens = tokenizer.tokenize(text[max(0, start - 1) :])  # The first may hold the space before the word.
    number = len(tokens) - (tokens[0] == "Ġ")  # A space alone is no part of it.
    return plain_states(model, tokenizer, text)[-number:].mean(axis=0)


def test_every_draw_against_plain_loops(folder, toy_model, toy_tokenizer, few_draws):
    """The same draws of the same contexts, effect sizes and variances by their definitions."""
    model = toy_model(seed=3)
    evaluation = evaluation_of(model, toy_tokenizer, folder, documents=DOCUMENTS, seed=5)
    outcomes = CEAT.measure(evaluation)
    assert list(outcomes) == [card.name for card in CEAT.CARDS]
    words = sorted({w for test in TESTS for s in read_test(folder / "seat" / f"{test}.jsonl").examples for w in s})
    contexts = contexts_of(words, DOCUMENTS, seed=5)
    vectors = {word: [plain_word(model, toy_tokenizer, *context) for context in contexts[word]] for word in words}
    for test in TESTS:
        examples = read_test(folder / "seat" / f"{test}.jsonl").examples
        rng = np.random.default_rng(5)
        draws = [[rng.integers(len(vectors[word]), size=20) for word in words_of] for words_of in examples]
        sizes, variances = [], []
        for i in range(20):
            x, y, a, b = (
                [vectors[word][draws[part][j][i]] for j, word in enumerate(words_of)]
                for part, words_of in enumerate(examples)
            )
            values = plain_associations([*x, *y], a, b)
            sizes.append(plain_effect_size(values[: len(x)], values[len(x) :]))
            variances.append(float(np.var(values, ddof=1)))
        combined, error, between = dersimonian_laird(sizes, variances)
        outcome = outcomes[score_name("ceat", test)]
        assert float(outcome.statistic(outcome.units.sum(axis=0))) == pytest.approx(combined, abs=1e-3)
        found = [part.tolist() for part in draw_effects(outcome.units.sum(axis=0))]
        assert found[0] == pytest.approx(sizes, abs=1e-3)
        details = outcome.details
        assert details["standard_error"] == pytest.approx(error, rel=1e-3)
        assert details["variance_between_draws"] == pytest.approx(between, rel=1e-3, abs=1e-4)
        assert details["p_value"] == pytest.approx(2 * norm.sf(abs(combined) / error), rel=0.02)
        assert (outcome.n, len(outcome.units), outcome.undetected) == (20, 8, 0)
        json.dumps(details, allow_nan=False)


def test_words_without_contexts_are_left_out_and_told(folder, toy_model, toy_tokenizer, few_draws):
    documents = [document.replace("king", "duke") for document in DOCUMENTS]
    outcome = CEAT.measure(evaluation_of(toy_model(), toy_tokenizer, folder, documents=documents))["ceat6_effect_size"]
    assert outcome.details["without_contexts"] == ["king"]
    assert (outcome.details["words"]["targ1"], len(outcome.units)) == (3, 7)
    assert outcome.undetected == pytest.approx(1 / 12)
    assert outcome.details["contexts_from"] == "the held-out documents"


def test_the_people_of_the_benchmark_data_come_first(tmp_path, toy_model, toy_tokenizer, few_draws):
    folder = write_people(write_seat(tmp_path))
    with pytest.raises(NotMeasured, match="the Wikipedia people"):  # No king among them.
        CEAT.measure(evaluation_of(toy_model(), toy_tokenizer, folder, documents=DOCUMENTS))


@pytest.mark.parametrize(
    ("documents", "message"), [([], "wikipedia_people"), (["Nothing here."], "too few of the tests' words")]
)
def test_no_contexts_is_not_measured(documents, message, folder, toy_model, toy_tokenizer):
    with pytest.raises(NotMeasured, match=message):
        CEAT.measure(evaluation_of(toy_model(), toy_tokenizer, folder, documents=documents))


def test_batches_change_nothing_and_the_seed_decides_the_draws(folder, toy_model, toy_tokenizer, few_draws):
    values = {}
    for size, seed in ((1, 0), (7, 0), (7, 1)):
        settings = ScoreConfig(**vars(SETTINGS) | {"data": str(folder), "batch_size": size})
        evaluation = evaluation_of(
            toy_model(), toy_tokenizer, folder, GENDER, documents=DOCUMENTS, settings=settings, seed=seed
        )
        outcome = CEAT.measure(evaluation)["ceat7_effect_size"]
        result = score(CEAT.CARDS[2], outcome, resamples=50, seed=0)
        values[size, seed] = (result.value, result.low, result.high)
        assert all(map(math.isfinite, values[size, seed]))
    assert values[1, 0] == pytest.approx(values[7, 0], abs=1e-4)
    assert values[7, 1] != pytest.approx(values[7, 0], abs=1e-4)


def test_tests_are_those_of_weat():
    assert set(TESTS) < set(GENDER_TESTS)
