"""The study file: what it holds, and every mistake in it, before anything is drawn or trained."""

import json
import re
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared import REPOSITORY
from study_files import PLAIN, STUDY, rewrite, small, written

from distill import cli
from distill.base.errors import UserError
from distill.objective.operations import OPERATIONS
from distill.recipe import Recipe, TargetConfig, TeacherConfig
from distill.recipe_check import parse_recipe, typed
from distill.scoring.score_cache import content_hash
from distill.study.against import against
from distill.study.file import (
    derived_row,
    needed_rows,
    read_study,
    row_recipe,
    shared_recipe,
    teacher_checkpoint,
    teacher_target,
    text_path,
)
from distill.study.schema import PromptedRow, QuantizedRow, Study


def test_the_bundled_study_has_every_row_of_the_matrix():
    study = read_study(STUDY)
    rows = {name: row_recipe(study, name, 0).target for name in study.students}
    found = {(t.op, t.reverse_roles, t.augment, t.strength) for name, t in rows.items() if name != "no_teacher"}
    operations = set(OPERATIONS) - {"none"}
    wanted = {("none", False, augment, 1.0) for augment in (False, True)}
    wanted |= {
        (op, reverse, augment, 1.0) for op in operations for reverse in (False, True) for augment in (False, True)
    }
    assert wanted <= found
    # Two settings, those that mitigate most, at other strengths too.
    weaker = sorted((setting, strength) for *setting, strength in found if strength < 1.0)
    assert len({tuple(setting) for setting, _ in weaker}) == 2
    assert [strength for _, strength in weaker] == [0.25, 0.5, 0.75] * 2
    listed = [name for name in rows if row_recipe(study, name, 0).loss.listed]
    assert listed == ["expmean-reverse-augment-listed"]  # the quickstart's, beside the same without
    assert rows[listed[0]] == rows["expmean-reverse-augment"]
    assert len(found) == len(rows) - 2
    assert {"teacher", "two_view_teacher"} == study.teachers.keys()
    assert len(study.seeds) >= 3


