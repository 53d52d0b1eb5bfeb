"""Whose folder a run's is."""

import pytest
from shared import REPOSITORY

from distill.base.errors import UserError
from distill.recipe_check import parse_recipe
from distill.run_folder import open_run


def test_an_output_folder_belongs_to_one_recipe(tmp_path):
    arguments = ["--config", str(REPOSITORY / "recipes/debug.yaml"), "--output_dir", str(tmp_path / "run")]
    with open_run(parse_recipe(arguments)) as folder:
        before = (folder / "recipe.yaml").read_bytes()
    with open_run(parse_recipe(arguments)) as again:
        assert again == folder
    with (
        pytest.raises(UserError, match=r"another recipe's run \(target.strength is 1.0 there, 0.5 here\)"),
        open_run(parse_recipe([*arguments, "--target.strength", "0.5"])),
    ):
        pass
    assert (folder / "recipe.yaml").read_bytes() == before


def test_a_mistake_in_preparation_leaves_nothing_behind_but_keeps_an_earlier_run(tmp_path):
    config = str(REPOSITORY / "recipes/debug.yaml")
    recipe = parse_recipe(["--config", config, "--output_dir", str(tmp_path / "a" / "b")])
    with pytest.raises(UserError, match="late"), open_run(recipe) as folder:
        (folder / "cache").mkdir()
        raise UserError("late")
    assert list(tmp_path.iterdir()) == []
    with open_run(recipe) as folder:
        (folder / "student").mkdir()
    with pytest.raises(UserError, match="late"), open_run(recipe):
        raise UserError("late")
    assert (folder / "student").exists()


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    recipe = parse_recipe(["--config", str(REPOSITORY / "recipes/debug.yaml"), "--output_dir", str(tmp_path)])
    with pytest.raises(UserError, match="not empty"), open_run(recipe):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
