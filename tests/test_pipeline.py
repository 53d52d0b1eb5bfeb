"""The whole job, on a language whose bias is known, and under kills."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import forked
import pytest
import synthetic
import torch
from chat_templates import chat_tokenizer
from launched import ENVIRONMENT
from safetensors.torch import load_file
from shared import REPOSITORY
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill import cli
from distill.base import console
from distill.train import main

ENTRY = str(REPOSITORY / "distill" / "train.py")


def run(*arguments: str) -> None:
    done = forked.run(*arguments)
    assert done.returncode == 0, done.stderr[-3000:]


def run_script(*arguments: str) -> subprocess.CompletedProcess:
    """As a user starts it, in a Python of its own."""
    return subprocess.run(
        [sys.executable, ENTRY, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=550
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(folder of the language, folder of its teacher), trained once by the pipeline itself."""
    folder = tmp_path_factory.mktemp("synthetic")
    done = run_script("--config", synthetic.write_teacher_recipe(folder, folder / "teacher-run"))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, folder / "teacher-run" / "student"


def test_known_bias_is_reproduced_plainly_and_mitigated(world, tmp_path):
    folder, teacher = world
    output = tmp_path / "run"
    run("--config", synthetic.write_student_recipe(folder, teacher, output))
    for name in (
        "recipe.yaml",
        "scores.json",
        "report.md",
        "report.html",
        "student",
        "baseline",
        "student/README.md",
        "student/generation_config.json",
        "student/tokenizer.json",
        "student/model.safetensors",
    ):
        assert (output / name).exists(), name

    def shares(path):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
        return {s: synthetic.share_of_she(model, tokenizer, s) for s in [*synthetic.P_SHE, *synthetic.AGREE]}

    plain, mitigated = shares(output / "baseline"), shares(output / "student")
    for subject, known in synthetic.P_SHE.items():
        assert plain[subject] == pytest.approx(known, abs=0.06), subject
        assert mitigated[subject] == pytest.approx(0.5, abs=0.1), subject
    for kept in (plain, mitigated):  # pronouns still agree with a king or a queen
        assert kept["queen"] > 0.95
        assert kept["king"] < 0.05

    models = json.loads((output / "scores.json").read_text())["models"]
    assert set(models) == {"teacher", "baseline", "student"}
    for of_model in models.values():
        for metric in ("perplexity", "corpus_disparity", "next_word_disparity"):
            assert {"value", "low", "high", "n"} <= set(of_model[metric])
    # The metric says the same as the shares just read off the model, for the same three prompts.
    for name, of_model in (("baseline", plain), ("student", mitigated)):
        known = sum(abs(math.log(of_model[s] / (1 - of_model[s]))) for s in synthetic.P_SHE) / len(synthetic.P_SHE)
        assert models[name]["next_word_disparity"]["value"] == pytest.approx(known, rel=0.1, abs=0.03)


def start(*arguments: str) -> int:
    """Begin a run, in a process group of its own; the process id."""

    def work() -> int:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        forked.write_to(nowhere, nowhere)
        return console.run_entry(main, arguments)

    return forked.fork(work)


STREAM = ("--corpus.pack", "while_training", "--corpus.shuffle_buffer", "300", "--trainer.dataloader_num_workers", "2")


@pytest.mark.parametrize(
    ("seed", "options"),
    # test_kills.py has one by default, of a shorter run.
    [pytest.param(*case, marks=pytest.mark.slow) for case in ((0, ()), (1, ()), (2, ()), (0, STREAM))],
    ids=["0", "1", "2", "stream"],
)
def test_a_killed_run_ends_as_if_it_had_not_been(world, tmp_path, seed, options):
    """SIGKILL at a random optimizer step, the same command again: the same student, bit for bit."""
    folder, teacher = world
    settings = {"max_steps": 40, "save_steps": 5}
    run("--config", synthetic.write_student_recipe(folder, teacher, tmp_path / "whole", **settings), *options)

    step = random.Random(seed).randrange(5, 40)
    recipe = synthetic.write_student_recipe(folder, teacher, tmp_path / "killed", **settings)
    process = start("--config", recipe, *options)
    checkpoints = tmp_path / "killed" / "checkpoints" / "student"
    deadline = time.monotonic() + 300
    # The baseline is trained first; wait until the student has passed its checkpoint before `step`, then pull the plug.
    while not any(int(p.name.split("-")[1]) >= step - step % 5 for p in checkpoints.glob("checkpoint-*")):
        assert os.waitpid(process, os.WNOHANG) == (0, 0), "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    assert not (tmp_path / "killed" / "student").exists()

    run("--config", recipe, *options)
    for name in ("student", "baseline"):
        want, got = (load_file(tmp_path / run_name / name / "model.safetensors") for run_name in ("whole", "killed"))
        assert all(torch.equal(want[key], got[key]) for key in want), name
    scores = [json.loads((tmp_path / r / "scores.json").read_text()) for r in ("whole", "killed")]
    assert scores[0]["models"]["student"]["perplexity"] == scores[1]["models"]["student"]["perplexity"]