@pytest.mark.parametrize("path", sorted((STUDY.parent / "study").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_other_studies_are_sound(path):
    study = read_study(path, data="DATA")
    recipe = row_recipe(study, "plain", 0)
    assert recipe.trainer["max_steps"] > 0 and "plain" in study.students
    mitigated = [name for name in study.students if row_recipe(study, name, 0).target.reverse_roles]
    assert mitigated, "no row that mitigates"
    assert set(study.half_metrics) <= set(study.metrics)


def test_rows_differ_in_their_own_keys_only():
    study = read_study(STUDY)
    plain, row = row_recipe(study, "plain", 1).to_dict(), row_recipe(study, "max-reverse", 1).to_dict()
    differ = {key for key in plain if plain[key] != row[key]}
    assert differ == {"output_dir", "target"}
    alone = row_recipe(study, "no_teacher", 1).to_dict()
    assert alone["corpus"] == plain["corpus"]
    assert {key for key in plain if plain[key] != alone[key]} == {"output_dir", "teacher", "student", "loss"}


def test_no_teacher_has_the_size_of_the_others():
    from distill.models.architecture import parameter_count
    from distill.models.loading import load_teacher, load_tokenizer
    from distill.models.student import make_student

    study = read_study(STUDY)
    plain, alone = row_recipe(study, "plain", 0), row_recipe(study, "no_teacher", 0)
    teacher, tokenizer = load_teacher(plain.teacher)
    sizes = {
        parameter_count(make_student(plain.student, teacher, tokenizer, "demo")),
        parameter_count(make_student(alone.student, None, load_tokenizer("demo"), None)),
    }
    assert len(sizes) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sedes": [1]}, ["sedes", "seeds"]),
        ({"seeds": []}, ["seeds"]),
        ({"seeds": 3}, ["seeds", "list"]),
        ({"seeds": [-1]}, ["seeds", "-1"]),
        ({"jobs": 0}, ["jobs", "at least 1"]),
        ({"students": {"augment": {"target": {"augment": True}}}}, ["plain"]),
        ({"students": {"plain": {"target": {"operation": "max"}}}}, ["plain", "target.operation"]),
        ({"students": {"plain": PLAIN, "a/b": {}}}, ["a/b", "letters"]),
        ({"students": {"plain": PLAIN, "teacher": {}}}, ["teacher", "twice"]),
        ({"teachers": {"two": {"op": "maxx"}}}, ["two", "maxx", "max"]),
        ({"teachers": {"two": {"opp": "max"}}}, ["two", "opp"]),
        ({"metrics": ["perplexitty"]}, ["perplexitty", "perplexity"]),
        ({"recipe": "nowhere.yaml"}, ["study.yaml", "key 'recipe' names", "no file", "nowhere.yaml"]),
        ({"base": "study.yaml"}, ["study.yaml", "base", "leads back"]),
        ({"settings": {"corpus": {"files": ["{data}/a.txt"]}}}, ["{data}/a.txt", "--data"]),
        ({"settings": 3}, ["settings", "mapping", "3"]),
        ({"base": str(STUDY), "settings": None}, ["settings", "mapping", "None"]),
        ({"base": 3}, ["study.yaml", "base", "3"]),
        ({"base": "Infinity"}, ["study.yaml", "base", "there is no file", "Infinity"]),
        ({"base": ["study.yaml"]}, ["study.yaml", "base", "['study.yaml']"]),
        # Values of the wrong type, by the parser that recipes have.
        ({"output_dir": 3}, ["study.yaml", "output_dir", "3"]),
        ({"output_dir": None}, ["study.yaml", "output_dir", "null"]),
        ({"recipe": None}, ["study.yaml", "recipe", "null"]),
        ({"recipe": ["a"]}, ["study.yaml", "recipe", "['a']"]),
        ({"data": 3}, ["study.yaml", "data", "3"]),
        ({"seeds": None}, ["study.yaml", "seeds", "list"]),
        ({"seeds": [True]}, ["study.yaml", "seeds", "True"]),
        ({"seeds": [1.0]}, ["study.yaml", "seeds", "1.0"]),
        ({"seeds": ["one"]}, ["study.yaml", "seeds", "one"]),
        ({"seeds": [None]}, ["study.yaml", "seeds", "None"]),
        ({"seeds": [0, 1, 0]}, ["study.yaml", "seeds", "0 twice"]),
        ({"seeds": [2**32]}, ["study.yaml", "seeds", str(2**32)]),
        ({"jobs": True}, ["study.yaml", "jobs", "True"]),
        ({"jobs": 1.5}, ["study.yaml", "jobs", "1.5"]),
        ({"jobs": "many"}, ["study.yaml", "jobs", "many"]),
        ({"jobs": None}, ["study.yaml", "jobs", "null"]),
        ({"metrics": "perplexity"}, ["study.yaml", "metrics", "list"]),
        ({"metrics": [3]}, ["study.yaml", "metrics", "3"]),
        ({"metrics": [None]}, ["study.yaml", "metrics", "None"]),
        ({"half_metrics": ["perplexitty"]}, ["study.yaml", "half_metrics", "perplexitty", "'perplexity'"]),
        ({"half_metrics": {"perplexity": 1}}, ["study.yaml", "half_metrics", "list"]),
        ({"text_metrics": ["perplexitty"]}, ["study.yaml", "text_metrics", "perplexitty", "'perplexity'"]),
        ({"texts": ["a.txt"]}, ["study.yaml", "texts", "mapping"]),
        ({"texts": {"a": 3}}, ["study.yaml", "texts", "3"]),
        ({"texts": {"a": None}}, ["study.yaml", "texts", "None"]),
        ({"texts": {"a b": "a.txt"}}, ["study.yaml", "text 'a b'", "letters"]),
        ({"texts": {"held_out": "a.txt"}}, ["study.yaml", "text 'held_out'", "half"]),
        ({"passage_chars": -1}, ["study.yaml", "passage_chars", "-1", "at least 1"]),
        ({"passage_chars": 0}, ["study.yaml", "passage_chars", "0", "at least 1"]),
        ({"passage_chars": True}, ["study.yaml", "passage_chars", "True"]),
        ({"passage_chars": "long"}, ["study.yaml", "passage_chars", "long"]),
        ({"max_documents": 0}, ["study.yaml", "max_documents", "0", "at least 1"]),
        ({"max_documents": 2.5}, ["study.yaml", "max_documents", "2.5"]),
        ({"students": ["plain"]}, ["study.yaml", "students", "mapping"]),
        ({"students": {"plain": None}}, ["study.yaml", "row 'plain'", "mapping", "None"]),
        ({"students": {"plain": 3}}, ["study.yaml", "row 'plain'", "mapping", "3"]),
        ({"teachers": {"two": None}}, ["study.yaml", "row 'two'", "mapping", "None"]),
        ({"teachers": {"two": "max"}}, ["study.yaml", "row 'two'", "mapping", "max"]),
        # What a row lays over the recipe, before anything is trained.
        ({"students": {"plain": {"trainer": {"max_stepps": 3}}}}, ["study.yaml", "row 'plain'", "max_stepps"]),
        ({"students": {"plain": {"trainer": {"seed": 3}}}}, ["study.yaml", "row 'plain'", "trainer.seed"]),
        ({"students": {"plain": {"trainer": 3}}}, ["study.yaml", "row 'plain'", "trainer", "3"]),
        ({"students": {"plain": {"target": {"op": "maxx"}}}}, ["study.yaml", "row 'plain'", "maxx", "'max'"]),
        ({"students": {"plain": {"loss": {"kd": -1}}}}, ["study.yaml", "row 'plain'", "loss.kd", "negative"]),
        ({"students": {"plain": {"loss": {"kd": None}}}}, ["study.yaml", "row 'plain'", "loss.kd", "null"]),
        ({"settings": {"loss": {"kd": -1}}}, ["study.yaml", "settings", "loss.kd", "negative"]),
        ({"settings": {"block_lenght": 64}}, ["study.yaml", "settings", "block_lenght", "block_length"]),
        (
            {"students": {"plain": {"held_out": {"source": "teacher", "max_documents": 3}}}},
            ["study.yaml", "row 'plain'", "held_out.source", "settings"],
        ),
        (
            {"students": {"plain": {"teacher": {"path": None}, "loss": {"kd": 0, "ce": 1},
                                    "student": {"init": "checkpoint", "path": "x"},
                                    "target": {"op": "none", "reverse_roles": False}}}},
            ["study.yaml", "row 'plain'", "teacher"],
        ),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_one_sentence(tmp_path, changes, words):
    with pytest.raises(UserError) as error:
        read_study(written(tmp_path, **changes))
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("where", ["settings", "row 'plain'", "the recipe"])
@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("reference", "a-model", "the reference of every row is the teacher"),
        ("control", "a-model", "is a row of its own"),
        ("quantize", "int8", "is a row of 'teachers'"),
    ],
)
def test_settings_of_scores_that_no_row_would_heed_are_refused(tmp_path, monkeypatch, where, key, value, hint):
    monkeypatch.setattr("distill.models.quantization.is_torchao_available", lambda: True)
    keys, recipe = {"scores": {key: value, "members": "a.txt", "others": "b.txt"}}, tmp_path / "recipe.yaml"
    settings, row = (keys if where == "settings" else {}), (keys if where == "row 'plain'" else {})
    base = str(REPOSITORY / "recipes" / "quickstart.yaml")
    recipe.write_text(yaml.safe_dump({"base": base, **(keys if where == "the recipe" else {})}), encoding="utf-8")
    path = written(tmp_path, recipe=str(recipe), settings=settings, students={"plain": PLAIN | row})
    named = "settings" if where == "the recipe" else where  # where it is set to null
    with pytest.raises(UserError, match=rf"{named}: scores\.{key} is {value}, but in a study .*{hint}.*set it to null"):
        read_study(path)
    if where == "the recipe":
        read_study(written(tmp_path, recipe=str(recipe), settings={"scores": {key: None}}, students={"plain": PLAIN}))


