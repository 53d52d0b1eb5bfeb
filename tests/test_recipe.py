"""The recipe: what a user writes, and what a user gets wrong."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
import yaml
from shared import REPOSITORY

from distill.base.errors import UserError
from distill.recipe import Recipe, read_recipe_file, read_resolved, read_yaml, write_recipe
from distill.recipe_check import parse_recipe


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_base_is_laid_under_and_relative_to_the_file(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "base.yaml", "seed: 1\ntrainer: {max_steps: 5, learning_rate: 0.1}\n")
    path = write(tmp_path / "sub" / "r.yaml", "base: ../base.yaml\ntrainer: {max_steps: 9}\n")
    assert read_recipe_file(path) == {"seed": 1, "trainer": {"max_steps": 9, "learning_rate": 0.1}}


def test_resolved_recipe_reads_back_the_same(tmp_path):
    recipe = parse_recipe(["--config", str(REPOSITORY / "recipes/quickstart.yaml"), "--seed", "4"])
    write_recipe(recipe, tmp_path / "resolved.yaml")
    assert parse_recipe(["--config", str(tmp_path / "resolved.yaml")]) == recipe


def sections(cls=Recipe):
    yield cls
    for f in fields(cls):
        if is_dataclass(f.type):
            yield from sections(f.type)


@pytest.mark.parametrize("section", list(sections()), ids=lambda s: s.__name__)
def test_every_field_is_documented(section):
    for f in fields(section):
        assert f"        {f.name}: " in section.__doc__, f"{section.__name__}.{f.name} has no line in its docstring"


def test_plain_differs_only_in_the_mitigation():
    recipe = parse_recipe(["--config", str(REPOSITORY / "recipes/quickstart.yaml")])
    recipe = replace(recipe, loss=replace(recipe.loss, listed=0.7))
    plain = recipe.plain()
    assert not plain.needs_counterfactuals
    loss = {**recipe.to_dict()["loss"], "listed": 0.0}
    assert {**plain.to_dict(), "target": None} == {**recipe.to_dict(), "target": None, "loss": loss}
    paired = parse_recipe(["--config", str(REPOSITORY / "recipes/quickstart.yaml"), "--loss.pairing", "2"])
    assert paired.plain() == plain


def test_directions_that_are_taken_out_are_a_mitigation_that_the_steps_know_nothing_of():
    files = ["--corpus.source", "files", "--corpus.files", '["a.txt"]', "--held_out.max_documents", "1"]
    plain, projected = (parse_recipe([*files, "--student.remove_directions", count]) for count in ("0", "1"))
    assert projected.needs_counterfactuals and not projected.trains_on_views
    assert projected.plain() == plain and list(projected.variants()) == ["baseline", "student"]
    assert not plain.needs_counterfactuals and list(plain.variants()) == ["student"]


@pytest.mark.parametrize(
    ("text", "key", "line", "first"),
    [
        ("seed: 1\nwordlist: short\nseed: 2\n", "seed", 3, 1),
        ("target:\n  op: max\n  op: mean\n", "op", 3, 2),
        ("scores: {samples: 1, 'samples': 2}\n", "samples", 1, 1),
        ("a: &a {seed: 1, seed: 2}\nb: *a\n", "seed", 1, 1),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_lines(tmp_path, text, key, line, first):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"recipe.yaml, line {line}: key '{key}' stands in line {first} already"):
        read_yaml(path)


def test_keys_that_are_merged_in_are_not_twice(tmp_path):
    """The safe loader of PyYAML itself is the truth: mappings laid over one another, at any depth."""
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\ntop: {deep: {deeper: &c {<<: *b, y: 4}}, c: {<<: *c, z: 1}}\n"
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    assert read_yaml(path) == yaml.safe_load(text)
    assert read_yaml(path)["top"]["c"] == {"x": 3, "y": 4, "z": 1}


@pytest.mark.parametrize("value", [None, "text", [1]])
def test_a_section_of_a_run_that_was_emptied_is_told(tmp_path, value):
    path, whole = tmp_path / "recipe.yaml", Recipe().to_dict()
    for key in ("teacher", "student", "corpus", "held_out", "target", "loss", "scores", "trainer"):
        path.write_text(yaml.safe_dump(whole | {key: value}), encoding="utf-8")
        with pytest.raises(UserError, match=rf"recipe\.yaml: key '{key}' must hold keys of its own.*restore it"):
            read_resolved(path)


def test_a_section_within_a_section_that_was_emptied_is_told(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("student: {init: layers, lora: }\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"key 'student\.lora' must hold keys of its own, but is None"):
        read_resolved(path)
