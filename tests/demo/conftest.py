"""A finished run of toy models, as a demo finds it on disk, and the same loaded."""

from pathlib import Path

import pytest

from distill.demo.loaded import load
from distill.demo.sources import read_shown
from distill.recipe import Recipe, TargetConfig, TeacherConfig, write_recipe

WORDS = "male\tfemale\twhen\nhe\tshe\t-\nhis\ther\tdeterminer\nhim\ther\tobject\nman\twoman\t-\nking\tqueen\t-\n"


@pytest.fixture(scope="session")
def toy_run_folder(tmp_path_factory, toy_model, toy_tokenizer) -> Path:
    """A run's folder: two students and a recipe, its teacher beside it. Shared: copy it before you change it."""
    home = tmp_path_factory.mktemp("toy-run")
    (home / "words.tsv").write_text(WORDS, encoding="utf-8")
    for seed, name in enumerate(("teacher", "run/baseline", "run/student")):
        toy_model(seed=seed).save_pretrained(home / name)
        toy_tokenizer.save_pretrained(home / name)
    recipe = Recipe(
        output_dir=str(home / "run"),
        wordlist=str(home / "words.tsv"),
        teacher=TeacherConfig(path=str(home / "teacher")),
        target=TargetConfig(op="expmean", reverse_roles=True, augment=True),
    )
    write_recipe(recipe, home / "run" / "recipe.yaml")
    (home / "run" / "report.html").write_text("<!doctype html><title>r</title><h1>The report</h1>", encoding="utf-8")
    return home / "run"


@pytest.fixture(scope="session")
def loaded(toy_run_folder):
    """That run, loaded."""
    return load(read_shown([str(toy_run_folder)]))