def test_the_name_of_drawn_text_tells_which_model_drew_it(tmp_path):
    def drawn(**teacher):
        study = read_study(written(tmp_path, settings={"teacher": teacher}, students={"plain": PLAIN}), data="DATA")
        return text_path(study, "corpus", shared_recipe(study, 0)).name

    plain = drawn()
    # By path and section alone, as texts were named before the other keys were told.
    study = read_study(written(tmp_path, settings={}, students={"plain": PLAIN}))
    told = ["demo", asdict(shared_recipe(study, 0).corpus)]
    assert plain == f"corpus-0-{content_hash(told)[:8]}.jsonl"
    others = [
        {"path": "other"}, {"revision": "main"}, {"dtype": "bfloat16"}, {"dtype": "float16"}, {"gguf_file": "a.gguf"},
    ]  # fmt: skip
    assert len({plain, *(drawn(**keys) for keys in others)}) == 1 + len(others)
    # Nothing that leaves the texts as they are, and no default that is written out.
    same = {"dtype": "float32", "revision": None, "cache_hidden_states": True, "shard": False}
    assert drawn(**same) == plain


# A teacher's keys -> what is said of them; the same is said of them as a recipe's `target`.
TARGETS = [
    ({"op": "max", "strength": 2.0}, "target.strength is 2.0, but must lie in [0, 1]"),
    ({"op": "max", "strength": -0.1}, "target.strength is -0.1, but must lie in [0, 1]"),
    ({"op": "max", "strength": "much"}, "target.strength"),
    ({"op": "max", "strength": True}, "target.strength"),
    ({"op": "max", "strength": None}, "target.strength"),
    ({"op": "max", "strength": float("nan")}, "target.strength"),
    ({"op": "max", "strength": [0.5]}, "target.strength"),
    ({"op": None}, "target.op"),
    ({"op": 3}, "target.op"),
    ({"op": "maxx"}, "target.op"),
    ({"op": "max", "reverse_roles": "perhaps"}, "target.reverse_roles"),
    ({"op": "max", "reverse_roles": 1}, "target.reverse_roles"),
    ({"op": "max", "augment": None}, "target.augment"),
    ({"op": "none", "reverse_roles": True}, "target.reverse_roles needs an operation"),
    ({"reverse_roles": True}, "target.reverse_roles needs an operation"),
    ({"strenght": 0.5}, "target.strenght"),
]


