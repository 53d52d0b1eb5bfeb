"""The phases of a run: as many as it goes through, in this order, and guesses that grow with the work."""

from dataclasses import replace
from pathlib import Path

import pytest

from distill.recipe import CorpusConfig, Recipe, TargetConfig, read_recipe_file
from distill.recipe_check import recipe_of
from distill.scoring import run_phases
from distill.scoring.run_phases import phases_of

HERE = Path("here")


@pytest.fixture
def models(toy_model, monkeypatch):
    monkeypatch.setattr(run_phases, "operations_per_second", lambda device: 1e9)
    return toy_model(), toy_model(n_layer=2)


def guesses(recipe, models, missing=("baseline", "student")) -> dict[str, float]:
    return {phase.name: phase.seconds for phase in phases_of(recipe, HERE, missing, *models)}


def test_the_quickstart_has_nine_phases(models):
    recipe = recipe_of(read_recipe_file("quickstart"), "quickstart")
    found = phases_of(recipe, HERE, ("baseline", "student"), *models)
    assert [phase.name for phase in found] == [
        "sampling training text", "sampling held-out text", "swapping, tokenising and packing",
        "training here/baseline", "training here/student",
        "scoring teacher", "scoring baseline", "scoring student", "writing the report",
    ]  # fmt: skip
    assert all(phase.seconds > 0 for phase in found)
    seconds = guesses(recipe, models)
    # Twice the views for teacher and student, and six times as many documents.
    assert seconds["training here/student"] == 2 * seconds["training here/baseline"]
    assert seconds["sampling training text"] == 6 * seconds["sampling held-out text"]
    longer = guesses(replace(recipe, trainer=recipe.trainer | {"max_steps": 1000}), models)
    assert longer["training here/student"] == 2 * seconds["training here/student"]
    assert guesses(recipe, models, ("student",))["training here/baseline"] == 0
    # No step, and not as many as there are blocks.
    untrained = guesses(replace(recipe, trainer=recipe.trainer | {"max_steps": 0}), models)
    assert untrained["training here/student"] == 0


def test_phases_that_a_run_does_not_have_are_not_counted(models):
    files = CorpusConfig(source="files", files=["x.txt"], pack="while_training")
    recipe = Recipe(corpus=files, held_out=replace(files, pack="before_training"), target=TargetConfig())
    assert list(guesses(recipe, models)) == ["training here/student", "scoring teacher", "scoring student",
                                             "writing the report"]  # fmt: skip
    without_teacher = replace(recipe, teacher=replace(recipe.teacher, path=None))
    assert "scoring teacher" not in guesses(without_teacher, (None, None))
    assert all(seconds > 0 for seconds in guesses(without_teacher, (None, None)).values())
