"""A small study from end to end, and (slow) killed, grown, and of real teachers."""

import json
import lzma
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
import yaml
from shared import TOY_TEXT
from study_files import STUDY, fork_rows, small

from distill.base.errors import UserError
from distill.metrics import METRICS, cards
from distill.models.loading import load_model
from distill.recipe import merge
from distill.study.file import read_study
from distill.study.made import children_seconds
from distill.study.report import markdown
from distill.study.run import run_study


@pytest.fixture(scope="module")
def finished_study(tmp_path_factory):
    """A study of two teachers and three students that has run, and what it gave; tests of this file share it."""
    folder = tmp_path_factory.mktemp("study")
    data = folder / "data"
    data.mkdir()
    (data / "letters.jsonl").write_text('{"text": "My dear sister, she was late."}\n' * 20, encoding="utf-8")
    study = read_study(small(folder), rows=["plain", "expmean-reverse", "no_teacher"], data=str(data))
    with pytest.MonkeyPatch.context() as patch:
        fork_rows(patch)
        before = children_seconds()
        results = run_study(study, "distill study small.yaml")
    return study, results, children_seconds() - before


def test_a_small_study_from_end_to_end(finished_study):
    study, results, _ = finished_study
    out = Path(study.output_dir)
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
    pairs = [(pair["row"], pair["against"]) for pair in results["reverse_roles"]]
    assert pairs == []  # the same without reversal was not asked for
    assert not list(out.rglob("*.partial"))


def test_a_study_leaves_a_page_and_a_figure_beside_the_numbers(finished_study):
    study, results, _ = finished_study
    out = Path(study.output_dir)
    text = (out / "study.md").read_text(encoding="utf-8")
    assert text == markdown(results)
    assert "| expmean-reverse |" in text and "crows_pairs" in text
    labels = {t.text for t in ElementTree.fromstring((out / "pareto.svg").read_text(encoding="utf-8")).iter()}
    assert {"teacher", "two_view_teacher", "plain", "expmean-reverse"} <= labels


def test_a_study_tells_how_it_was_made(finished_study):
    study, results, of_children = finished_study
    made = results["made"]
    assert made["command"] == "distill study small.yaml"
    assert re.fullmatch(r"[0-9a-f]{7,}(-dirty)?|version \S+", made["commit"])
    assert 1 <= made["machine"]["cores"] <= len(os.sched_getaffinity(0))  # a quota may allow fewer than are there
    assert made["hours"].keys() == {"text", "training", "scoring"}
    spent = json.loads((Path(study.output_dir) / "seconds.json").read_text(encoding="utf-8"))
    assert spent["training"]["processor"] == pytest.approx(of_children, abs=0.2) and of_children > 0.5
    for part, seconds in spent.items():
        assert made["hours"][part] == {of: pytest.approx(each / 3600, abs=0.0005) for of, each in seconds.items()}


def test_a_second_call_trains_and_writes_nothing_anew(finished_study, monkeypatch):
    """Rows of a seed read the same text."""
    study, results, _ = finished_study
    runs = Path(study.output_dir) / "runs"
    before = {p: p.stat().st_mtime_ns for p in runs.rglob("*.safetensors")}
    assert len(before) >= 3
    monkeypatch.setattr("distill.study.runs._start", None)
    assert run_study(study, "distill study small.yaml") == results
    assert before == {p: p.stat().st_mtime_ns for p in runs.rglob("*.safetensors")}


def test_a_checkpoint_from_elsewhere_stands_beside(finished_study):
    """Here it is the study's own teacher, by its path, so that nothing is measured anew."""
    study, before, _ = finished_study
    results = run_study(replace(study, teachers={**study.teachers, "elsewhere": {"path": "demo"}}))
    rows = {row["name"]: row for row in results["rows"]}
    assert list(rows) == ["teacher", "two_view_teacher", "elsewhere", "no_teacher", "plain", "expmean-reverse"]
    assert rows["elsewhere"]["setting"] is None
    assert rows["elsewhere"]["metrics"] == rows["teacher"]["metrics"] == before["rows"][0]["metrics"]
    assert "elsewhere" in markdown(results)
    with pytest.raises(UserError, match="nowhere"):
        run_study(replace(study, teachers={"elsewhere": {"path": "./nowhere"}}))