@pytest.mark.parametrize(("target", "words"), TARGETS)
def test_a_teacher_is_checked_as_the_target_of_a_recipe(tmp_path, target, words):
    path = written(tmp_path, students={"plain": PLAIN}, teachers={"two": target})
    with pytest.raises(UserError) as error:
        read_study(path)
    begin = f"{path}: row 'two': "
    assert str(error.value).startswith(begin) and words in str(error.value)
    recipe = tmp_path / "recipe.yaml"
    base = str(REPOSITORY / "recipes" / "quickstart.yaml")
    recipe.write_text(
        yaml.safe_dump({"base": base, "target": {"op": "none", "reverse_roles": False} | target}), encoding="utf-8"
    )
    with pytest.raises(UserError) as of_recipe:
        parse_recipe(["--config", str(recipe)])
    said = str(of_recipe.value).removeprefix(f"{recipe}: ").replace("see --help", "see distill train --help")
    assert str(error.value) == begin + said


def test_a_teacher_takes_nothing_from_the_target_of_the_recipe(tmp_path):
    study = read_study(
        written(tmp_path, students={"plain": PLAIN}, teachers={"a": {}, "b": {"op": "max", "strength": 1}})
    )
    assert teacher_target(study, "a") == TargetConfig()
    assert teacher_target(study, "b") == TargetConfig(op="max", strength=1.0)


