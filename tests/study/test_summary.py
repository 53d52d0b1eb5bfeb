"""The statistics of a study, against plain loops."""

import json
from dataclasses import replace

import numpy as np
import pytest
from study_files import PLAIN, small
from study_results import made_up_results, outcome

from distill.metrics import CARDS, difference_of
from distill.metrics.bootstrap import resampled_totals
from distill.study.file import read_study, run_folder
from distill.study.summary import _private_training, difference_and_ratio, resampled_mean, summary


def test_draws_over_seeds_and_units_as_a_plain_loop_makes_them():
    rng = np.random.default_rng(5)
    outcomes = [outcome(v, rng.normal(v, 0.1, size=40)) for v in (0.2, -0.5, 0.9)]
    for ideal, size in ((None, float), (0.0, abs), (0.5, lambda value: abs(value - 0.5))):
        mean, drawn = resampled_mean(outcomes, ideal, draws=300)
        assert mean == pytest.approx(sum(size(v) for v in (0.2, -0.5, 0.9)) / 3)
        again = np.random.default_rng(0)
        seeds, places = again.integers(3, size=(300, 3)), again.random(size=300)
        for row in range(300):
            of_row = [size(outcomes[s].drawn[int(places[row] * 40)]) for s in seeds[row]]
            assert drawn[row] == pytest.approx(sum(of_row) / 3)


def test_the_interval_is_as_wide_as_seeds_and_units_together():
    """Seeds spread by 1, units of each seed's own by 1: the variance of the mean over S seeds is near (1 + 2) / S, of
    which one is too much, see there.
    """
    rng = np.random.default_rng(1)
    outcomes = [outcome(v, v + rng.normal(size=500)) for v in rng.normal(size=200)]
    _, drawn = resampled_mean(outcomes, draws=4000)
    assert drawn.std() == pytest.approx((3 / 200) ** 0.5, rel=0.15)


def test_the_same_prompts_asked_of_the_same_model_for_three_seeds_tell_no_more_than_once():
    """A teacher has no seed: its interval is that of its prompts, however often they are asked."""
    rng = np.random.default_rng(6)
    totals = resampled_totals(rng.normal(1.0, 1.0, size=(60, 1)), 4000, seed=0)[:, 0] / 60
    once, thrice = (resampled_mean([outcome(1.0, totals)] * n, draws=4000)[1] for n in (1, 3))
    assert thrice.std() == pytest.approx(once.std(), rel=0.05) == pytest.approx(1 / 60**0.5, rel=0.3)


def test_other_documents_for_each_seed_tell_more():
    """By the number of seeds; the interval is wider than it need be by the square root of (2 - 1 / seeds)."""
    rng = np.random.default_rng(7)
    tables = [resampled_totals(rng.normal(size=(400, 1)), 4000, seed=0)[:, 0] / 400 for _ in range(16)]
    _, drawn = resampled_mean([outcome(0.0, table - table.mean()) for table in tables], draws=4000)
    assert drawn.std() == pytest.approx(((2 - 1 / 16) / 400 / 16) ** 0.5, rel=0.15)