def test_the_rivals_stand_in_one_table_with_what_they_cost(tmp_path, monkeypatch):
    """`rivals.yaml` for two steps: each row is a checkpoint as any other, or decodes as any other model."""
    fork_rows(monkeypatch)
    rivals = yaml.safe_load((STUDY.parent / "study" / "rivals.yaml").read_text(encoding="utf-8"))
    for module in ("study.costs", "scoring.speed"):  # which take most of the time
        monkeypatch.setattr(f"distill.{module}.tokens_per_second", lambda model, tokenizer: 500.0)
    teachers = {name: rivals["teachers"][name] for name in ("teacher", "self_debiasing_plain")}
    path = small(tmp_path, students=rivals["students"], teachers=teachers, costs=rivals["costs"])
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values |= {"metrics": ["perplexity"], "half_metrics": [], "text_metrics": [], "texts": {}}
    values["settings"]["scores"]["probe_steps"] = 0
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    study = read_study(path, rows=["plain", "start", "cda", "pairing", "projection"])
    rows = {row["name"]: row for row in run_study(study)["rows"]}
    assert list(rows) == [*teachers, "plain", "start", "cda", "pairing", "projection"]
    perplexities = {name: row["metrics"]["perplexity"]["value"] for name, row in rows.items()}
    assert len(set(perplexities.values())) == len(rows) and min(perplexities.values()) > 1
    assert rows["cda"]["setting"] is rows["self_debiasing_plain"]["setting"] is None
    costs = {name: row["costs"] for name, row in rows.items()}
    assert all(of_row["token_seconds"] == 0.002 for of_row in costs.values())
    training = {name: of_row["training_seconds"] for name, of_row in costs.items()}
    assert training["teacher"] is None
    assert training["self_debiasing_plain"] == training["plain"] < training["projection"]
    assert costs["projection"]["step_seconds"] is None and costs["cda"]["step_seconds"] > 0
    folder = Path(study.output_dir) / "runs"
    parts = {}
    for name in study.students:
        log = json.loads((folder / f"{name}-0" / "training" / "student.json").read_text(encoding="utf-8"))
        parts[name] = {key for entry in log["history"] for key in entry if key.startswith("loss_")}
    assert parts == {"plain": {"loss_kd"}, "start": set(), "cda": {"loss_ce"}, "projection": set(),
                     "pairing": {"loss_kd", "loss_pairing"}}  # fmt: skip
    plain, start, cda, projection = (load_model(str(folder / f"{row}-0" / "student"))
                                     for row in ("plain", "start", "cda", "projection"))  # fmt: skip
    # Every student begins where they all do, and the projection is plain's but for its head.
    assert all(torch.equal(weight, projection.get_parameter(name)) for name, weight in plain.named_parameters())
    assert not torch.equal(projection.lm_head.weight, plain.lm_head.weight)
    moved = [(model.transformer.wte.weight - start.transformer.wte.weight).abs().max() for model in (plain, cda)]
    assert min(moved) > 0 and max(moved) < 0.05


def test_a_mistake_leaves_no_folder_and_a_file_in_its_place_is_named(tmp_path):
    study = read_study(small(tmp_path), data=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere is no folder"):
        run_study(study)
    assert not Path(study.output_dir).exists()
    Path(study.output_dir).write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"out: cannot be written \(.*exists\); choose another --output_dir"):
        run_study(replace(study, data=None))


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
        with pytest.raises(UserError, match=f"in use by a run that has not ended .process {other.pid}"):
            run_study(study)
        other.stdin.close()


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
    "held_out": {"max_documents": 8},  # of fewer than five nothing can be told
    "scores": {"max_prompts": 8, "max_new_tokens": 4, "bootstrap": 20},
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
    assert "plain" in study.students and any("expmean-reverse" in row for row in study.students)
    assert [row["name"] for row in results["rows"]] == ["teacher", *study.students]
    for row in results["rows"]:
        assert row["metrics"]["perplexity"]["value"] > 1
        after_prompts = row["metrics"]["next_word_disparity"]
        if after_prompts["value"] is None:  # random weights, and two steps, give listed words too little
            assert "listed words hold" in after_prompts["instead"]
        else:
            assert after_prompts["value"] >= 0
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
@pytest.mark.timeout(1800)
def test_the_study_of_smollm2_runs(tmp_path, shared_data, smollm2):
    data = shared_data("corpus", "gutenberg_fiction.train.jsonl.xz").parent.parent
    path = reduced("smollm2", tmp_path, teacher=smollm2)
    finished(read_study(path, data=str(data)), layers=15)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_copy_that_learns_what_it_knows_stays_its_teacher(tmp_path, shared_data, smollm2):
    data = shared_data("corpus", "gutenberg_fiction.train.jsonl.xz").parent.parent
    path = reduced("smollm2-self", tmp_path, teacher=smollm2, student=smollm2)
    results = finished(read_study(path, data=str(data)), layers=30)
    teacher, plain, *mitigated = (row["metrics"]["perplexity"]["value"] for row in results["rows"])
    assert teacher == pytest.approx(plain, rel=1e-6)
    assert len({teacher, *mitigated}) == 3