def test_a_finished_run_is_not_trained_again(world, tmp_path):
    folder, teacher = world
    recipe = synthetic.write_student_recipe(folder, teacher, tmp_path / "run", max_steps=2, save_steps=2)
    run("--config", recipe)
    weights = tmp_path / "run" / "student" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    run("--config", recipe)
    assert weights.stat().st_mtime_ns == before


def test_clients_distil_both_students(world, tmp_path):
    folder, teacher = world
    recipe = synthetic.write_student_recipe(folder, teacher, tmp_path / "run", max_steps=-1)
    run("--config", recipe, *(f"--federation.{key}={value}" for key, value in
                              {"clients": 2, "rounds": 2, "local_steps": 1, "watch": "[]"}.items()))  # fmt: skip
    for name in ("student", "baseline"):
        rounds = json.loads((tmp_path / "run" / "federation" / f"{name}.json").read_text())
        assert [of_round["used"] for of_round in rounds] == [[0, 1], [0, 1]]
        AutoModelForCausalLM.from_pretrained(tmp_path / "run" / name)


@pytest.mark.parametrize("merge", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_run_with_an_adapter_over_the_teachers_own_weights(world, tmp_path, merge):
    pytest.importorskip("peft", reason="needs the extra lora")
    folder, teacher = world
    recipe = synthetic.write_student_recipe(folder, teacher, tmp_path / "run", max_steps=3, save_steps=2)
    adapter = ("--student.init", "teacher", "--student.num_layers", "null", "--student.lora.r", "2")
    run("--config", recipe, *adapter, "--student.lora.merge", str(merge))
    models = json.loads((tmp_path / "run" / "scores.json").read_text())["models"]
    assert len({models[name]["perplexity"]["value"] for name in ("teacher", "baseline", "student")}) == 3
    for name in ("student", "baseline"):
        assert (tmp_path / "run" / name / "adapter_config.json").exists() != merge
        AutoModelForCausalLM.from_pretrained(tmp_path / "run" / name)


def test_an_audited_run_says_what_its_students_remember(world, tmp_path):
    """A student learns codes by heart that its teacher never saw; `distill score` finds the same."""
    folder, teacher = world
    output = tmp_path / "run"
    drawn = synthetic.sentences(600, seed=5)
    texts = [" ".join(drawn[first : first + 4]) for first in range(0, 600, 4)]  # all of them different
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = synthetic.write_student_recipe(folder, teacher, output)
    audit = ["--audit.canaries", "10", "--audit.repeats", "[16]", "--audit.members", "40", "--loss.ce", "4"]
    audit += ["--baseline", "false", "--held_out.max_documents", "20", "--corpus.files", f'["{tmp_path}/texts.jsonl"]']
    run("--config", config, *audit)
    scores = json.loads((output / "scores.json").read_text())
    teachers, students = (scores["models"][name]["canary_exposure_bits"] for name in ("teacher", "student"))
    assert students["value"] > teachers["value"] + 2
    assert {often: of["n"] for often, of in students["details"]["repeats"].items()} == {"0": 5, "16": 5}
    details = scores["models"]["student"]["membership_excess_auc"]["details"]
    assert (details["members"], details["others"], details["reference"]) == (40, 40, "yes")
    assert "is the reference" in scores["models"]["teacher"]["membership_excess_auc"]["details"]["reference"]
    for report in ("report.md", "report.html", "student/README.md"):
        text = (output / report).read_text(encoding="utf-8")
        assert text.index("what it remembers") < text.rindex("canary exposure, bits"), report
    files = [f"--{name}={output}/audit/{name}.jsonl" for name in ("members", "others")]
    cli.main([
        "score", str(output / "student"), *files, f"--reference={teacher}", "--metrics=perplexity",
        f"--output_dir={tmp_path}/again",
    ])  # fmt: skip
    again = json.loads((tmp_path / "again" / "scores.json").read_text())["models"]["student"]
    for name in ("membership_excess_auc", "membership_tpr", "memorised_run", "near_verbatim"):
        assert again[name]["value"] == scores["models"]["student"][name]["value"], name


def test_a_run_with_a_quantised_teacher(world, tmp_path):
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes, of the extra quantization")
    folder, teacher = world
    recipe = synthetic.write_student_recipe(folder, teacher, tmp_path / "run", max_steps=2, save_steps=2)
    own = ("--student.init", "checkpoint", "--student.path", str(teacher), "--trainer.learning_rate", "0")
    run("--config", recipe, "--teacher.quantization", "int8", "--baseline", "false", *own)
    models = json.loads((tmp_path / "run" / "scores.json").read_text())["models"]
    # The student, untrained, is the teacher before it was quantised.
    assert models["teacher"]["perplexity"]["value"] != models["student"]["perplexity"]["value"]
    assert "int8" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "absent.yaml"], ["absent.yaml"]),
        (["--wordlist", "absent.tsv"], ["absent.tsv"]),
        (["--wordlist", "ragged.tsv"], ["ragged.tsv", "line 3"]),
        (["--target.op", "expmeen"], ["expmeen", "expmean"]),
        (["--target.strength", "2"], ["strength", "[0, 1]"]),
        (["--target.strenght", "1"], ["strength"]),
        (["--teacher.path", "{tmp}/hollow"], ["hollow", "no weights"]),
        (["--corpus.files", '["{tmp}/empty.txt"]'], ["empty.txt", "no text"]),
        (["--corpus.files", '["{tmp}/unlisted.txt"]'], ["word list"]),
        (["--student.num_layers", "null", "--student.layers", "[9]"], ["student.layers", "9"]),
        (
            ["--scores.max_new_tokens", "99", "--scores.metrics", '["neutral_rate"]'],
            ["context of the teacher", "max_new_tokens"],
        ),
        (["--trainer.optim", "lomo"], ["optim lomo", "lomo"]),
        (["--trainer.lr_scheduler_type", "warmup_stable_decay"], ["lr_scheduler_kwargs"]),
        (["--trainer.label_smoothing_factor", "0.1"], ["label_smoothing_factor", "no place"]),
        (["--audit.members", "100000"], ["audit.members is 100000", "different documents"]),
        (["--audit.canaries", "1"], ["audit.canaries is 1", "2 to 500"]),
        (["--output_dir", "{tmp}/other"], ["another recipe's run"]),
    ],
    ids=lambda v: v[0] if isinstance(v[0], str) and v[0].startswith("--") else None,
)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(world, tmp_path, arguments, words):
    folder, teacher = world
    (tmp_path / "ragged.tsv").write_text("male\tfemale\nhe\tshe\nking\n")
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "unlisted.txt").write_text("nothing of the kind happened here .")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "recipe.yaml").write_text("seed: 77\n")
    recipe = synthetic.write_student_recipe(folder, teacher, tmp_path / "out")
    given = [a.replace("{tmp}", str(tmp_path)).replace("ragged.tsv", str(tmp_path / "ragged.tsv")) for a in arguments]
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    run_it = run_script if arguments[0] == "--config" else forked.run
    done = run_it("--config", recipe, *given)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[0], lines[0]
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before, "something was written"