def test_a_model_behind_a_prompt_is_a_row(tmp_path):
    rows = {"teacher": {}, "other": {"prompt": "Beware:", "of": "plain"}, "third": {"prompt": "Beware:", "decay": 5}}
    study = read_study(written(tmp_path, students={"plain": PLAIN}, teachers=rows))
    assert derived_row(study, "other") == PromptedRow("Beware:", 50.0, "plain")
    assert derived_row(study, "third") == PromptedRow("Beware:", 5.0)
    assert derived_row(study, "teacher") is None
    assert teacher_target(study, "other") == TargetConfig() and teacher_checkpoint(study, "other") is None
    for keys, words in (
        ({"prompt": " "}, "row 'other': prompt is empty; say what announces the bias"),
        ({"prompt": "a", "decay": -1}, "row 'other': decay is -1.0, but must be at least 0"),
        ({"prompt": "a", "of": "plane"}, "row 'other': of is plane, which is no student; did you mean 'plain'"),
        ({"prompt": "a", "op": "max"}, "row 'other': unknown key 'op'"),
    ):
        with pytest.raises(UserError, match=words):
            read_study(written(tmp_path, students={"plain": PLAIN}, teachers={"other": keys}))


def test_a_model_in_fewer_bits_is_a_row(tmp_path):
    rows = {"teacher": {}, "shipped": {"quantize": "int8", "of": "plain"}, "small": {"quantize": "int4"}}
    study = read_study(written(tmp_path, students={"plain": PLAIN}, teachers=rows))
    assert derived_row(study, "shipped") == QuantizedRow("int8", "plain")
    assert derived_row(study, "small") == QuantizedRow("int4", None)
    assert teacher_target(study, "shipped") == TargetConfig() and teacher_checkpoint(study, "shipped") is None
    for keys, words in (
        ({"quantize": "int2"}, "row 'other': .*quantize.*int2"),
        ({"quantize": "int4", "of": "plane"}, "row 'other': of is plane, which is no student; did you mean 'plain'"),
        ({"quantize": "int4", "prompt": "a"}, "row 'other': unknown key 'quantize'"),
    ):
        with pytest.raises(UserError, match=words):
            read_study(written(tmp_path, students={"plain": PLAIN}, teachers={"other": keys}))


def test_of_some_rows_those_derived_from_others_are_left_out(tmp_path):
    rows = {"teacher": {}, "small": {"quantize": "int4", "of": "max"}, "asked": {"prompt": "Beware:", "of": "plain"}}
    path = written(tmp_path, students={"plain": PLAIN, "max": {}}, teachers=rows)
    assert list(read_study(path, rows=["plain"]).teachers) == ["teacher", "asked"]
    assert list(read_study(path, rows=["plain", "max"]).teachers) == list(rows)
    path = written(
        tmp_path, students={"plain": PLAIN, "max": {}}, teachers=rows | {"b": {"quantize": "int4", "of": "man"}}
    )
    with pytest.raises(UserError, match="row 'b': of is man, which is no student; did you mean 'max'"):
        read_study(path, rows=["plain"])


def test_a_checkpoint_from_elsewhere_is_a_row(tmp_path):
    rows = {"teacher": {}, "two": {"op": "max"}, "other": {"path": "{data}/gpt", "dtype": "bfloat16"}}
    study = read_study(written(tmp_path, students={"plain": PLAIN}, teachers=rows), data="DATA")
    assert teacher_checkpoint(study, "other") == TeacherConfig(path="DATA/gpt", dtype="bfloat16")
    assert teacher_checkpoint(study, "teacher") is teacher_checkpoint(study, "two") is None
    assert teacher_target(study, "other") == TargetConfig()
    for keys, words in (
        ({"path": None}, "row 'other': path is null; name a folder or hub id"),
        ({"path": "a", "op": "max"}, "row 'other': .*teacher.op"),
        ({"path": "a", "dtype": "float8"}, "row 'other': .*teacher.dtype"),
    ):
        with pytest.raises(UserError, match=words):
            read_study(written(tmp_path, students={"plain": PLAIN}, teachers={"other": keys}))


