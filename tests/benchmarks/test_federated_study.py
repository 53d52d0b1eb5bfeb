"""The tables and the figure of the federated studies, from two seeds of two rows."""

import json
from xml.etree import ElementTree

import federated_study
import pytest


def entry(value):
    return {"value": value, "low": value, "high": value}


@pytest.fixture
def study(tmp_path):
    """A folder in which `uniform` has twice the disparity of the row in one place, and 3 rounds of each seed."""
    metrics = {
        name: {
            "next_word_disparity": entry(disparity),
            "perplexity": entry(perplexity),
            "corpus_disparity": entry(None),
        }
        for name, disparity, perplexity in (
            ("plain", 1.0, 100.0),
            ("centralised", 0.25, 110.0),
            ("uniform", 0.5, 121.0),
        )
    }
    metrics["unwatched"] = metrics["uniform"]
    rows = [{"name": name, "seeds": [0, 1], "metrics": scores} for name, scores in metrics.items()]
    (tmp_path / "study.json").write_text(json.dumps({"rows": rows}))
    for seed in (0, 1, 2):  # the last one is not in study.json
        records = [
            {"round": n, "tokens": 1000 * (1 + seed), "bytes": 2_000_000,
             "scores": {"next_word_disparity": 1.0 / n + seed, "perplexity": 100.0 * n}}
            for n in (1, 2, 3)
        ]  # fmt: skip
        unwatched = [record | {"scores": {}} for record in records]
        for row, of_row in (("uniform", records), ("unwatched", unwatched)):
            folder = tmp_path / "runs" / f"{row}-{seed}" / "federation"
            folder.mkdir(parents=True)
            (folder / "student.json").write_text(json.dumps(of_row))
    return tmp_path


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_scores_are_set_beside_those_of_one_place(study):
    results = json.loads((study / "study.json").read_text())
    head, _, *rows = map(cells, federated_study.score_table(results))
    found = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert list(found) == ["plain", "centralised", "uniform", "unwatched"]
    assert found["uniform"]["disparity, to one place"] == "2.00"
    assert found["uniform"]["perplexity, to one place"] == "1.10"
    assert found["uniform"]["equivariance gap"] == "–"


def test_rounds_are_means_over_seeds_and_sums_of_what_was_read_and_sent(study):
    rounds = federated_study.rounds_of(study, json.loads((study / "study.json").read_text()))
    assert list(rounds) == ["uniform"]
    assert [of_round["next_word_disparity"] for of_round in rounds["uniform"]] == pytest.approx([1.5, 1.0, 5 / 6])
    assert [of_round["tokens"] for of_round in rounds["uniform"]] == pytest.approx([1.5, 3.0, 4.5])
    head, _, row = map(cells, federated_study.round_table(rounds))
    found = dict(zip(head, row, strict=True))
    assert (found["disparity after 2"], found["perplexity after 1"]) == ("1.000", "100.0")
    assert (found["thousand tokens"], found["MB sent"]) == ("4", "6")
    assert "disparity after 4" not in found


def test_over_clients_worst_is_the_size_of_a_disparity_and_means_are_over_seeds():
    def over(disparity, worst):
        of_score = {"mean": disparity, "spread": 0.5, "worst": worst}
        return {"corpus_disparity": of_score, "perplexity": of_score | {"worst": 90.0}}

    found = [
        {"deal": "16, alpha 0.1", "row": "uniform", "seed": n, "over": over(0.25, w)} for n, w in ((0, -1), (1, 3))
    ]
    _, _, row = map(cells, federated_study.client_table(found))
    assert row == ["16, alpha 0.1", "uniform", "0.250", "0.500", "2.000", "0.250", "0.500", "90.00"]


def test_the_figure_has_a_panel_for_each_score_and_axis(study):
    results = json.loads((study / "study.json").read_text())
    drawn = federated_study.figure({"people": (results, federated_study.rounds_of(study, results))})
    root = ElementTree.fromstring(drawn)
    lines = list(root.iter("{http://www.w3.org/2000/svg}polyline"))
    assert len(lines) == 2 * 2 * 2  # scores, axes; uniform, and the level of one place
    assert "thousand tokens that clients trained on →" in {e.text for e in root.iter()}
    marks = {e.get("href").removeprefix("#") for e in root.iter("{http://www.w3.org/2000/svg}use")}
    assert marks == {"mark-line"} <= {e.get("id") for e in root.iter()}