def test_with_more_undefined_resamples_than_not_there_is_no_interval():
    """As of one model, see `bootstrap.interval`: the few that are left would tell of a narrow one."""
    for undefined, has_interval in ((40, True), (60, False)):
        drawn = [np.nan] * undefined + [1.0, 1.2] * ((100 - undefined) // 2)
        against = difference_and_ratio([outcome(1.1, drawn)], [outcome(0.5, [0.5] * 100)])
        for of_two in (against["difference"], against["ratio"]):
            assert of_two["value"] is not None
            assert (of_two["low"] is not None, of_two["high"] is not None) == (has_interval, has_interval)


def test_a_row_does_not_differ_from_itself():
    rng = np.random.default_rng(2)
    outcomes = [outcome(v, rng.normal(v, 0.3, size=50)) for v in (1.0, 2.0)]
    against = difference_and_ratio(outcomes, outcomes)
    assert against["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert against["ratio"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_pairing_takes_out_what_two_rows_share():
    rng = np.random.default_rng(3)
    noise = [rng.normal(size=50) for _ in range(3)]
    plain = [outcome(10 + s, 10 + s + noise[s]) for s in range(3)]
    half = [outcome((10 + s) / 2, (10 + s + noise[s]) / 2) for s in range(3)]
    ratio = difference_and_ratio(half, plain)["ratio"]
    assert (ratio["value"], ratio["low"], ratio["high"]) == pytest.approx((0.5, 0.5, 0.5))


def test_what_is_undefined_for_a_seed_is_undefined():
    outcomes = [outcome(1.0, [1.0, 1.1]), outcome(None)]
    assert resampled_mean(outcomes)[0] is None
    assert difference_and_ratio(outcomes, outcomes)["ratio"] == {"value": None, "low": None, "high": None}
    assert resampled_mean([outcome(1.0), outcome(3.0)])[0] == 2.0  # a value without an interval
    assert not len(resampled_mean([outcome(1.0), outcome(3.0)])[1])


def test_farther_is_the_mean_over_seeds_of_how_far_values_lie_from_the_ideal():
    """45 and 56 lie 5.5 from 50 on average, 49 and 52 lie 1.5; both means of values are near 50."""
    ours, plain = [outcome(45.0), outcome(56.0)], [outcome(49.0), outcome(52.0)]
    assert difference_and_ratio(ours, plain, 50.0)["farther"]["value"] == 4.0
    assert difference_and_ratio(plain, ours, 50.0)["farther"]["value"] == -4.0
    assert "farther" not in difference_and_ratio(ours, plain)
    negative = [outcome(-1.0), outcome(3.0)]  # its size is 2, its mean 1: what is lower is worse, sign and all
    assert difference_and_ratio(negative, plain, np.inf)["farther"]["value"] == 50.5 - 1.0


def test_of_one_seed_farther_is_that_of_its_scores():
    rng = np.random.default_rng(4)
    ours, plain = outcome(43.0, 43 + rng.normal(size=4000)), outcome(54.0, 54 + rng.normal(size=4000))
    of_scores = difference_of(ours, plain, 50.0)
    of_study = difference_and_ratio([ours], [plain], 50.0)["farther"]
    assert of_study["value"] == of_scores["farther"] == 3.0
    assert (of_study["low"], of_study["high"]) == pytest.approx(
        (of_scores["farther_low"], of_scores["farther_high"]), abs=0.15
    )


def test_what_cannot_be_compared_is_not_farther_and_says_why():
    cut = [replace(outcome(1.0, [1.0, 2.0]), too_little="two texts")]
    against = difference_and_ratio(cut, [outcome(2.0, [2.0, 3.0])], 1.0)
    assert {entry["instead"] for entry in against.values()} == {"too little to tell: two texts"}
    assert against["farther"]["value"] is None


def test_every_score_has_a_card_and_every_card_a_score():
    results = made_up_results()
    scores = set(results["rows"][0]["metrics"])
    named = {score.removesuffix("_chosen").removesuffix("_held_out") for score in scores}
    assert named == results["cards"].keys() < scores
    for name, card in results["cards"].items():
        assert card == CARDS[name].to_dict()
        assert {"label", "meaning", "formula", "ideal", "direction", "limits"} <= card.keys()


def test_a_study_with_private_rows_tells_their_epsilon_and_the_time_of_their_steps(tmp_path):
    """The mean over seeds, from what each training left behind; nothing in other studies, nor of teachers."""
    files = {"source": "files", "files": ["a.txt"]}
    students = {"plain": PLAIN, "private": {"privacy": {"epsilon": 3.0}, "corpus": files}}
    study = read_study(small(tmp_path, students=students), seeds=[0, 1])
    for seed, seconds in enumerate((10.0, 30.0)):
        log = run_folder(study, "private", seed) / "training" / "student.json"
        log.parent.mkdir(parents=True)
        log.write_text(json.dumps({"seconds": seconds, "history": [{"step": 2}, {"step": 5}]}), encoding="utf-8")
    assert _private_training(study, "private") == {"epsilon": 3.0, "step_seconds": 4.0}
    assert _private_training(study, "plain") == {"epsilon": None, "step_seconds": None}
    assert _private_training(study, "teacher") == {}
    assert _private_training(read_study(small(tmp_path)), "plain") == {}


def of_two_seeds(perplexities, crows, noise):
    """The outcomes of a row: perplexities whose draws err as `noise` of their seed says, and CrowS-Pairs."""
    return [
        {"perplexity": outcome(p, p * (1 + err)), "crows_pairs_gender": outcome(c, c + err)}
        for p, c, err in zip(perplexities, crows, noise, strict=True)
    ]


@pytest.fixture
def of_two_models(tmp_path):
    """A study of two models, and the outcomes of its rows; those of a model share their noise."""
    reverse = {"target": {"op": "max", "reverse_roles": True}}
    students = {
        "plain": PLAIN,
        "max": PLAIN | {"target": {"op": "max", "reverse_roles": False}},
        "max-reverse": reverse,
        "medium": {"against": None} | PLAIN,
        "medium-max": PLAIN | {"target": {"op": "max", "reverse_roles": False}, "against": "medium"},
        "medium-max-reverse": reverse | {"against": "medium"},
    }
    study = read_study(small(tmp_path, students=students, teachers={"teacher": {"against": "medium"}}), seeds=[0, 1])
    small_noise, noise = np.random.default_rng(8).normal(0, 0.05, size=(2, 2, 60))
    outcomes = {
        "plain": of_two_seeds((100.0, 110.0), (60.0, 61.0), small_noise),
        "max": of_two_seeds((105.0, 120.0), (58.0, 57.0), small_noise),
        "max-reverse": of_two_seeds((104.0, 121.0), (57.0, 57.0), small_noise),
        "medium": of_two_seeds((40.0, 60.0), (49.0, 52.0), noise),
        "medium-max": of_two_seeds((50.0, 75.0), (40.0, 56.0), noise),
        "medium-max-reverse": of_two_seeds((48.0, 72.0), (45.0, 53.0), noise),
        "teacher": of_two_seeds((20.0, 30.0), (50.0, 50.0), noise),
    }
    return study, outcomes


def test_a_row_is_set_against_the_one_that_it_names_on_the_same_resamples(of_two_models):
    """50 and 75 are a quarter more than 40 and 60, in each draw of both. 40 and 56 lie 8 from 50, 49 and 52 lie 1.5."""
    rows = {row["name"]: row for row in summary(*of_two_models)["rows"]}
    row = rows["medium-max"]
    assert row["against_plain"] == {} and row["against"]["row"] == "medium"
    perplexity, crows = (row["against"]["metrics"][score] for score in ("perplexity", "crows_pairs_gender"))
    assert {end: perplexity["ratio"][end] for end in ("value", "low", "high")} == pytest.approx(
        {"value": 1.25, "low": 1.25, "high": 1.25}
    )
    assert perplexity["difference"]["value"] == pytest.approx(12.5)
    assert crows["difference"]["value"] == pytest.approx(48 - 50.5)
    assert crows["farther"]["value"] == pytest.approx(8 - 1.5)
    assert rows["teacher"]["against"]["row"] == "medium"
    assert rows["teacher"]["against"]["metrics"]["perplexity"]["ratio"]["high"] == pytest.approx(0.5)
    assert rows["medium"]["against"] == {"row": None, "metrics": {}} and rows["medium"]["against_plain"] == {}


def test_rows_that_name_no_other_are_what_they_are_without_those_that_do(of_two_models):
    study, outcomes = of_two_models
    own = {name: outcomes[name] for name in ("plain", "max", "max-reverse")}
    small_study = replace(study, teachers={}, students={name: study.students[name] for name in own})
    rows = {row["name"]: row for row in summary(study, outcomes)["rows"]}
    assert [rows[name] for name in own] == summary(small_study, own)["rows"]
    assert not any("against" in rows[name] for name in own)
    assert rows["max"]["against_plain"]["perplexity"]["ratio"]["value"] == pytest.approx(112.5 / 105)


def test_role_reversal_is_told_of_rows_of_one_model(of_two_models):
    """The settings of max and of medium-max are the same."""
    pairs = [(pair["row"], pair["against"]) for pair in summary(*of_two_models)["reverse_roles"]]
    assert pairs == [("max-reverse", "max"), ("medium-max-reverse", "medium-max")]