def test_the_papers_protocol():
    """What is known of it: metric, prompts, decoding, models; see recipes/README.md."""
    study = read_study(STUDY.parent / "study" / "paper.yaml", data="DATA")
    scores = shared_recipe(study, 0).scores
    decoding = {"samples": 10, "top_p": 0.9, "top_k": 0, "temperature": 1.0, "max_new_tokens": 100, "max_length": 100}
    assert scores.decoding() == decoding
    assert (scores.prompts, scores.max_prompts, scores.listed_prompts) == ("AmazonScience/bold", None, True)
    assert scores.word_vectors.startswith("DATA/")
    assert {"fairness_ratio", "gender_polarity", "perplexity"} <= set(study.metrics)
    recipes = {name: row_recipe(study, name, 0) for name in study.students}
    assert recipes["plain"].held_out.name == "wikitext-103-raw-v1"
    for name, recipe in recipes.items():
        medium, finetuned = name.startswith("medium"), name.startswith("finetuned")
        assert recipe.teacher.path == "openai-community/gpt2" + "-medium" * medium
        assert (recipe.student.init, recipe.student.path) == (
            ("checkpoint", "openai-community/gpt2") if finetuned else ("layers", None)
        )
        base = "finetune-gpt2" if finetuned else "gpt2-medium" if medium else "gpt2"
        of_recipe = parse_recipe(["--config", str(REPOSITORY / "recipes" / f"{base}.yaml")])
        assert recipe.trainer == of_recipe.trainer
        beside = "medium-plain" if medium else "finetuned-plain" if finetuned else "plain"
        assert against(study, name) == (None if name == beside else beside)
    for beside in ("plain", "medium-plain", "finetuned-plain"):  # each is what its rows would be without mitigation
        assert recipes[beside] == recipes[beside].plain()
        of_model = [recipe for name, recipe in recipes.items() if beside in (name, against(study, name))]
        wanted = replace(recipes[beside], output_dir="")
        assert all(replace(recipe.plain(), output_dir="") == wanted for recipe in of_model)
    assert scores.decoding() == of_recipe.scores.decoding()
    assert teacher_checkpoint(study, "distilgpt2").path.endswith("distilgpt2")


MITIGATING = [
    # Keys of the row `plain` over the quickstart, and what is said of them.
    ({"target": PLAIN["target"]}, "loss.listed is 0.5, which mitigates, but this row is to do without; write loss: "
     "{listed: 0.0}"),
    ({"loss": {"listed": 0.0}}, "target.op is expmean, target.reverse_roles is true, target.augment is true, which "
     "mitigates, but this row is to do without; write target: {op: none, reverse_roles: false, augment: false}"),
    ({"target": {"op": "none", "reverse_roles": False}, "loss": {"listed": 0.0, "pairing": 0.1}},
     "target.augment is true, loss.pairing is 0.1, which mitigates, but this row is to do without; write target: "
     "{augment: false}, loss: {pairing: 0.0}"),
    (PLAIN | {"student": {"remove_directions": 2}}, "student.remove_directions is 2, which mitigates"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "words"), MITIGATING)
def test_a_plain_row_that_mitigates_is_refused(tmp_path, keys, words):
    path = tmp_path / "mine.yaml"
    values = {"recipe": str(REPOSITORY / "recipes" / "quickstart.yaml"), "students": {"plain": keys}}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_study(path)
    assert str(error.value).startswith(f"{path}: row 'plain': ") and words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_plain_row_is_what_a_run_of_its_recipe_has_for_a_baseline(tmp_path):
    """Of every study here, whatever its recipe mitigates by; a strength without an operation is none."""
    for path in (STUDY, *(STUDY.parent / "study").glob("*.yaml")):
        recipe = row_recipe(read_study(path, data="DATA"), "plain", 0)
        assert recipe == recipe.plain()
    weak = {"target": PLAIN["target"] | {"strength": 0.5}}
    study = read_study(written(tmp_path, students={"plain": PLAIN | weak}))
    assert row_recipe(study, "plain", 0).target.strength == 0.5


