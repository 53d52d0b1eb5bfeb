"""Model cards: valid for the hub, without a path of this machine."""

import copy
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub import constants as hub_constants
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from distill.recipe import CorpusConfig, Recipe, StudentConfig, TargetConfig, TeacherConfig
from distill.reports.model_card import model_card

RECIPE = Recipe(output_dir="outputs/try", target=TargetConfig(op="expmean", reverse_roles=True, augment=True))
TOKEN = "hf_" + "secret" * 5


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """The hub is not asked for the card of a teacher."""
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)


def body(card: ModelCard) -> str:
    return card.text.replace("\\", "")


def test_the_metadata_is_what_the_hub_reads(toy_scores):
    content = model_card(RECIPE, toy_scores, "student")
    card = ModelCard(content)
    data = card.data.to_dict()
    assert data == yaml.safe_load(content.split("---")[1])
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-generation"
    # The demo teacher's own card says so.
    assert (data["license"], data["language"]) == ("cc-by-sa-4.0", "en")
    assert "base_model" not in data  # it is no model of the hub
    assert data["metrics"] == list(toy_scores["models"]["student"])


def test_the_model_index_goes_through_the_hubs_own_code_and_back(toy_scores):
    card = ModelCard(model_card(RECIPE, toy_scores, "student"))
    index = card.data.to_dict()["model-index"]
    name, results = model_index_to_eval_results(index)
    assert eval_results_to_model_index(name, results) == index
    assert name == "try student"
    measured = {result.metric_type: result.metric_value for result in results}
    assert measured == {metric: entry["value"] for metric, entry in toy_scores["models"]["student"].items()}
    for entry in index[0]["results"]:  # what the hub's model-index specification requires
        assert {"type"} <= set(entry["task"])
        assert {"type", "name"} <= set(entry["dataset"])
        assert all({"type", "value"} <= set(metric) for metric in entry["metrics"])


@pytest.mark.parametrize(
    ("prompts", "want"),
    [
        ("AmazonScience/bold:gender", "AmazonScience/bold-gender"),
        ("/data/bold:race", "bold-race"),
        ("my prompts (2).tsv", "my-prompts-2-.tsv"),
        ("vorgaben_für_alle.tsv", "vorgaben_f-r_alle.tsv"),
        ("«»", "data"),
    ],
)
def test_a_data_set_has_a_name_that_the_hub_takes(toy_scores, prompts, want):
    """By the pattern that the hub answers with; a card that it refuses is pushed by no command."""
    scores = copy.deepcopy(toy_scores)
    scores["settings"]["prompts"]["source"] = prompts
    index = ModelCard(model_card(RECIPE, scores, "student")).data.to_dict()["model-index"]
    types = [entry["dataset"]["type"] for entry in index[0]["results"]]
    assert all(re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", name, re.ASCII) for name in types) and want in types


def test_a_local_folder_is_no_data_set_of_the_hub(toy_scores, tmp_path):
    here = CorpusConfig(source="hub", dataset=str(tmp_path))
    content = model_card(replace(RECIPE, corpus=here, held_out=here), toy_scores, "student")
    assert "datasets" not in ModelCard(content).data.to_dict() and str(tmp_path) not in content
    there = CorpusConfig(source="hub", dataset="alice/texts")
    assert ModelCard(model_card(replace(RECIPE, corpus=there), toy_scores, "student")).data.datasets == ["alice/texts"]


@pytest.mark.parametrize(
    ("told", "want"),
    [
        ("license: mit\nlanguage: en", {"license": "mit", "language": "en"}),
        ("license: MIT License", {"license": "other", "license_name": "mit-license"}),
        ("license: other\nlicense_name: ours\nlanguage: English", {"license": "other", "license_name": "ours"}),
        ("language: zh-Hant", {"license": "unknown", "language": "zh-Hant"}),
    ],
)
def test_a_licence_in_words_is_told_as_the_hub_takes_it(toy_scores, tmp_path, told, want):
    (tmp_path / "README.md").write_text(f"---\n{told}\n---\nA teacher.\n", encoding="utf-8")
    recipe = replace(RECIPE, teacher=TeacherConfig(path=str(tmp_path)))
    data = ModelCard(model_card(recipe, toy_scores, "student")).data.to_dict()
    assert {key: data[key] for key in ("license", "license_name", "language") if key in data} == want


def test_an_undefined_score_is_not_in_the_index(toy_scores):
    scores = copy.deepcopy(toy_scores)
    scores["models"]["student"]["perplexity"]["value"] = None
    data = ModelCard(model_card(RECIPE, scores, "student")).data
    assert "perplexity" not in data.metrics
    assert "perplexity" not in {result.metric_type for result in data.eval_results}


def test_the_card_says_what_a_user_must_know(toy_scores):
    card = ModelCard(model_card(RECIPE, toy_scores, "student"))
    for heading in (
        "How to load it", "How it was made", "Groups covered", "Scores", "Intended use", "What was not measured",
        "Limits",
    ):  # fmt: skip
        assert f"## {heading}\n" in card.text
    text = body(card)
    assert "male, female. Nobody else is covered." in text
    assert toy_scores["settings"]["wordlist"]["sha256"] in text
    assert toy_scores["settings"]["weights"]["student"] in text
    entry = toy_scores["models"]["student"]["generation_disparity"]
    row = next(line for line in text.splitlines() if line.startswith("| generation disparity"))
    assert f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]" in row
    assert f"{entry['undetected']:.1%}" in row
    assert "expmean, strength 1, role-reversed" in text


