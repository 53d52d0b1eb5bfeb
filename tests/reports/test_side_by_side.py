"""Intrinsic against extrinsic scores: ranks and correlations against scipy, the table by hand."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import permutation_test, rankdata, spearmanr

from distill.metrics import CARDS
from distill.reports.report import print_side_by_side
from distill.reports.side_by_side import (
    EXTRINSIC,
    FEWEST_MODELS,
    INTRINSIC,
    checkpoints,
    mean_ranks,
    measured_alike,
    rank_correlation,
    side_by_side,
)


def entry(value, ideal=0.0, direction="closer to 0 is fairer"):
    return {"value": value, "low": None, "high": None, "ideal": ideal, "direction": direction}


def file_of(**models):
    return {"format": 1, "models": models}


def model(weat, tpr, crows=50.0):
    return {
        "weat6_effect_size": entry(weat),
        "crows_pairs_gender": entry(crows, ideal=50.0, direction="closer to 50 is fairer"),
        "occupation_tpr_gap": entry(tpr),
        "occupation_accuracy": entry(0.5, ideal=1.0, direction="higher is better"),
        "perplexity": entry(20.0, ideal=1.0, direction="lower is better"),
    }


small = st.lists(st.integers(0, 4).map(float), min_size=3, max_size=6)


@given(small)
def test_ranks_are_scipys(values):
    np.testing.assert_array_equal(mean_ranks(np.array(values)), rankdata(values))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=5))
def test_correlation_is_scipys(pairs):
    first, second = map(list, zip(*pairs, strict=True))
    outcome = rank_correlation(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert outcome == {"n": len(pairs), "spearman": None, "p_value": None, "exact": None}
        return
    assert outcome["spearman"] == pytest.approx(spearmanr(first, second).statistic)
    exact = permutation_test(
        (first,), lambda x: spearmanr(x, second).statistic, permutation_type="pairings", n_resamples=np.inf
    )  # scipy doubles the smaller tail; here it is the share at least as far from 0.
    far = np.abs(exact.null_distribution) >= abs(exact.statistic) - 1e-9
    assert outcome["p_value"] == pytest.approx(far.mean())
    assert outcome["exact"]


def test_correlation_by_hand():
    # Orders of three: rho is 1 once, -1 once, and 1/2 or -1/2 four times.
    assert rank_correlation([1, 2, 3], [10, 20, 90]) == {"n": 3, "spearman": 1.0, "p_value": 2 / 6, "exact": True}
    assert rank_correlation([1, 2, 3], [2, 1, 3])["spearman"] == pytest.approx(0.5)
    assert rank_correlation([1, 2, 3], [2, 1, 3])["p_value"] == 1
    assert rank_correlation([1, 2], [1, 2])["spearman"] is None


def test_drawn_orders_come_near_the_exact_p_value(monkeypatch):
    first, second = [3, 1, 4, 7, 5, 9], [2, 7, 1, 8, 3, 9]
    exact = rank_correlation(first, second)
    monkeypatch.setattr("distill.reports.side_by_side.MAX_EXACT", 3)
    drawn = rank_correlation(first, second)
    assert (exact["exact"], drawn["exact"]) == (True, False)
    assert drawn["p_value"] == pytest.approx(exact["p_value"], abs=0.02)
    assert drawn == rank_correlation(first, second)


def test_the_table_by_hand():
    files = {
        "run a": file_of(teacher=model(0.4, 0.1), plain=model(-0.5, 0.2, crows=45.0)),
        "run b": file_of(teacher=model(0.4, 0.1), mitigated=model(0.1, 0.05, crows=52.0)),
    }
    rows = checkpoints(files)
    assert list(rows) == ["run a: teacher", "run a: plain", "run b: mitigated"]  # One teacher.
    table = side_by_side(rows)
    assert table["intrinsic"] == ["weat6_effect_size", "crows_pairs_gender"]
    assert table["extrinsic"] == ["occupation_tpr_gap"]  # Accuracy and perplexity are not about fairness.
    assert table["rows"]["run a: plain"]["weat6_effect_size"] == {
        "value": -0.5, "low": None, "high": None, "distance": 0.5,
    }  # fmt: skip
    by_name = {entry["intrinsic"]: entry for entry in table["correlations"]}
    # Distances 0.4, 0.5, 0.1 against 0.1, 0.2, 0.05: the same order. 0, 5, 2 against them: not.
    assert by_name["weat6_effect_size"]["spearman"] == pytest.approx(1)
    assert by_name["crows_pairs_gender"]["spearman"] == pytest.approx(0.5)
    assert by_name["weat6_effect_size"]["n"] == 3
    json.dumps(table, allow_nan=False)


def test_undefined_values_and_missing_scores_are_left_out():
    models = {f"m{i}": model(i / 10, i / 20) for i in range(1, 5)}
    for scores in models.values():
        del scores["crows_pairs_gender"]
    models["m2"]["weat6_effect_size"] = entry(None)
    del models["m3"]["weat6_effect_size"]
    table = side_by_side(checkpoints({"run": file_of(**models)}))
    assert table["rows"]["run: m3"]["weat6_effect_size"]["value"] is None
    (correlation,) = table["correlations"]
    assert (correlation["n"], correlation["spearman"]) == (2, None)


def test_nothing_to_compare():
    assert side_by_side({}) == {"intrinsic": [], "extrinsic": [], "rows": {}, "correlations": []}


def test_every_beginning_stands_for_a_score():
    for beginning in (*INTRINSIC, *EXTRINSIC):
        assert any(name.startswith(beginning) for name in CARDS), beginning


def _measured(wordlist="w", **weights):
    """A file of models with these weights; the values go with them."""
    models = {name: model(len(digest) / 10, ord(digest[-1]) / 100) for name, digest in weights.items()}
    settings = {part: {"sha256": part} for part in ("prompts", "held_out")} | {"wordlist": {"sha256": wordlist}}
    settings |= {"decoding": {"samples": 4}, "seed": 0, "weights": weights}
    return {"models": models, "settings": settings, "cards": {}}


def test_only_what_was_measured_alike_is_correlated_and_each_model_once():
    files = {
        "a": _measured(one="x1", two="x2"),
        "b": _measured("other", three="x3"),
        "c": _measured(again="x1", new="x4"),
    }
    alike = measured_alike(files, "c")
    assert {name: list(file["models"]) for name, file in alike.items()} == {"c": ["again", "new"], "a": ["two"]}


def test_prompts_in_a_chat_template_are_other_prompts():
    files = {"plain": _measured(one="x1"), "chat": _measured(two="x2")}
    files["chat"]["settings"]["prompts"]["chat"] = True
    assert list(measured_alike(files, "plain")) == ["plain"]
    assert list(measured_alike(files, "chat")) == ["chat"]


def test_other_classifiers_and_benchmark_files_are_other_scores():
    """Where both tell: what a file does not tell, or what its models were not asked about, sets it apart from none."""
    files = {name: _measured(**{name: f"{i}{name}"}) for i, name in enumerate("abcde", 1)}
    for name, classifier in (("a", "t"), ("c", "u"), ("d", "t")):
        files[name]["settings"]["measured_with"] = {"toxicity_model": classifier, "audited": name}
    for name, digest in (("b", "x"), ("d", "y"), ("e", "x")):
        entry = files[name]["models"][name]["weat6_effect_size"]
        entry["details"] = {"benchmark_files": {"weat": digest}}
    assert list(measured_alike(files, "a")) == ["a", "b", "e"]  # d has other files than b
    assert list(measured_alike(files, "c")) == ["c", "b", "e"]
    assert list(measured_alike(files, "d")) == ["d", "a"]
    files["b"]["models"]["b"]["weat6_effect_size"]["value"] = None  # nothing was measured with them
    assert list(measured_alike(files, "d")) == ["d", "a", "b"]


def test_correlations_are_shown_of_enough_models():
    def shown(number):
        out = io.StringIO()
        models = {f"m{i}": "x" * (i + 1) + chr(65 + i) for i in range(number)}
        print_side_by_side(measured_alike({"a": _measured(**models)}, "a"), Console(file=out, width=120))
        return out.getvalue()

    assert "Rank correlation" in shown(FEWEST_MODELS)
    few = shown(FEWEST_MODELS - 1)
    assert "Rank correlation" not in few
    assert "no rank correlations: 7 models were measured alike, and 8 are needed" in few
