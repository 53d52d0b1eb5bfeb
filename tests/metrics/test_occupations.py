"""Occupations: what is masked, the folds, and the gaps against plain loops and by hand."""

import json

import numpy as np
import pytest
from downstream_data import DEMO_TEACHER, SETTINGS, evaluation_of, plain_vector, write_people
from scipy_head import scipy_probabilities

from distill.metrics import METRICS, NotMeasured, score
from distill.metrics.bootstrap import resampled_totals
from distill.metrics.downstream import (
    occupations_task,
)
from distill.metrics.occupations.occupations import tpr_gaps
from distill.models.loading import load_model, load_tokenizer
from distill.recipe import ScoreConfig

OCCUPATIONS = METRICS["occupations"]
CARDS = {card.name: card for card in OCCUPATIONS.CARDS}
WORDS = "male\tfemale\nactor\tactress\nman\twoman\nhe\tshe\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("data"))


def scores_of(evaluation) -> dict:
    return {
        name: score(CARDS[name], measurement, resamples=100, seed=0)
        for name, measurement in OCCUPATIONS.measure(evaluation).items()
    }


# ------------------------------------------------------------------------------------------------------------- scores


def test_every_score_against_plain_loops(folder, toy_model, toy_tokenizer):
    model = toy_model(seed=3)
    evaluation = evaluation_of(model, toy_tokenizer, folder, WORDS)
    scores, task = scores_of(evaluation), occupations_task(evaluation)
    vectors = np.array([plain_vector(model, toy_tokenizer, text) for text in task.texts])
    verdicts = {}
    for known, held_out in task.folds:
        probabilities = scipy_probabilities(vectors[known], task.labels[known], 2, vectors[held_out])
        verdicts |= dict(zip(held_out.tolist(), probabilities.argmax(axis=1).tolist(), strict=True))
    right = {person: verdict == task.labels[person] for person, verdict in verdicts.items()}
    assert scores["occupation_accuracy"].value == pytest.approx(np.mean(list(right.values())))
    gaps = []
    for work in (0, 1):
        rates = [
            np.mean([right[p] for p in range(64) if task.labels[p] == work and task.group[p] == gender])
            for gender in (0, 1)
        ]
        gaps.append(rates[0] - rates[1])
        table = scores["occupation_tpr_gap"].details["occupations"][task.classes[work]]
        assert (table["women"], table["men"], table["gap"]) == (16, 16, pytest.approx(gaps[-1]))
        assert (table["tpr_women"], table["tpr_men"]) == pytest.approx(tuple(rates))
    assert scores["occupation_tpr_gap"].value == pytest.approx(np.mean(np.abs(gaps)))
    assert scores["occupation_tpr_gap_rms"].value == pytest.approx(np.sqrt(np.mean(np.square(gaps))))
    assert all(outcome.n == 64 for outcome in scores.values())


def test_gaps_by_hand():
    # Two occupations: 4 women of whom 1 recognised, 2 men of whom 2; no woman, 3 men of whom 0.
    people, recognised = [[4, 2], [0, 3]], [[1, 2], [0, 0]]
    gaps = tpr_gaps(np.array([people, recognised], dtype=float).reshape(-1), 2)
    assert gaps[0] == pytest.approx(1 / 4 - 1)
    assert np.isnan(gaps[1])


def test_the_interval_resamples_people(folder, toy_model, toy_tokenizer):
    evaluation = evaluation_of(toy_model(seed=3), toy_tokenizer, folder, WORDS)
    outcome = OCCUPATIONS.measure(evaluation)["occupation_tpr_gap_rms"]
    found = outcome.statistic(resampled_totals(outcome.units, 50, seed=1))
    cells = outcome.units.reshape(64, 2, 2, 2)
    rng = np.random.default_rng(1)
    for value in found:
        drawn = cells[rng.integers(64, size=64)].sum(axis=0)
        gaps = [
            recognised[0] / people[0] - recognised[1] / people[1] for people, recognised in zip(*drawn, strict=True)
        ]
        assert value == pytest.approx(np.sqrt(np.mean(np.square(gaps))))


def test_batches_change_nothing(folder, toy_model, toy_tokenizer):
    model = toy_model("gpt_neox", seed=2)
    outcomes = []
    for size in (1, 7):
        settings = ScoreConfig(**vars(SETTINGS) | {"data": str(folder), "batch_size": size})
        outcomes.append(scores_of(evaluation_of(model, toy_tokenizer, folder, WORDS, settings=settings)))
    for name in CARDS:
        one, other = (scores[name] for scores in outcomes)
        assert (one.value, one.low, one.high) == (other.value, other.low, other.high)
        json.dumps(one.to_dict(), allow_nan=False)


# --------------------------------------------------------------------------------------------------------------- data


def test_missing_data_is_not_measured(tmp_path, toy_model, toy_tokenizer):
    with pytest.raises(NotMeasured, match=r"corpus/wikipedia_people\.train\.jsonl\.xz is not in"):
        OCCUPATIONS.measure(evaluation_of(toy_model(), toy_tokenizer, tmp_path))


@pytest.mark.slow
def test_the_demo_teacher_on_the_real_people(shared_data):
    settings = ScoreConfig(data=str(shared_data("corpus").parent), bootstrap=200)
    model, tokenizer = load_model(DEMO_TEACHER).float(), load_tokenizer(DEMO_TEACHER)
    scores = scores_of(evaluation_of(model, tokenizer, None, words=None, settings=settings))
    accuracy = scores["occupation_accuracy"]
    assert accuracy.low > 2 * accuracy.details["largest_occupation"]
    assert 0 < scores["occupation_tpr_gap"].value <= scores["occupation_tpr_gap_rms"].value < 0.5
    assert scores["occupation_tpr_gap"].details["correlation_of_gap_with_share_of_women"] > 0
    json.dumps([outcome.to_dict() for outcome in scores.values()], allow_nan=False)