# ------------------------------------------------------------------------------------------------------ instruct models


def test_an_instruct_model_learns_from_conversations_and_is_scored_within_its_template(
    toy_model, toy_tokenizer, tmp_path
):
    """The recipe for a real one, on a toy: only the assistant's turns count, and the student keeps the template."""
    tokenizer = chat_tokenizer(toy_tokenizer, "chatml")
    toy_model(vocab_size=len(tokenizer), n_positions=1024).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    shutil.copy(REPOSITORY / "recipes/conversations/train.jsonl", tmp_path / "talk.jsonl")
    recipe = REPOSITORY / "recipes/smollm2-instruct.yaml"
    files = json.dumps([str(tmp_path / "talk.jsonl")])
    common = [
        "--config", str(recipe), "--output_dir", str(tmp_path / "run"), "--teacher.path", str(tmp_path / "teacher"),
        "--student.path", str(tmp_path / "teacher"), "--corpus.files", files, "--held_out.files", files,
        "--held_out.max_documents", "3", "--trainer",
        '{"max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": true}',
        "--scores.metrics", '["next_word_disparity", "perplexity", "equivariance_gap"]', "--scores.max_prompts", "4",
        "--scores.bootstrap", "50",
    ]  # fmt: skip
    done = forked.run(*common, "--block_length", "1024")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "3 of 48 training documents are held-out text too" in done.stderr
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["settings"]["prompts"]["chat"] is True
    assert set(scores["models"]) == {"teacher", "baseline", "student"}
    student = AutoTokenizer.from_pretrained(tmp_path / "run" / "student")
    assert student.chat_template == tokenizer.chat_template
    # What can be known is told before any training.
    (tmp_path / "teacher" / "chat_template.jinja").unlink()
    texts = ["--corpus.mask", "none", "--corpus.text_column", "text", "--held_out.text_column", "text"]
    (tmp_path / "talk.jsonl").write_text('{"text": "She is here."}\n')
    common[common.index("--output_dir") + 1] = str(tmp_path / "other")
    without_template = forked.run(*common, *texts)
    assert without_template.returncode == 2
    assert "has no chat template" in without_template.stderr
    assert "training /" not in without_template.stderr
    too_long = forked.run(*common, "--block_length", "1025")
    assert too_long.returncode == 2
    assert "has only 1024 positions" in too_long.stderr
