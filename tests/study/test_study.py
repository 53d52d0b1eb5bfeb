"""The study: its file, its statistics against plain loops, and a small one from end to end."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import yaml
from shared import REPOSITORY, TOY_TEXT
from study_results import outcome

from distill.base.errors import UserError
from distill.objective.operations import OPERATIONS
from distill.recipe import merge
from distill.run_folder import open_run
from distill.study.file import read_study, row_recipe
from distill.study.report import label, markdown
from distill.study.run import run_study
from distill.study.scores import halves
from distill.study.summary import _against, resampled_mean
from distill.text.prompts import Prompt

STUDY = REPOSITORY / "recipes" / "study.yaml"


# ----------------------------------------------------------------------------------------------------------- the file


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
    assert len(found) == len(rows) - 1
    assert {"teacher", "two_view_teacher"} == study.teachers.keys()
    assert len(study.seeds) >= 3


@pytest.mark.parametrize("path", sorted((STUDY.parent / "study").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_other_studies_are_sound(path):
    study = read_study(path, data="DATA")
    recipe = row_recipe(study, "plain", 0)
    assert recipe.trainer["max_steps"] > 0 and {"plain", "expmean-reverse-augment"} <= study.students.keys()
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


def written(tmp_path: Path, **changes) -> Path:
    values = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
    values["recipe"] = str(REPOSITORY / "recipes" / values["recipe"])
    values |= changes
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


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
        ({"students": {"plain": {}, "a/b": {}}}, ["a/b", "letters"]),
        ({"students": {"plain": {}, "teacher": {}}}, ["teacher", "twice"]),
        ({"teachers": {"two": {"op": "maxx"}}}, ["two", "maxx", "max"]),
        ({"teachers": {"two": {"opp": "max"}}}, ["two", "opp"]),
        ({"metrics": ["perplexitty"]}, ["perplexitty", "perplexity"]),
        ({"recipe": "nowhere.yaml"}, ["nowhere.yaml", "no such recipe file"]),
        ({"base": "study.yaml"}, ["study.yaml", "base", "leads back"]),
        ({"settings": {"corpus": {"files": ["{data}/a.txt"]}}}, ["{data}/a.txt", "--data"]),
        ({"settings": 3}, ["settings", "mapping", "3"]),
        ({"base": str(STUDY), "settings": None}, ["settings", "mapping", "None"]),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence(tmp_path, changes, words):
    with pytest.raises(UserError) as error:
        read_study(written(tmp_path, **changes))
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


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
    below, above = (row_recipe(read_study(file), "plain", 0).trainer for file in (path, top))
    assert above == below | {"max_steps": 7}


def test_settings_belong_to_their_recipe(tmp_path):
    path, top = written(tmp_path), tmp_path / "top.yaml"
    recipe = REPOSITORY / "recipes" / "debug.yaml"
    top.write_text(f"base: study.yaml\nrecipe: {recipe}\n", encoding="utf-8")
    assert read_study(path, rows=["plain"]).settings
    assert read_study(top).settings == {}
    top.write_text(f"base: study.yaml\nrecipe: {recipe}\nsettings: {{trainer: {{max_steps: 7}}}}\n", encoding="utf-8")
    assert read_study(top).settings == {"trainer": {"max_steps": 7}}


def test_rows_can_be_chosen(tmp_path):
    path = written(tmp_path)
    assert list(read_study(path, rows=["max", "plain"]).students) == ["plain", "max"]
    with pytest.raises(UserError, match="holds no student 'maxx'; did you mean 'max'"):
        read_study(path, rows=["plain", "maxx"])


# --------------------------------------------------------------------------------------------------------- statistics


def test_draws_over_seeds_and_units_as_a_plain_loop_makes_them():
    rng = np.random.default_rng(5)
    outcomes = [outcome(v, rng.normal(v, 0.1, size=40)) for v in (0.2, -0.5, 0.9)]
    for absolute in (False, True):
        mean, drawn = resampled_mean(outcomes, absolute, draws=300)
        size = abs if absolute else float
        assert mean == pytest.approx(sum(size(v) for v in (0.2, -0.5, 0.9)) / 3)
        again = np.random.default_rng(0)
        seeds, places = again.integers(3, size=(300, 3)), again.random(size=(300, 3))
        for row in range(300):
            of_row = [size(outcomes[s].drawn[int(p * 40)]) for s, p in zip(seeds[row], places[row], strict=True)]
            assert drawn[row] == pytest.approx(sum(of_row) / 3)


def test_the_interval_is_as_wide_as_seeds_and_units_together():
    """Seeds spread by 1, units by 1: the variance of the mean over S seeds is near (1 + 1) / S."""
    rng = np.random.default_rng(1)
    outcomes = [outcome(v, v + rng.normal(size=500)) for v in rng.normal(size=200)]
    _, drawn = resampled_mean(outcomes, False, draws=4000)
    assert drawn.std() == pytest.approx((2 / 200) ** 0.5, rel=0.15)


def test_a_row_does_not_differ_from_itself():
    rng = np.random.default_rng(2)
    outcomes = [outcome(v, rng.normal(v, 0.3, size=50)) for v in (1.0, 2.0)]
    against = _against(outcomes, outcomes)
    assert against["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert against["ratio"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_pairing_takes_out_what_two_rows_share():
    rng = np.random.default_rng(3)
    noise = [rng.normal(size=50) for _ in range(3)]
    plain = [outcome(10 + s, 10 + s + noise[s]) for s in range(3)]
    half = [outcome((10 + s) / 2, (10 + s + noise[s]) / 2) for s in range(3)]
    ratio = _against(half, plain)["ratio"]
    assert (ratio["value"], ratio["low"], ratio["high"]) == pytest.approx((0.5, 0.5, 0.5))


def test_what_is_undefined_for_a_seed_is_undefined():
    outcomes = [outcome(1.0, [1.0, 1.1]), outcome(None)]
    assert resampled_mean(outcomes, False)[0] is None
    assert _against(outcomes, outcomes)["ratio"] == {"value": None, "low": None, "high": None}
    assert resampled_mean([outcome(1.0), outcome(3.0)], False)[0] == 2.0  # a value without an interval
    assert not len(resampled_mean([outcome(1.0), outcome(3.0)], False)[1])


def test_halves_share_no_occupation_and_leave_no_prompt_out():
    prompts = [Prompt(f"{subject} {n}", "g", subject) for n in range(3) for subject in ("a", "b", "c", "d", "e")]
    parts = halves(prompts)
    subjects = {half: {prompts[place].subject for place in places} for half, places in parts.items()}
    assert subjects == {"chosen": {"a", "c", "e"}, "held_out": {"b", "d"}}
    assert sorted(place for places in parts.values() for place in places) == list(range(len(prompts)))


def test_labels_name_half_and_text():
    assert label("perplexity") == "perplexity"
    assert label("next_word_disparity_held_out") == "next-word disparity, held out"
    assert label("bits_per_byte_fiction") == "bits per byte, fiction"


# --------------------------------------------------------------------------------------------------- from end to end


def small(tmp_path: Path, **changes) -> Path:
    return written(
        tmp_path,
        output_dir=str(tmp_path / "out"),
        recipe=str(REPOSITORY / "recipes" / "debug.yaml"),
        settings={
            "corpus": {"max_documents": 24},
            "held_out": {"max_documents": 12},
            "trainer": {"max_steps": 2, "save_steps": 1},
            "scores": {"max_prompts": 6, "samples": 1, "max_new_tokens": 4, "bootstrap": 50},
        },
        seeds=[0],
        metrics=["next_word_disparity", "generation_disparity", "perplexity", "crows_pairs"],
        half_metrics=["next_word_disparity", "neutral_rate"],
        text_metrics=["perplexity"],
        texts={"letters": "letters.jsonl"},
        **changes,
    )


def test_a_small_study_from_end_to_end(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    (data / "letters.jsonl").write_text('{"text": "My dear sister, she was late."}\n' * 3, encoding="utf-8")
    study = read_study(small(tmp_path), rows=["plain", "expmean-reverse", "no_teacher"], data=str(data))
    results = run_study(study, "distill study small.yaml")
    out = tmp_path / "out"
    assert json.loads((out / "study.json").read_text(encoding="utf-8")) == results
    rows = {row["name"]: row for row in results["rows"]}
    assert list(rows) == ["teacher", "two_view_teacher", "no_teacher", "plain", "expmean-reverse"]
    assert rows["no_teacher"]["setting"] is None
    assert rows["expmean-reverse"]["setting"] == {
        "op": "expmean", "augment": False, "reverse_roles": True, "strength": 1.0,
    }  # fmt: skip
    for row in rows.values():
        metrics = row["metrics"]
        assert metrics["perplexity"]["value"] > 1
        assert metrics["perplexity_letters"]["value"] > 1
        assert metrics["crows_pairs_gender"]["value"] is None
        assert "crows_pairs" in metrics["crows_pairs_gender"]["reason"]
        parts = [metrics[f"next_word_disparity_{half}"] for half in ("chosen", "held_out")]
        assert sum(part["n"] for part in parts) == metrics["next_word_disparity"]["n"] == 6
    # Without training: even where the teacher is not.
    assert rows["two_view_teacher"]["metrics"]["next_word_disparity"]["value"] < 1e-4
    assert rows["teacher"]["metrics"]["next_word_disparity"]["value"] > 0.1
    assert rows["plain"]["against_plain"] == {}
    assert rows["teacher"]["against_plain"]["perplexity"]["ratio"]["value"] < 1
    text = (out / "study.md").read_text(encoding="utf-8")
    assert text == markdown(results)
    assert "| expmean-reverse |" in text and "crows_pairs" in text
    # Rows of a seed read the same text, and a second call trains and writes nothing anew.
    before = {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*.safetensors")}
    assert len(before) >= 3
    monkeypatch.setattr("distill.study.runs._start", None)
    assert run_study(study, "distill study small.yaml") == results
    assert before == {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*.safetensors")}
    # How it was made, and a figure beside the numbers.
    made = results["made"]
    assert made["command"] == "distill study small.yaml"
    assert re.fullmatch(r"[0-9a-f]{7,}(-dirty)?|version \S+", made["commit"])
    assert made["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert made["hours"].keys() == {"text", "training", "scoring"}
    assert made["hours"]["training"]["processor"] > 0.001
    pairs = [(pair["row"], pair["against"]) for pair in results["reverse_roles"]]
    assert pairs == []  # the same without reversal was not asked for
    labels = {t.text for t in ElementTree.fromstring((out / "pareto.svg").read_text(encoding="utf-8")).iter()}
    assert {"teacher", "two_view_teacher", "plain", "expmean-reverse"} <= labels
    assert not list(out.rglob("*.partial"))


def begin(path):
    """Claim the folder of a study's first run; its study folder."""
    study = read_study(path, rows=["plain"])
    with open_run(row_recipe(study, "plain", 0)):
        return Path(study.output_dir)