def test_a_mistake_ends_the_command_before_anything_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # the command names one for itself and what it starts
    path = small(tmp_path, students={"plain": PLAIN}, teachers={"two": {"op": "max", "strength": 2.0}})
    assert cli.main(["study", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.strip().splitlines()) == 1
    assert "row 'two': target.strength is 2.0" in printed.err
    assert not (tmp_path / "out").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PLACES = [(f.name,) for f in fields(Study)] + [("base",)]
PLACES += [("students", "plain"), ("teachers", "two"), ("texts", "letters"), ("seeds", 0), ("metrics", 0)]
PLACES += [("students", "plain", f.name) for f in fields(Recipe)]
PLACES += [(kind, row, "against") for kind, row in (("students", "plain"), ("students", "max"), ("teachers", "two"))]
PLACES += [("teachers", "two", f.name) for f in fields(TargetConfig)]


def put(values, place, value):
    """Nested values with another one at a place."""
    key, *rest = place
    if isinstance(values, list):
        return [put(values[0], rest, value) if rest else value]
    return values | {key: put(values.get(key, {}), rest, value) if rest else value}


SOUND = {
    "output_dir": "out",
    "recipe": str(REPOSITORY / "recipes" / "debug.yaml"),
    "seeds": [0],
    "teachers": {"two": {"op": "max"}},
    "students": {"plain": PLAIN | {"seed": 1}, "max": {}},
    "metrics": ["perplexity"],
    "texts": {"letters": "letters.jsonl"},
}


def test_the_study_that_is_changed_below_is_sound(tmp_path):
    """Or else every other one would be refused, too."""
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(SOUND), encoding="utf-8")
    assert read_study(path).seeds == (0,)


@settings(max_examples=100, suppress_health_check=list(HealthCheck), database=None)
@given(place=st.sampled_from(PLACES), value=JSON)
def test_any_value_at_any_place_is_sound_or_one_sentence(tmp_path, place, value):
    """What is read holds values of its fields' types, and can be asked for all its recipes."""
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(put(SOUND, place, value)), encoding="utf-8")
    try:
        study = read_study(path)
    except UserError as error:
        message = str(error)
        assert message.isprintable() and "study.yaml" in message
    else:
        assert typed(Study, asdict(study), "again") == study
        assert row_recipe(study, "plain", study.seeds[-1]).seed == study.seeds[-1]
        for name in study.teachers:
            assert isinstance(teacher_target(study, name).strength, float)


@settings(max_examples=60, suppress_health_check=list(HealthCheck), database=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_file_is_read_or_one_sentence(tmp_path, content):
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"study\.yaml") as error:  # an empty one has no row `plain`
        read_study(path)
    assert str(error.value).isprintable()


def test_a_study_lays_its_keys_over_those_of_its_base(tmp_path):
    (tmp_path / "over").mkdir()
    path = tmp_path / "over" / "mine.yaml"
    text = """
        base: ../study.yaml
        settings: {corpus: {source: files, files: ["{data}/x.txt", plain.txt]}, scores: {prompts: "{data}/p"}}
        students: {plain: {target: {op: none, reverse_roles: false, augment: false}}}
    """
    path.write_text(text, encoding="utf-8")
    below, study = read_study(written(tmp_path)), read_study(path, data="there")
    assert list(study.students) == ["plain"]
    assert (study.metrics, study.teachers, study.seeds) == (below.metrics, below.teachers, below.seeds)
    recipe = row_recipe(study, "plain", 0)
    assert recipe.corpus.files == ["there/x.txt", "plain.txt"]
    assert recipe.scores.prompts == "there/p"
    assert recipe.teacher.cache_hidden_states  # `settings` of the file below, where these say nothing
    assert recipe.trainer == row_recipe(below, "plain", 0).trainer


def test_settings_are_laid_over_those_of_the_base_key_by_key(tmp_path):
    path, top = written(tmp_path), tmp_path / "top.yaml"
    top.write_text("base: study.yaml\nsettings: {trainer: {max_steps: 7}}\n", encoding="utf-8")
    below, above = (row_recipe(read_study(file, rows=["plain"]), "plain", 0).trainer for file in (path, top))
    assert above == below | {"max_steps": 7}


