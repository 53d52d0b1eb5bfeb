"""The tables of the rivals: of a study of two rows by hand, and those that are committed."""

import json

import pytest
import rivals

from distill.base.markdown_text import between_markers
from distill.study.report import pareto


def entry(value):
    return {"value": value, "low": value, "high": value}


def test_a_row_has_its_scores_its_perplexity_beside_plain_and_its_costs():
    against = {
        "perplexity": {"ratio": entry(1.25)},
        "next_word_disparity_held_out": {"ratio": entry(0.2)},
        "stereoset_gender_ss": {"farther": entry(3.0)},
        "minimal_pairs": {"farther": entry(-0.1)},
        "next_word_disparity": {"farther": entry(9.0)},
    }
    costs = {"training_seconds": 120.0, "step_seconds": None, "token_seconds": 0.0015}
    metrics = {"next_word_disparity": entry(0.5), "bbq_gender_ambiguous_bias": entry(None)}
    metrics |= {"stereoset_gender_ss": entry(60.0)}
    rows = [
        {"name": name, "metrics": metrics, "against_plain": found, "costs": costs}
        for name, found in (("plain", {}), ("other", against))
    ]
    cards = {name: {"label": name, "side": name in ("stereoset_gender_ss", "minimal_pairs")} for name in against}
    results = {"rows": rows, "cards": cards, "settings": {"study": {"texts": {}}}}
    heading, _, plain, other = rivals.main_table(results)
    columns = [cell.strip() for cell in heading.split("|")]
    found = [dict(zip(columns, (cell.strip() for cell in line.split("|")), strict=True)) for line in (plain, other)]
    assert [row["perplexity, to plain"] for row in found] == ["1", "1.250 [1.250, 1.250]"]
    assert [row["the other half"] for row in found] == ["1", "0.200 [0.200, 0.200]"]
    assert [row[rivals.WORSE] for row in found] == ["–", "1 of 2"]
    assert found[0]["next-word disparity"] == "0.500 [0.500, 0.500]" and found[0]["mean"] == "–"
    assert [found[1][name] for name in ("training, s", "a step, s", "a token, ms")] == ["120.0", "–", "1.500"]
    assert rivals.side_tables(results)[1:] == [
        "| row | stereoset_gender_ss |",
        "|---|---|",
        "| plain | 60.00 [60.00, 60.00] |",
        "| other | 60.00 [60.00, 60.00] |",
    ]


def test_rows_and_scores_of_other_studies_are_added():
    def study(names, score):
        rows = [{"name": n, "metrics": {score: entry(n)}, "against_plain": {score: {}}} for n in names]
        settings = {"study": {"teachers": {score: {}}, "students": dict.fromkeys(names, score)}}
        return {"rows": rows, "cards": {score: {}}, "settings": settings}

    one, two, three = study(["plain", "other"], "bbq"), study(["plain", "later"], "bbq"), study(["plain"], "perplexity")
    one["rows"][0]["metrics"]["bbq"] = entry("first")
    both = rivals.joined([one, two, three])
    assert [(row["name"], sorted(row["metrics"]), sorted(row["against_plain"])) for row in both["rows"]] == [
        ("plain", ["bbq", "perplexity"], ["bbq", "perplexity"]),
        ("other", ["bbq"], ["bbq"]),
        ("later", ["bbq"], ["bbq"]),
    ]
    assert both["rows"][0]["metrics"]["bbq"] == entry("first")
    assert set(both["cards"]) == set(both["settings"]["study"]["teachers"]) == {"bbq", "perplexity"}
    assert both["settings"]["study"]["students"] == {"plain": "bbq", "other": "bbq", "later": "bbq"}


def test_scores_without_an_ideal_are_judged_by_how_much_lower_they_are():
    """Those alone that are beside what is mitigated today, and were not when the study was made."""
    names = ["agreement_log_ratio", "next_word_mean", "agreement_kept"]
    found = {name: {"difference": {"value": -0.5, "low": -0.7, "high": 0.1}} for name in names}
    none = {"difference": {"value": None, "low": None, "high": None}}
    rows = [
        {"name": "plain", "against_plain": {}},
        {"name": "other", "against_plain": found},
        {"name": "unmeasured", "against_plain": {"agreement_log_ratio": none}},
    ]
    before = {"rows": rows, "cards": {name: {"side": name == "agreement_kept"} for name in names}}
    after = rivals.judged(before)
    assert [name for name in names if after["cards"][name]["side"]] == ["agreement_log_ratio", "agreement_kept"]
    of_rows = [row["against_plain"] for row in after["rows"]]
    assert of_rows[0] == {}
    assert of_rows[1]["agreement_log_ratio"]["farther"] == {"value": 0.5, "low": -0.1, "high": 0.7}
    assert all("farther" not in of_rows[1][name] for name in names[1:])
    assert of_rows[2]["agreement_log_ratio"]["farther"]["low"] is None
    assert rivals.judged(after) == after


@pytest.fixture(scope="module")
def committed():
    return [rivals.judged(json.loads(path.read_text(encoding="utf-8"))) for path in rivals.STUDIES]


def test_the_page_shows_the_committed_studies(committed):
    said = rivals.PAGE.read_text(encoding="utf-8")
    assert said == between_markers(said, rivals.BEGIN, rivals.END, rivals.page(committed))
    assert rivals.BEGIN in said and rivals.END in said
    assert rivals.FIGURE.read_text(encoding="utf-8") == pareto(rivals.joined(committed))
