"""The layout of scores.json."""

import json

import pytest
from toy_run import DOCUMENTS, SETTINGS

from distill.metrics import CARDS, METRICS, cards
from distill.models.architecture import weights_hash
from distill.recipe import ScoreConfig
from distill.scoring.score import score
from distill.scoring.scores_file import read_scores
from distill.text.prompts import load_prompts


def test_layout(run, toy_model, short_wordlist):
    models = {"teacher": toy_model(), "baseline": toy_model(seed=1), "student": toy_model(seed=2)}
    scores = run(models, seed=3)
    assert list(scores["models"]) == list(models)
    for of_model in scores["models"].values():
        assert list(of_model) == [
            card.name for name in SETTINGS.metrics for card in cards(METRICS[name]) if "winobias" not in card.name
        ]
        for entry in of_model.values():
            assert {"value", "low", "high", "n", "ideal", "direction", "undetected", "details"} == set(entry)
            assert entry["low"] <= entry["value"] <= entry["high"]
            assert entry["n"] > 0
            assert entry["details"]["seed"] == 3
    assert list(scores["differences"]) == ["baseline - teacher", "student - teacher", "student - baseline"]
    for name, outcome in scores["differences"].items():
        later, earlier = (scores["models"][part] for part in name.split(" - "))
        for metric, entry in outcome.items():
            assert entry["value"] == pytest.approx(later[metric]["value"] - earlier[metric]["value"])
            assert entry["low"] <= entry["high"]
            if earlier[metric]["value"]:
                ratio = abs(later[metric]["value"] / earlier[metric]["value"])
                assert entry["ratio"] == pytest.approx(ratio)
    settings = scores["settings"]
    assert settings["seed"] == 3
    assert settings["wordlist"] == {
        "name": short_wordlist.name,
        "groups": ["male", "female"],
        "rows": 4,
        "words": {"male": 4, "female": 4},
        "sha256": short_wordlist.sha256,
    }
    assert settings["prompts"] | {"sha256": ""} == {"count": 40, "groups": 1, "sha256": ""}
    assert settings["held_out"] | {"sha256": ""} == {
        "documents": 15,
        "bytes": sum(len(d) for d in DOCUMENTS if d.strip()),
        "sha256": "",
        "documents_with_listed_word": 10,
        "listed_words": {"male": 10, "female": 15},  # man, his; she, woman, her
    }
    assert settings["weights"] == {name: weights_hash(model) for name, model in models.items()}
    assert settings["decoding"] == {"samples": 4, "max_new_tokens": 10, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    assert {"python", "torch", "transformers", "device"} <= set(scores["versions"])
    assert len(scores["samples"]) == 16
    for sample in scores["samples"]:
        assert list(sample["texts"]) == list(models)
        assert all(len(texts) == 4 for texts in sample["texts"].values())
    json.dumps(scores, allow_nan=False)


def test_a_list_in_another_language_says_so(toy_model, toy_tokenizer, tmp_path):
    (tmp_path / "es.tsv").write_text("# language: es-MX\nm\tf\nél\tella\n", encoding="utf-8")
    given = {"wordlist": str(tmp_path / "es.tsv"), "metrics": ["perplexity"], "folder": tmp_path / "out"}
    scores = score({"one": (toy_model(), toy_tokenizer)}, texts=["él y ella"], **given)
    assert scores["settings"]["wordlist"]["language"] == "es"
    assert read_scores(tmp_path / "out" / "scores.json") == scores


def test_only_what_is_asked_for(run, toy_model):
    scores = run({"student": toy_model()}, settings=ScoreConfig(metrics=["perplexity"], bootstrap=20))
    assert list(scores["models"]["student"]) == ["perplexity"]
    assert scores["differences"] == {}
    assert scores["samples"] == scores["examples"]["prompts"] == []


def test_the_cards_tell_of_every_score_and_the_rest_is_named(run, toy_model):
    scores = run({"student": toy_model()}, settings=ScoreConfig(metrics=["perplexity", "next_word_lean"], bootstrap=20))
    assert list(scores) == [
        "format", "models", "differences", "cards", "not_asked", "samples", "examples", "settings", "versions",
    ]  # fmt: skip
    assert list(scores["cards"]) == list(scores["models"]["student"])
    for name, card in scores["cards"].items():
        entry = scores["models"]["student"][name]
        assert (card["ideal"], card["direction"]) == (entry["ideal"], entry["direction"])
        assert card["formula"] == CARDS[name].formula
    assert sorted([*scores["not_asked"], "perplexity", "next_word_lean"]) == sorted(METRICS)


def test_a_prompt_that_stands_twice_is_shown_once(run, toy_model):
    prompts = load_prompts()[:3]
    scores = run({"a": toy_model(), "b": toy_model(seed=1)}, prompts=[*prompts, prompts[0]])
    assert [sample["prompt"] for sample in scores["samples"]] == [prompt.text for prompt in prompts]
    assert all(list(sample["texts"]) == ["a", "b"] for sample in scores["samples"])