def random_gpt2(tmp_path, shared_data, **size) -> str:
    """A folder with GPT-2's tokenizer and, but for `size`, its configuration, and random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    teacher = tmp_path / "teacher"
    tokenizer = GPT2TokenizerFast.from_pretrained(shared_data("gpt2_tokenizer", "vocab.json").parent)
    tokenizer.save_pretrained(teacher)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(**size)).save_pretrained(teacher)
    return str(teacher)


def some_texts(folder: Path) -> dict[str, object]:
    """A corpus of eight texts, in the place of the hub's."""
    text = folder / "text.jsonl"
    text.write_text((json.dumps({"text": TOY_TEXT}) + "\n") * 8, encoding="utf-8")
    return {"source": "files", "files": [str(text)], "document_start": None}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_study_of_gpt2_runs(tmp_path, shared_data):
    """With GPT-2's tokenizer and size, random weights, and texts in the place of the hub's."""
    teacher = random_gpt2(tmp_path, shared_data)
    files = some_texts(tmp_path)
    path = reduced(
        "gpt2",
        tmp_path,
        teacher={"path": teacher},
        corpus=files,
        held_out=files,
        scores={"prompts": "occupations"},
    )
    finished(read_study(path), layers=6)


def few_of_each(folder: Path, shared_data) -> Path:
    """A folder of data with BOLD's prompts and SEAT's sentences, and the first few of each larger benchmark."""
    data = shared_data("bold", "prompts", "profession_prompt.json").parent.parent.parent
    for name in ("bbq", "crows_pairs", "stereoset"):
        (folder / name).mkdir(parents=True)
    for name in ("bold", "seat"):
        (folder / name).symlink_to(data / name)
    for path in (data / "bbq").glob("*.jsonl.xz"):
        with lzma.open(path, "rt", encoding="utf-8") as stream:
            (folder / "bbq" / path.stem).write_text("".join(islice(stream, 16)), encoding="utf-8")
    with (data / "crows_pairs" / "crows_pairs_anonymized.csv").open(encoding="utf-8", newline="") as stream:
        (folder / "crows_pairs" / "crows_pairs_anonymized.csv").write_text("".join(islice(stream, 40)), "utf-8")
    triples = json.loads((data / "stereoset" / "dev.json").read_text(encoding="utf-8"))
    few = {entry["id"] for entry in triples["stereotype"][::500]}
    kept = {label: [entry for entry in entries if entry["id"] in few] for label, entries in triples.items()}
    (folder / "stereoset" / "dev.json").write_text(json.dumps(kept), encoding="utf-8")
    return folder


def reduced_protocol(tmp_path: Path, shared_data, model: str) -> Path:
    """The paper's protocol for a few steps: one model in the place of all three, made-up word vectors, all metrics."""
    data = few_of_each(tmp_path / "data", shared_data)
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("he 1 0\nshe 0 1\nhim 1 0\nher 0 1\nthe 1 1\n", encoding="utf-8")
    files = some_texts(tmp_path)
    scores = {"prompts": str(data / "bold" / "prompts"), "word_vectors": str(vectors), "samples": 2}
    path = reduced("paper", tmp_path, teacher={"path": model}, corpus=files, held_out=files, scores=scores)
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    del values["settings"]["scores"]["max_new_tokens"]  # its own: 100 tokens with the prompt
    steps = {"trainer": REDUCED["trainer"]}  # rows have their own
    of_paper = yaml.safe_load((STUDY.parent / "study" / "paper.yaml").read_text(encoding="utf-8"))
    protocol = of_paper["students"]
    values["students"] = {
        "plain": protocol["plain"],
        "medium-expmean-augment": protocol["medium-expmean-augment"]
        | {"teacher": {"path": model}, "against": None}
        | steps,
        "finetuned-expmean-reverse-augment": protocol["finetuned-expmean-reverse-augment"]
        | {"student": {"init": "checkpoint", "path": model}, "against": "teacher"}
        | steps,
    }
    values["teachers"] = {"teacher": {}, "elsewhere": {"path": model}}
    values["metrics"] = of_paper["metrics"]
    values["half_metrics"] = []
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def protocol_results(path: Path) -> None:
    study = read_study(path, data=str(path.parent / "data"))
    rows = {row["name"]: row for row in run_study(study)["rows"]}
    assert list(rows) == ["teacher", "elsewhere", *study.students]
    for row in rows.values():
        metrics = row["metrics"]
        assert metrics["perplexity"]["value"] > 1
        assert metrics["gender_max_ratio_mean"]["n"] == metrics["fairness_ratio_mean"]["n"] == 16  # 2 of each prompt
        for name in study.metrics:
            # What two steps teach writes too few polar words for a ratio.
            assert any(metrics[card.name]["n"] > 0 for card in cards(METRICS[name])), name
    assert rows["elsewhere"]["metrics"]["perplexity"] == rows["teacher"]["metrics"]["perplexity"]
    assert rows["plain"]["metrics"]["perplexity"] != rows["teacher"]["metrics"]["perplexity"]
    assert rows["medium-expmean-augment"]["against"] == {"row": None, "metrics": {}}
    assert rows["finetuned-expmean-reverse-augment"]["against"]["row"] == "teacher"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_papers_protocol_runs_with_random_weights_of_gpt2(tmp_path, shared_data):
    model = random_gpt2(tmp_path, shared_data, n_layer=2)
    protocol_results(reduced_protocol(tmp_path, shared_data, model))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_papers_protocol_runs_with_smollm2(tmp_path, shared_data, smollm2):
    protocol_results(reduced_protocol(tmp_path, shared_data, smollm2["path"]))
