"""Recipes by name, and their data, from any folder."""

from pathlib import Path

import pytest
from shared import REPOSITORY

from distill.base.bundled import RECIPES, at_hand, name_meant, named_file, recipe_names, study_names, summary


def test_every_file_of_the_folder_has_a_name_but_those_of_accelerate():
    files = {path for path in (REPOSITORY / "recipes").rglob("*.yaml") if path.parent.name != "accelerate"}
    assert files == {*recipe_names().values(), *study_names().values()}
    assert recipe_names()["quickstart"] == REPOSITORY / "recipes" / "quickstart.yaml"
    assert recipe_names()["ablation/max"] == REPOSITORY / "recipes" / "ablation" / "max.yaml"
    assert {"study", "study/longer"} <= set(study_names())
    assert not set(recipe_names()) & set(study_names())


def test_a_file_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named_file("quickstart") == RECIPES / "quickstart.yaml"
    Path("quickstart").write_text("seed: 1\n")
    assert named_file("quickstart") == Path("quickstart")
    Path("debug").mkdir()  # a folder is no recipe
    assert named_file("debug") == RECIPES / "debug.yaml"
    assert named_file("quikstart") == Path("quikstart")


@pytest.mark.parametrize("path", ["recipes/quickstart.yaml", "quickstart.yaml", "./recipes/quickstart.yaml"])
def test_a_path_of_the_repository_has_a_name_elsewhere(path):
    assert name_meant(Path(path)) == "quickstart"
    assert name_meant(Path("mine.yaml")) is None


@pytest.mark.parametrize("path", [*recipe_names().values(), *study_names().values()], ids=lambda path: path.stem)
def test_the_first_line_of_a_recipe_is_a_sentence_about_it(path):
    told = summary(path)
    assert told[0].isupper() and told.endswith(".") and len(told) <= 100
    assert path.read_text(encoding="utf-8").startswith(f"# {told}\n")


def test_data_that_recipes_name_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert at_hand("recipes/nations/words.tsv") == RECIPES / "nations" / "words.tsv"
    assert at_hand("recipes/nations/none.tsv") == Path("recipes/nations/none.tsv")
    assert at_hand("nations/words.tsv") == Path("nations/words.tsv")
    Path("recipes/nations").mkdir(parents=True)
    Path("recipes/nations/words.tsv").touch()
    assert at_hand("recipes/nations/words.tsv") == Path("recipes/nations/words.tsv")  # what is here wins
