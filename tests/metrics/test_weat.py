"""WEAT against plain loops, and the laws of effect sizes and of permutation tests."""

import json
from itertools import permutations

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

from distill.metrics import METRICS, NotMeasured, difference, score
from distill.metrics.association import (
    GENDER_TESTS,
    OTHER_TESTS,
    PARTS,
    read_test,
    score_name,
)
from distill.models.loading import load_model, load_tokenizer
from distill.recipe import ScoreConfig

WEAT = METRICS["weat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_seat(tmp_path_factory.mktemp("data"))


def scores_of(evaluation) -> dict:
    cards = {card.name: card for card in WEAT.CARDS}
    return {
        name: score(cards[name], measurement, resamples=100, seed=0)
        for name, measurement in WEAT.measure(evaluation).items()
    }


def test_every_score_against_plain_loops(folder, toy_model, toy_tokenizer):
    model = toy_model(seed=2)
    scores = scores_of(evaluation_of(model, toy_tokenizer, folder))
    assert list(scores) == [card.name for card in WEAT.CARDS]
    for test in (*GENDER_TESTS, *OTHER_TESTS):
        table = json.loads((folder / "seat" / f"{test}.jsonl").read_text())
        x, y, a, b = (
            [plain_vector(model, toy_tokenizer, " " + word) for word in table[part]["examples"]] for part in PARTS
        )
        values = plain_associations([*x, *y], a, b)
        expected = plain_effect_size(values[: len(x)], values[len(x) :])
        # The p-value by its definition, over every ordered way to choose X.
        sums = [sum(values[i] for i in chosen) for chosen in permutations(range(8), 4)]
        p_value = np.mean([s >= sum(values[:4]) - 1e-9 for s in sums])
        if test in GENDER_TESTS:
            outcome = scores[score_name("weat", test)]
            assert outcome.value == pytest.approx(expected, abs=1e-4)
            assert outcome.low < outcome.value < outcome.high
            details = outcome.details
        else:
            details = scores["weat6_effect_size"].details["other_tests"][test]
            assert details["effect_size"] == pytest.approx(expected, abs=1e-4)
        assert details["p_value"] == pytest.approx(p_value)
        assert (details["partitions"], details["exact"]) == (70, True)
        assert details["categories"] == {part: part.upper() for part in PARTS}


def test_exchanging_targets_or_attributes_turns_the_sign(folder, tmp_path, toy_model, toy_tokenizer):
    model = toy_model(seed=4)
    scores = scores_of(evaluation_of(model, toy_tokenizer, folder))
    for order in (("targ2", "targ1", "attr1", "attr2"), ("targ1", "targ2", "attr2", "attr1")):
        other = tmp_path / order[2] / order[0]
        (other / "seat").mkdir(parents=True)
        for path in (folder / "seat").iterdir():
            table = json.loads(path.read_text())
            turned = {part: table[source] for part, source in zip(PARTS, order, strict=True)}
            (other / "seat" / path.name).write_text(json.dumps(turned))
        turned = scores_of(evaluation_of(model, toy_tokenizer, other))
        for name, outcome in scores.items():
            assert turned[name].value == pytest.approx(-outcome.value)


def test_batches_and_training_mode_change_nothing(folder, toy_model, toy_tokenizer):
    model = toy_model(embd_pdrop=0.5, resid_pdrop=0.5)
    expected = scores_of(evaluation_of(model, toy_tokenizer, folder))
    model.train()
    one_by_one = ScoreConfig(**vars(SETTINGS) | {"data": str(folder), "batch_size": 1})
    outcomes = scores_of(evaluation_of(model, toy_tokenizer, folder, settings=one_by_one))
    assert model.training
    for name, outcome in outcomes.items():
        assert (outcome.value, outcome.low, outcome.high) == pytest.approx(
            (expected[name].value, expected[name].low, expected[name].high), abs=1e-4
        )
        json.dumps(outcome.to_dict(), allow_nan=False)


def test_a_model_does_not_differ_from_itself(folder, toy_model, toy_tokenizer):
    one, other = (WEAT.measure(evaluation_of(toy_model(), toy_tokenizer, folder)) for _ in range(2))
    for name in one:
        outcome = difference(one[name], other[name], resamples=50, seed=0)
        assert (outcome["value"], outcome["low"], outcome["high"]) == (0, 0, 0)


def test_missing_data_is_not_measured(tmp_path, toy_model, toy_tokenizer):
    with pytest.raises(NotMeasured, match=r"seat/weat6\.jsonl"):
        WEAT.measure(evaluation_of(toy_model(), toy_tokenizer, tmp_path))


def test_the_demo_teacher_on_the_real_lists(shared_data):
    folder = shared_data("seat").parent
    model, tokenizer = load_model(DEMO_TEACHER).float(), load_tokenizer(DEMO_TEACHER)
    settings = ScoreConfig(data=str(folder), bootstrap=100)
    scores = scores_of(evaluation_of(model, tokenizer, folder, words=None, settings=settings))
    test = read_test(folder / "seat" / "weat8.jsonl")
    x, y, a, b = ([plain_vector(model, tokenizer, " " + word) for word in words] for words in test.examples)
    values = plain_associations([*x, *y], a, b)
    assert scores["weat8_effect_size"].value == pytest.approx(plain_effect_size(values[:8], values[8:]), abs=1e-3)
    assert scores["weat8_effect_size"].n == 16
    json.dumps([outcome.to_dict() for outcome in scores.values()], allow_nan=False)
