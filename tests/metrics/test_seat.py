"""SEAT against plain loops; its sentences belong to words, and words are what is resampled."""

import json

import numpy as np
import pytest
from downstream_data import (
    DEMO_TEACHER,
    SETTINGS,
    evaluation_of,
    plain_associations,
    plain_effect_size,
    plain_vector,
    write_seat,
)

from distill.metrics import METRICS, NotMeasured, score
from distill.metrics.association import GENDER_TESTS, OTHER_TESTS, PARTS, read_test, score_name
from distill.metrics.bootstrap import resampled_totals
from distill.metrics.seat.seat import _words
from distill.models.loading import load_model, load_tokenizer
from distill.recipe import ScoreConfig

SEAT = METRICS["seat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_seat(tmp_path_factory.mktemp("data"))


def plain_values(model, tokenizer, path):
    """s of the sentences of X and of Y, one text at a time."""
    table = json.loads(path.read_text())
    x, y, a, b = ([plain_vector(model, tokenizer, text) for text in table[part]["examples"]] for part in PARTS)
    values = plain_associations([*x, *y], a, b)
    return values[: len(x)], values[len(x) :]


def test_every_score_against_plain_loops(folder, toy_model, toy_tokenizer):
    model = toy_model(seed=2)
    outcomes = SEAT.measure(evaluation_of(model, toy_tokenizer, folder))
    assert list(outcomes) == [card.name for card in SEAT.CARDS]
    for test in GENDER_TESTS:
        first, second = plain_values(model, toy_tokenizer, folder / "seat" / f"sent-{test}.jsonl")
        outcome = outcomes[score_name("seat", test)]
        value = float(outcome.statistic(outcome.units.sum(axis=0)))
        assert value == pytest.approx(plain_effect_size(first, second), abs=1e-4)
        assert (outcome.n, len(outcome.units), outcome.counted) == (16, 8, "target sentences")
        # Two sentences a word, eight words: a resample of words holds both sentences of each, as often as it was drawn.
        drawn = np.random.default_rng(3).integers(8, size=8)
        size = float(outcome.statistic(resampled_totals(outcome.units, 1, seed=3)[0]))
        by_word = {tuple(np.round(units, 9)): [] for units in outcome.units}
        assert len(by_word) == 8
        order = [int(np.argmin([abs(u[1] + u[3] - s) for s in _word_sums(first, second)])) for u in outcome.units]
        x = [v for i in drawn if order[i] < 4 for v in first[2 * order[i] : 2 * order[i] + 2]]
        y = [v for i in drawn if order[i] >= 4 for v in second[2 * order[i] - 8 : 2 * order[i] - 6]]
        assert size == pytest.approx(plain_effect_size(x, y), abs=1e-3)


def _word_sums(first, second):
    """Sum of the centred s of the two sentences of each word."""
    values = np.array([*first, *second])
    return (values - values.mean()).reshape(-1, 2).sum(axis=1)


def test_permutations_over_words_and_over_sentences(folder, toy_model, toy_tokenizer):
    details = SEAT.measure(evaluation_of(toy_model(), toy_tokenizer, folder))["seat6_effect_size"].details
    assert (details["partitions"], details["exact"]) == (70, True)  # 8 words, 4 of them in X.
    assert 0 < details["p_value_sentences"] <= 1
    assert details["words"] == {"targ1": 4, "targ2": 4}
    assert set(details["other_tests"]) == set(OTHER_TESTS)
    json.dumps(details, allow_nan=False)


@pytest.mark.parametrize(
    ("words", "sentence", "expected"),
    [
        (("man", "boy"), "These are men.", "man"),
        (("man", "boy"), "The boys are here.", "boy"),
        (("her", "hers"), "This is hers.", "hers"),
        (("her", "hers"), "That's her.", "her"),
        (("symphony",), "Symphonies are things.", "symphony"),
        (("equations",), "This is an equation.", "equations"),
        (("American", "South American"), "A South American is a person.", "South American"),
        (("NASA",), "This is NASA.", "NASA"),
        (("art",), "Arthur is here.", "Arthur is here."),
    ],
)
def test_the_word_of_a_sentence(words, sentence, expected):
    assert _words([sentence], words) == [expected]


def test_every_real_sentence_has_its_word(shared_data):
    for test in (*GENDER_TESTS, *OTHER_TESTS):
        sentences = read_test(shared_data("seat", f"sent-{test}.jsonl"))
        words = read_test(shared_data("seat", f"{test}.jsonl"))
        for of, known in zip(sentences.examples[:2], words.examples[:2], strict=True):
            found = _words(of, known)
            assert set(found) <= set(known)
            if test in GENDER_TESTS:
                assert set(found) == set(known)


def test_batches_change_nothing(folder, toy_model, toy_tokenizer):
    model = toy_model("llama")
    outcomes = [
        SEAT.measure(
            evaluation_of(
                model,
                toy_tokenizer,
                folder,
                settings=ScoreConfig(**vars(SETTINGS) | {"data": str(folder), "batch_size": size}),
            )
        )
        for size in (1, 7)
    ]
    for card in SEAT.CARDS:
        one, other = (score(card, outcome[card.name], resamples=50, seed=0) for outcome in outcomes)
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), abs=1e-4)


def test_missing_data_is_not_measured(toy_model, toy_tokenizer):
    with pytest.raises(NotMeasured, match="--data names the folder that holds seat/sent-weat6"):
        SEAT.measure(evaluation_of(toy_model(), toy_tokenizer, None, words=None))


@pytest.mark.slow
def test_the_demo_teacher_on_the_real_sentences(shared_data):
    folder = shared_data("seat").parent
    model, tokenizer = load_model(DEMO_TEACHER).float(), load_tokenizer(DEMO_TEACHER)
    settings = ScoreConfig(data=str(folder), bootstrap=100)
    outcome = SEAT.measure(evaluation_of(model, tokenizer, folder, words=None, settings=settings))["seat6b_effect_size"]
    expected = plain_effect_size(*plain_values(model, tokenizer, folder / "seat" / "sent-weat6b.jsonl"))
    assert float(outcome.statistic(outcome.units.sum(axis=0))) == pytest.approx(expected, abs=1e-3)
    assert (outcome.n, len(outcome.units)) == (160, 16)