def test_the_baselines_card_does_not_claim_the_mitigation(toy_scores):
    card = ModelCard(model_card(RECIPE, toy_scores, "baseline"))
    assert "bias-mitigation" not in card.data.tags
    assert "role-reversed" not in body(card)
    assert "no mitigation" in card.text


def test_a_student_without_a_mitigation_does_not_claim_one(toy_scores):
    card = ModelCard(model_card(Recipe(output_dir="outputs/plain"), toy_scores, "student"))
    assert "bias-mitigation" not in card.data.tags
    assert "plainly distilled, no mitigation" in card.text


def test_hub_sources_are_named(toy_scores):
    recipe = Recipe(
        teacher=TeacherConfig(path="openai-community/gpt2"), corpus=CorpusConfig(source="hub", dataset="some/text")
    )
    data = ModelCard(model_card(recipe, toy_scores, "student")).data
    assert (data.base_model, data.datasets) == ("openai-community/gpt2", ["some/text"])
    assert data.license == "unknown"  # the hub cannot be asked here


def test_no_path_of_this_machine_is_published(toy_scores, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home" / "alice"
    (home / "teacher").mkdir(parents=True)
    Path("models/gpt2").mkdir(parents=True)  # looks like a hub id, and is a folder
    scores = copy.deepcopy(toy_scores)
    scores["settings"]["prompts"]["source"] = str(home / "prompts.tsv")
    for teacher in (str(home / "teacher"), "models/gpt2", "../home/alice/teacher", "./teacher"):
        recipe = Recipe(
            output_dir=str(home / "runs" / "mine"),
            teacher=TeacherConfig(path=teacher),
            student=StudentConfig(init="checkpoint", path=str(home / "start")),
            corpus=CorpusConfig(source="files", files=[str(home / "texts" / "*.txt")]),
            trainer={"hub_token": TOKEN, "push_to_hub": True},
        )
        content = model_card(recipe, scores, "student")
        assert "base_model" not in ModelCard(content).data.to_dict()
        for private in ("alice", str(tmp_path), "models/gpt2", TOKEN):
            assert private not in content.replace("\\", ""), teacher


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\nlanguage: [en, de]\n---\n", "mit"),
        ("no metadata", "unknown"),
        ("---\nlicense: [a, b]\n---\n", "unknown"),
        ("---\n: - {\n---\n", "unknown"),
        ("---\n- a list\n---\n", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_licence_is_the_teachers_where_its_card_can_be_read(toy_scores, tmp_path, card, licence):
    if card is not None:
        (tmp_path / "README.md").write_text(card, encoding="utf-8")
    recipe = Recipe(teacher=TeacherConfig(path=str(tmp_path)))
    student = ModelCard(model_card(recipe, toy_scores, "student"))
    assert student.data.license == licence
    assert ("Its licence is not known" in student.text) == (licence == "unknown")
