"""The recipe: what a user writes, and what a user gets wrong."""

from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import yaml
from shared import REPOSITORY

from distill import recipe as recipes
from distill.base.errors import UserError
from distill.recipe import Recipe, read_recipe_file, write_recipe
from distill.recipe_check import parse_recipe
from distill.run_folder import open_run


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_file_then_overrides(tmp_path):
    path = write(
        tmp_path / "r.yaml",
        "seed: 3\ntarget: {op: max, strength: 0.5}\ncorpus: {max_documents: 5}\nheld_out: {max_documents: 5}\n",
    )
    recipe = parse_recipe(["--config", path, "--target.strength", "0.25", "--trainer.max_steps", "7"])
    assert (recipe.seed, recipe.target.op, recipe.target.strength) == (3, "max", 0.25)
    assert recipe.trainer == {"max_steps": 7}


def test_base_is_laid_under_and_relative_to_the_file(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "base.yaml", "seed: 1\ntrainer: {max_steps: 5, learning_rate: 0.1}\n")
    path = write(tmp_path / "sub" / "r.yaml", "base: ../base.yaml\ntrainer: {max_steps: 9}\n")
    assert read_recipe_file(path) == {"seed": 1, "trainer": {"max_steps": 9, "learning_rate": 0.1}}


def test_resolved_recipe_reads_back_the_same(tmp_path):
    recipe = parse_recipe(["--config", str(REPOSITORY / "recipes/quickstart.yaml"), "--seed", "4"])
    write_recipe(recipe, tmp_path / "resolved.yaml")
    assert parse_recipe(["--config", str(tmp_path / "resolved.yaml")]) == recipe


def test_print_config_shows_the_merged_recipe(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_recipe(["--config", str(REPOSITORY / "recipes/debug.yaml"), "--seed", "9", "--print_config"])
    assert stop.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["seed"] == 9
    assert shown["trainer"]["max_steps"] == 10  # of debug.yaml
    assert shown["target"]["reverse_roles"] is True  # of its base


SAMPLED = "corpus: {max_documents: 5}\nheld_out: {max_documents: 5}\n"


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ("sede: 1", [], ["r.yaml", "'sede'", "'seed'"]),
        ("target: {opp: max}", [], ["target.opp", "'op'"]),
        ("target: max", [], ["target", "keys of its own"]),
        ("seed: [1", [], ["r.yaml", "line", "YAML"]),
        ("seed: 2020-01-01", [], ["r.yaml", "date", "quotes"]),
        ("trainer: {a: !!set {b}}", [], ["r.yaml", "set"]),
        ("seed: " + "1" * 2_000_000, [], ["r.yaml", "longer"]),
        ("- 1", [], ["r.yaml", "list"]),
        ("base: r.yaml", [], ["base"]),
        ("base: absent.yaml", [], ["absent.yaml", "no such"]),
        (SAMPLED + "target: {op: expmeen}", [], ["target.op", "expmeen", "'expmean'"]),
        (SAMPLED + "target: {op: max, strength: 1.5}", [], ["target.strength", "1.5", "[0, 1]"]),
        (SAMPLED + "target: {op: max, strength: -0.1}", [], ["target.strength", "-0.1"]),
        (SAMPLED + "target: {op: max, strength: .nan}", [], ["target.strength"]),
        (SAMPLED + "target: {reverse_roles: true}", [], ["reverse_roles", "target.op"]),
        (SAMPLED + "loss: {divergence: kl}", [], ["loss.divergence", "forward_kl"]),
        (SAMPLED + "loss: {temperature: 0}", [], ["loss.temperature"]),
        (SAMPLED + "loss: {kd: 0}", [], ["kd", "ce"]),
        (SAMPLED + "loss: {kd: -1}", [], ["loss.kd", "negative"]),
        (SAMPLED + "trainer: {max_stepz: 1}", [], ["trainer", "max_stepz", "'max_steps'"]),
        (SAMPLED + "trainer: {seed: 1}", [], ["trainer.seed", "'seed'"]),
        (SAMPLED + "scores: {metrics: [perplexitty]}", [], ["perplexitty", "'perplexity'"]),
        ("corpus: {source: teacher}", [], ["corpus.max_documents"]),
        ("corpus: {source: files}", [], ["corpus.files"]),
        ("corpus: {source: hub}", [], ["corpus.dataset"]),
        (SAMPLED + "held_out: {max_documents: 5, document_start: '('}", [], ["document_start", "regular expression"]),
        (SAMPLED + "teacher: {path: null}", [], ["teacher.path"]),
        (SAMPLED + "student: {init: config}", [], ["model_type"]),
        (SAMPLED + "student: {init: checkpoint}", [], ["student.path"]),
        (SAMPLED + "block_length: 2", [], ["block_length"]),
        (SAMPLED, ["--target.opp", "max"], ["--target.opp", "--target.op"]),
        (SAMPLED, ["--traget.op", "max"], ["--traget.op", "--target.op"]),
        (SAMPLED, ["--seed", "one"], ["seed", "one"]),
        (SAMPLED, ["--config"], ["--config"]),
    ],
)
def test_a_mistake_is_one_sentence_that_names_it(tmp_path, text, arguments, words):
    path = write(tmp_path / "r.yaml", text)
    with pytest.raises(UserError) as error:
        parse_recipe(["--config", path, *arguments])
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_missing_file_suggests_a_neighbour(tmp_path):
    write(tmp_path / "quickstart.yaml", "")
    with pytest.raises(UserError, match=r"did you mean 'quickstart\.yaml'"):
        parse_recipe(["--config", str(tmp_path / "quikstart.yaml")])


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
    plain = recipe.plain()
    assert not plain.needs_counterfactuals
    assert {**plain.to_dict(), "target": None} == {**recipe.to_dict(), "target": None}


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


def test_settings_that_the_run_decides_cannot_be_set_twice():
    known = {f.name for f in fields(__import__("transformers").TrainingArguments)}
    assert set(recipes._OWN_TRAINER_KEYS) <= known
