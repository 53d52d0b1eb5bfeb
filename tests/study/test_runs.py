"""The runs of a study: which are taken for done, and one that fails."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from shared import REPOSITORY
from study_files import PLAIN, fork_rows, rewrite, small

from distill.base.errors import UserError
from distill.run_folder import open_run
from distill.study.file import read_study, row_recipe, run_folder, shared_recipe
from distill.study.run import run_study
from distill.study.runs import _is_ready, _start


def begin(path):
    """Claim the folder of a study's first run; its study folder."""
    study = read_study(path, rows=["plain"])
    with open_run(row_recipe(study, "plain", 0)):
        return Path(study.output_dir)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"settings": {"corpus": {"max_documents": 23}}}, ["corpus.files is ['corpus-0-"]),
        ({"settings": {"teacher": {"path": "other"}}}, ["teacher.path is 'demo' there, 'other' here"]),
        ({"settings": {"trainer": {"max_steps": 3}}}, ["trainer.max_steps is 2 there, 3 here"]),
        ({"students": {"plain": {"student": {"num_layers": 1}}}}, ["plain-0", "student.num_layers is None there, 1"]),
    ],
)
def test_what_was_trained_otherwise_is_not_taken_for_done(tmp_path, changes, words):
    path = small(tmp_path)
    out = begin(path)
    before = {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*")}
    rewrite(path, **changes)
    with pytest.raises(UserError) as error:
        run_study(read_study(path, rows=["plain"]))
    assert all(word in str(error.value) for word in (*words, "--output_dir")), error.value
    assert before == {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*")}
    assert {p.name for p in out.iterdir()} == {"runs"}


def test_scores_seeds_and_the_place_of_a_study_may_change(tmp_path, monkeypatch):
    path, moved = small(tmp_path), tmp_path / "moved"
    begin(path).rename(moved)
    rewrite(path, output_dir=str(moved), seeds=[0, 1], metrics=["perplexity"], settings={"scores": {"samples": 2}})

    class NotRefused(Exception):
        pass

    def draw(*_):
        raise NotRefused

    monkeypatch.setattr("distill.study.run.make_text", draw)
    with pytest.raises(NotRefused):
        run_study(read_study(path, rows=["plain"]))


def test_an_edit_of_the_recipe_while_a_study_runs_changes_none_of_its_rows_and_scores(tmp_path, monkeypatch):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"base: {REPOSITORY / 'recipes' / 'debug.yaml'}\nblock_length: 64\n", encoding="utf-8")
    path = small(tmp_path)
    rewrite(path, recipe=str(recipe), jobs=2)
    study = read_study(path, rows=["plain"])
    expected = [row_recipe(study, "plain", 0), shared_recipe(study, 0)]
    seen = []

    def edit(*_):
        recipe.write_text(recipe.read_text(encoding="utf-8").replace("64", "half-edited: ["), encoding="utf-8")

    def look(study):
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # as several jobs are scored
            seen.append([pool.submit(row_recipe, study, "plain", 0).result(), shared_recipe(study, 0)])
        raise InterruptedError

    monkeypatch.setattr("distill.study.run.make_text", edit)
    monkeypatch.setattr("distill.study.run.train_missing", look)
    with pytest.raises(InterruptedError):
        run_study(study)
    assert seen == [expected]


def test_a_module_in_the_current_folder_is_not_taken_for_a_library(tmp_path, monkeypatch):
    """As for `distill train` there."""
    study = read_study(small(tmp_path), rows=["plain"])
    (tmp_path / "evaluate.py").write_text("raise RuntimeError('a script of my own')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert _start(study, "plain", 0).wait() == 2
    told = (Path(study.output_dir) / "logs" / "plain-0.log").read_text(encoding="utf-8")
    assert "a script of my own" not in told and "corpus-0-" in told  # its text was not drawn


def test_a_row_that_fails_is_named_with_its_log(tmp_path, monkeypatch):
    students = {
        "bad": {"corpus": {"source": "files", "files": ["no.txt"]}},
        "plain": PLAIN,
    }  # the bad one first: it ends the study
    study = read_study(small(tmp_path, teachers={}, students=students), seeds=[0])
    fork_rows(monkeypatch)
    with pytest.raises(UserError) as error:
        run_study(study)
    assert "row 'bad', seed 0" in str(error.value) and "no.txt" in str(error.value)


def test_a_row_waits_for_the_student_that_it_reads(tmp_path):
    students = {"plain": PLAIN, "second": {"teacher": {"path": "{student:plain}"}}}
    study = read_study(small(tmp_path, students=students), seeds=[0, 1])
    assert _is_ready(study, "plain", 0) and not _is_ready(study, "second", 0)
    done = run_folder(study, "plain", 0)
    done.mkdir(parents=True)
    (done / "scores.json").write_text("{}", encoding="utf-8")
    assert _is_ready(study, "second", 0) and not _is_ready(study, "second", 1)