def test_settings_belong_to_their_recipe(tmp_path):
    path, top = written(tmp_path, students={"plain": PLAIN}), tmp_path / "top.yaml"
    recipe = REPOSITORY / "recipes" / "debug.yaml"
    top.write_text(f"base: study.yaml\nrecipe: {recipe}\n", encoding="utf-8")
    assert read_study(path, rows=["plain"]).settings
    assert read_study(top, rows=["plain"]).settings == {}
    top.write_text(f"base: study.yaml\nrecipe: {recipe}\nsettings: {{trainer: {{max_steps: 7}}}}\n", encoding="utf-8")
    assert read_study(top, rows=["plain"]).settings == {"trainer": {"max_steps": 7}}


def test_rows_can_be_chosen(tmp_path):
    path = written(tmp_path)
    assert list(read_study(path, rows=["max", "plain"]).students) == ["plain", "max"]
    with pytest.raises(UserError, match="holds no student 'maxx'; did you mean 'max'"):
        read_study(path, rows=["plain", "maxx"])


def test_held_out_text_may_come_from_files_where_the_corpus_is_drawn(tmp_path):
    path = small(tmp_path)
    rewrite(path, settings={"held_out": {"source": "files", "files": ["held-out.txt"]}})
    recipe = row_recipe(read_study(path, rows=["plain"]), "plain", 0)
    assert recipe.held_out.files == ["held-out.txt"]
    (drawn,) = recipe.corpus.files
    assert re.fullmatch(r"corpus-0-[0-9a-f]{8}\.jsonl", Path(drawn).name)


def test_a_row_reads_the_student_of_a_row_above_with_its_seed(tmp_path):
    students = {
        "plain": PLAIN | {"corpus": {"source": "files", "files": ["{data}/a.txt"]}},
        "second": {"teacher": {"path": "{student:plain}"}},
    }
    study = read_study(small(tmp_path, students=students), data="DATA")
    assert needed_rows(study, "second") == ["plain"] and needed_rows(study, "plain") == []
    assert row_recipe(study, "second", 0).teacher.path == str(tmp_path / "out" / "runs" / "plain-0" / "student")
    assert row_recipe(study, "plain", 0).corpus.files == ["DATA/a.txt"]
    for rows, words in (
        ({"first": {"teacher": {"path": "{student:plain}"}}, "plain": PLAIN}, "which comes behind it"),
        ({"plain": PLAIN | {"teacher": {"path": "{student:plain}"}}}, "which comes behind it"),
        ({"plain": PLAIN, "second": {"teacher": {"path": "{student:plan}"}}}, "'plan', which is not among those"),
    ):
        with pytest.raises(UserError, match=words):
            read_study(small(tmp_path, students=rows))
    with pytest.raises(UserError, match="row 'third' reads the student of row 'second', which is not among those"):
        students["third"] = {"teacher": {"path": "{student:second}"}}
        read_study(small(tmp_path, students=students), data="DATA", rows=["plain", "third"])


def test_the_private_study_has_every_epsilon_and_the_leaky_teacher_before_its_students():
    study = read_study(STUDY.parent / "study" / "private.yaml", data="DATA")
    rows = {name: row_recipe(study, name, 1) for name in study.students}
    for setting in ("plain", "expmean-reverse-augment"):
        epsilons = [rows[f"{setting}{end}"].privacy.epsilon for end in ("", "-8", "-3", "-1")]
        assert epsilons == [None, 8, 3, 1]
        assert len({(rows[f"{setting}{end}"].target, rows[f"{setting}{end}"].seed) for end in ("", "-1")}) == 1
    leaked = [name for name in rows if needed_rows(study, name) == ["leaky"]]
    assert len({(rows[name].corpus.source, *rows[name].corpus.files) for name in leaked}) == 3
    assert rows["leaky"].audit == rows["plain"].audit and rows["leaky"].corpus == rows["plain"].corpus
    assert all(rows[name].audit.members == 0 for name in rows if rows[name].corpus != rows["plain"].corpus)