def rewrite(path, **changes):
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(merge(values, changes)), encoding="utf-8")


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
    assert {p.name for p in out.iterdir()} == {"runs", ".lock"}


def test_scores_seeds_and_the_place_of_a_study_may_change(tmp_path, monkeypatch):
    path, moved = small(tmp_path), tmp_path / "moved"
    begin(path).rename(moved)
    rewrite(path, output_dir=str(moved), seeds=[0, 1], metrics=["perplexity"], settings={"scores": {"samples": 2}})

    class NotRefused(Exception):
        pass

    def draw(*_):
        raise NotRefused

    monkeypatch.setattr("distill.study.runs.make_text", draw)
    with pytest.raises(NotRefused):
        run_study(read_study(path, rows=["plain"]))


def test_a_folder_has_one_study_at_a_time(tmp_path):
    study = read_study(small(tmp_path), rows=["plain"])
    folder = Path(study.output_dir)
    folder.mkdir()
    code = "import pathlib, sys; from distill.run_folder import lock; lock(pathlib.Path(sys.argv[1])); print('locked')"
    code += "; sys.stdout.flush(); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(UserError, match=f"in use by a run that is still going on .process {other.pid}"):
            run_study(study)
        other.stdin.close()


def test_held_out_text_may_come_from_files_where_the_corpus_is_drawn(tmp_path):
    path = small(tmp_path)
    rewrite(path, settings={"held_out": {"source": "files", "files": ["held-out.txt"]}})
    recipe = row_recipe(read_study(path), "plain", 0)
    assert recipe.held_out.files == ["held-out.txt"]
    (drawn,) = recipe.corpus.files
    assert re.fullmatch(r"corpus-0-[0-9a-f]{8}\.jsonl", Path(drawn).name)


