"""What a demo shows of the folders that it is given."""

import json
import shutil
import sys
from dataclasses import replace

import pytest

from distill.base.errors import UserError
from distill.base.files import PACKAGE
from distill.demo.sources import DEFAULT_TARGET, read_file, read_shown
from distill.recipe import Recipe, TargetConfig, read_resolved, write_recipe
from distill.recipe_check import typed
from distill.reports.page import run_page
from distill.text.wordlist import load_wordlist


def test_a_run_brings_its_models_list_target_and_report(toy_run_folder):
    shown = read_shown([str(toy_run_folder)])
    assert [(s.title, s.style) for s in shown.sources] == [
        ("teacher", "teacher"), ("plain student", "plain"), ("mitigated student", "mitigated"),
    ]  # fmt: skip
    home = toy_run_folder.parent
    places = [home / "teacher", toy_run_folder / "baseline", toy_run_folder / "student"]
    assert [s.model.path for s in shown.sources] == list(map(str, places))
    assert (shown.wordlist, shown.teacher) == (str(home / "words.tsv"), shown.sources[0])
    assert shown.target == TargetConfig(op="expmean", reverse_roles=True, augment=True)
    assert shown.reports == {"run": str(toy_run_folder / "report.html")}


def test_models_are_named_as_the_report_names_them(toy_run_folder, toy_scores):
    recipe = typed(Recipe, read_resolved(toy_run_folder / "recipe.yaml"), "recipe")
    page = run_page(recipe, toy_scores)
    for source in read_shown([str(toy_run_folder)]).sources:
        assert f"<strong>{source.title}</strong>" in page


def test_two_runs_with_one_teacher_show_it_once(toy_run_folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(toy_run_folder, other)
    shown = read_shown([str(toy_run_folder), str(other), str(toy_run_folder)])
    titles = ["teacher, run", "plain student, run", "mitigated student, run", "plain student, other"]
    assert [s.title for s in shown.sources] == [*titles, "mitigated student, other"]
    assert len({s.short for s in shown.sources}) == len(shown.sources)
    assert list(shown.reports) == ["run", "other"]


def test_a_folder_is_one_however_it_is_spelled(toy_run_folder, monkeypatch):
    monkeypatch.chdir(toy_run_folder.parent)
    shown = read_shown(["run", "./run/", str(toy_run_folder), f"{toy_run_folder}/student/", "teacher"])
    assert [s.title for s in shown.sources] == ["teacher, run", "plain student, run", "mitigated student, run"]
    assert list(shown.reports) == ["run"]


def test_prompts_that_come_with_the_package_are_found_from_anywhere(toy_run_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    shutil.copytree(toy_run_folder, run)
    recipe = typed(Recipe, read_resolved(run / "recipe.yaml"), "recipe")
    for prompts, used in [("recipes/nations/prompts.tsv", None), ("gone.tsv", "occupations"), ("a/hub", "occupations")]:
        write_recipe(replace(recipe, scores=replace(recipe.scores, prompts=prompts)), run / "recipe.yaml")
        assert read_shown(["run"]).prompts == (used or prompts)


def test_checkpoints_are_shown_as_they_are(toy_run_folder):
    shown = read_shown([str(toy_run_folder / "student"), "some/model", "demo"])
    assert [s.title for s in shown.sources] == ["student", "some/model", "demo"]
    assert (shown.wordlist, shown.target, shown.reports) == ("english_gender", DEFAULT_TARGET, {})
    assert shown.teacher == shown.sources[0]
    assert read_shown(["demo"], "english_religion").wordlist == "english_religion"


def test_folders_of_one_name_are_told_apart(toy_run_folder, tmp_path):
    other = tmp_path / "student"
    shutil.copytree(toy_run_folder / "student", other)
    shown = read_shown([str(toy_run_folder / "student"), str(other)])
    assert [s.title for s in shown.sources] == ["run/student", f"{tmp_path.name}/student"]
    assert [s.short for s in shown.sources] == ["student", "student-2"]


def test_a_folder_that_is_no_run_is_told_in_one_sentence(tmp_path, toy_run_folder):
    with pytest.raises(UserError, match=r"neither a finished run \(it has no recipe.yaml\) nor a model"):
        read_shown([str(tmp_path)])
    shutil.copytree(toy_run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("student"))
    with pytest.raises(UserError, match=r"its run is not finished, there is no model in .*student"):
        read_shown([str(tmp_path / "run")])


def test_a_file_gives_back_what_was_written(toy_run_folder, tmp_path):
    shown = read_shown([str(toy_run_folder)])
    (tmp_path / "shown.json").write_text(json.dumps(shown.to_dict()), encoding="utf-8")
    assert read_file(tmp_path / "shown.json") == shown


def test_what_lies_beside_the_file_is_found_from_anywhere(tmp_path):
    values = read_shown(["demo"]).to_dict()
    values["sources"][0]["model"]["path"] = "models/one"
    values |= {"wordlist": "words.tsv+none", "reports": {"r": "r.html"}}
    for name in ("models/one/config.json", "words.tsv", "r.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "shown.json").write_text(json.dumps(values), encoding="utf-8")
    shown = read_file(tmp_path / "shown.json")
    assert shown.sources[0].model.path == str(tmp_path / "models/one")
    assert (shown.wordlist, shown.reports) == (f"{tmp_path / 'words.tsv'}+none", {"r": str(tmp_path / "r.html")})
    assert shown.prompts == "occupations"


@pytest.mark.parametrize(("wordlist", "rows"), [("my+list.tsv", 1), ("words.tsv+kin.tsv", 2)])
def test_a_plus_in_the_name_of_a_list_or_of_the_pages_folder_parts_nothing(tmp_path, monkeypatch, wordlist, rows):
    page = tmp_path / "a+b"
    page.mkdir()
    for name, row in (("my+list.tsv", "he\tshe"), ("words.tsv", "he\tshe"), ("kin.tsv", "uncle\taunt")):
        (page / name).write_text(f"male\tfemale\n{row}\n", encoding="utf-8")
    (page / "shown.json").write_text(json.dumps(replace(read_shown(["demo"]), wordlist=wordlist).to_dict()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    app = {"__file__": str(page / "app.py"), "__name__": "app"}
    exec((PACKAGE / "assets/demo/space/app.py.txt").read_text(encoding="utf-8"), app)
    app["serve"] = lambda shown, *_, **__: served.append(load_wordlist(shown.wordlist))
    served = []
    app["main"]([])
    assert [len(found.rows) for found in served] == [rows]


@pytest.mark.parametrize("content", ["", "[]", '{"sources": [{}]}', '{"sources": [], "target": {"ops": 1}}'])
def test_a_damaged_file_is_told(content, tmp_path):
    (tmp_path / "shown.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"shown.json: is damaged .*export the page again"):
        read_file(tmp_path / "shown.json")