@pytest.mark.slow
def test_seeds_and_rows_can_be_added_and_jobs_change_nothing(tmp_path):
    path = small(tmp_path)
    first = run_study(read_study(path, rows=["plain"], seeds=[0]))
    out = tmp_path / "out"
    there = {p: p.stat().st_mtime_ns for part in ("runs", "text") for p in (out / part).rglob("*.*") if p.is_file()}
    more = run_study(read_study(path, rows=["plain", "mean"], seeds=[0, 1], jobs=2))
    assert there == {p: p.stat().st_mtime_ns for p in there}
    assert {p.name for p in (out / "runs").iterdir()} == {"plain-0", "plain-1", "mean-0", "mean-1"}
    of_first, of_more = (next(r for r in results["rows"] if r["name"] == "plain") for results in (first, more))
    for metric, entry in of_first["metrics"].items():
        assert of_more["metrics"][metric]["per_seed"][0] == entry["per_seed"][0]
    assert more["made"]["hours"]["training"]["wall"] > first["made"]["hours"]["training"]["wall"]
    shutil.rmtree(out / "cache" / "scores")
    again = run_study(read_study(path, rows=["plain", "mean"], seeds=[0, 1]))
    assert again["rows"] == more["rows"]


def test_a_row_that_fails_is_named_with_its_log(tmp_path):
    students = {"plain": {}, "bad": {"student": {"num_layers": 99}}}
    study = read_study(small(tmp_path, teachers={}, students=students), seeds=[0])
    with pytest.raises(UserError) as error:
        run_study(study)
    assert "row 'bad', seed 0" in str(error.value) and "num_layers is 99" in str(error.value)


@pytest.mark.slow
def test_a_killed_study_goes_on(tmp_path):
    path = small(tmp_path)
    command = [sys.executable, "-m", "distill.cli", "study", str(path), "--rows", "plain,max", "--json"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    whole = subprocess.run([*command, "--output_dir", str(tmp_path / "whole")], env=environment, capture_output=True)
    assert whole.returncode == 0, whole.stderr.decode()
    command += ["--jobs", "2"]
    for said in ("sampling text", "training max", "scoring", "scored teacher"):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert any(said in line for line in process.stderr), said
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    ours, theirs = (json.loads(text) for text in (done.stdout, whole.stdout))
    assert ours["rows"] == theirs["rows"]
    assert ours["made"]["command"] == "distill study study.yaml --rows plain,max --jobs 2"


# ------------------------------------------------------------------------------------------------------ real teachers

REDUCED = {
    "block_length": 64,
    "trainer": {
        "max_steps": 2,
        "save_steps": 2,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "dataloader_num_workers": 0,
    },
    "corpus": {"max_documents": 40},
    "held_out": {"max_documents": 4},
    "scores": {"max_prompts": 4, "max_new_tokens": 4, "bootstrap": 20},
}


def reduced(name: str, tmp_path: Path, **settings) -> Path:
    """A study of recipes/study/, with a few steps on a few texts."""
    values = {
        "base": str(STUDY.parent / "study" / f"{name}.yaml"),
        "output_dir": str(tmp_path / "out"),
        "seeds": [0],
        "teachers": {"teacher": {}},
        "settings": merge(REDUCED, settings),
        "metrics": ["next_word_disparity", "generation_disparity", "perplexity"],
        "half_metrics": ["next_word_disparity"],
        "texts": {},
    }
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def finished(study, layers: int):
    """The results of a study that has run, of all its rows."""
    from transformers import AutoConfig

    results = run_study(study)
    assert {"plain", "expmean-reverse-augment"} <= study.students.keys()
    assert [row["name"] for row in results["rows"]] == ["teacher", *study.students]
    for row in results["rows"]:
        assert row["metrics"]["perplexity"]["value"] > 1
        assert row["metrics"]["next_word_disparity"]["value"] >= 0
    for row in study.students:
        student = Path(study.output_dir) / "runs" / f"{row}-0" / "student"
        assert AutoConfig.from_pretrained(student).num_hidden_layers == layers
    return results


@pytest.fixture
def smollm2():
    folder = os.environ.get("DISTILL_SMOLLM2")
    if folder is None:
        pytest.skip("DISTILL_SMOLLM2 names no folder with SmolLM2-135M")
    return {"path": folder}


@pytest.mark.slow
def test_the_study_of_smollm2_runs(tmp_path, shared_data, smollm2):
    data = shared_data("corpus", "gutenberg_fiction.train.jsonl.xz").parent.parent
    path = reduced("smollm2", tmp_path, teacher=smollm2)
    finished(read_study(path, data=str(data)), layers=15)


@pytest.mark.slow
def test_a_copy_that_learns_what_it_knows_stays_its_teacher(tmp_path, shared_data, smollm2):
    data = shared_data("corpus", "gutenberg_fiction.train.jsonl.xz").parent.parent
    path = reduced("smollm2-self", tmp_path, teacher=smollm2, student=smollm2)
    results = finished(read_study(path, data=str(data)), layers=30)
    teacher, plain, mitigated = (row["metrics"]["perplexity"]["value"] for row in results["rows"])
    assert teacher == pytest.approx(plain, rel=1e-6)
    assert mitigated != pytest.approx(teacher, rel=1e-6)


@pytest.mark.slow
def test_the_study_of_gpt2_runs(tmp_path, shared_data):
    """With GPT-2's tokenizer and size, random weights, and texts in the place of the hub's."""
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    teacher = tmp_path / "teacher"
    tokenizer = GPT2TokenizerFast.from_pretrained(shared_data("gpt2_tokenizer", "vocab.json").parent)
    tokenizer.save_pretrained(teacher)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(teacher)
    text = tmp_path / "text.jsonl"
    text.write_text(json.dumps({"text": TOY_TEXT}) + "\n" + json.dumps({"text": TOY_TEXT}) + "\n", encoding="utf-8")
    files = {"source": "files", "files": [str(text)], "document_start": None}
    path = reduced(
        "gpt2",
        tmp_path,
        teacher={"path": str(teacher)},
        corpus=files,
        held_out=files,
        scores={"prompts": "occupations"},
    )
    finished(read_study(path), layers=6)
