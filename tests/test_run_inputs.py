"""What a recipe names may change in place: a run goes on with what it was trained on, or says what has changed."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import killed
import pytest
import torch
from broken import folder_of
from safetensors.torch import load_file, save_file
from toy_adapter import saved_adapter

from distill import run_inputs
from distill.base.errors import UserError
from distill.data import packing
from distill.data.corpus import Corpus
from distill.models.adapters import add_adapter
from distill.models.loading import load_model
from distill.recipe import CorpusConfig, LoraConfig, PrivacyConfig, Recipe, StudentConfig, TargetConfig, TeacherConfig
from distill.run_inputs import RECORD, RunInputs
from distill.text.wordlist import load_wordlist

TEXT = ["The nurse said that she was tired.", "A king took his coat, and the queen hers.", "Nothing happened here."]


@pytest.fixture(scope="module")
def own_run(small_run, tmp_path_factory):
    """A finished run of seconds in `run/`, and its arguments: text, word list and teacher lie beside it."""
    folder = tmp_path_factory.mktemp("own")
    argv = dict(zip(small_run[::2], small_run[1::2], strict=True))
    shutil.copy(argv["--wordlist"], folder / "list.tsv")
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXT * 20))
    shutil.copytree(killed.teacher_of(small_run), folder / "teacher")
    argv |= {"--wordlist": "list.tsv", "--corpus": json.dumps({"source": "files", "files": ["text.jsonl"]})}
    argv |= {"--teacher.path": "teacher"}
    given = [part for pair in argv.items() for part in pair]
    ending = killed.run(folder, given)
    assert ending.code == 0, ending.errors[-3000:]
    return folder, given


@pytest.fixture
def run(own_run, tmp_path):
    """(folder, arguments) of a copy of that run, to be changed."""
    folder, argv = own_run
    shutil.copytree(folder, tmp_path / "own")
    return tmp_path / "own", argv


def change(folder, what):
    """Another content under the same name."""
    if what == "wordlist":
        (folder / "list.tsv").write_text((folder / "list.tsv").read_text() + "waiter\twaitress\n")
    elif what == "corpus":
        with (folder / "text.jsonl").open("a") as stream:
            stream.write(json.dumps({"text": "She came later."}) + "\n")
    else:
        path = folder / "teacher" / "model.safetensors"
        state = load_file(path)
        name = min(name for name in state if "ln" in name or "norm" in name)
        save_file(state | {name: state[name] * 1.5}, path, metadata={"format": "pt"})
        (folder / "teacher" / "manifest.json").unlink(missing_ok=True)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("what", "names"),
    [("wordlist", "wordlist names (list.tsv)"), ("corpus", "corpus names (text.jsonl)"), ("teacher", "(teacher)")],
)
def test_what_changed_in_place_is_told_and_nothing_is_trained_or_scored(run, what, names, finished):
    folder, argv = run
    if not finished:
        shutil.rmtree(folder / "run" / "student")  # its checkpoints are there
    scores = (folder / "run" / "scores.json").read_bytes()
    change(folder, what)
    told = killed.error_of(killed.run(folder, argv))
    assert f"{names} has changed since this run was trained; restore it, or choose another --output_dir" in told
    assert (folder / "run" / "scores.json").read_bytes() == scores
    assert (folder / "run" / "student").exists() == finished


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_that_was_moved_is_scored_anew_and_goes_on(run, finished):
    folder, argv = run
    (folder / "run").rename(folder / "moved")
    (folder / "moved" / "scores.json").unlink()
    weights = load_file(folder / "moved" / "student" / "model.safetensors")
    if not finished:
        shutil.rmtree(folder / "moved" / "student")
    ending = killed.run(folder, [*argv, "--output_dir", "moved"])
    assert ending.code == 0, ending.errors[-3000:]
    again = load_file(folder / "moved" / "student" / "model.safetensors")
    assert (folder / "moved" / "scores.json").exists()
    assert all((weights[name] == again[name]).all() for name in weights)


@pytest.mark.parametrize(
    ("upgrade", "left", "refused"),
    [
        ({"_FORMAT_VERSION": 99, "_OPEN_BLOCKS": 1}, "nothing", False),  # all students are trained
        ({"_FORMAT_VERSION": 99}, "student", False),  # packed anew, into the same blocks
        ({"_FORMAT_VERSION": 99, "_OPEN_BLOCKS": 1}, "student", True),
        ({"_FORMAT_VERSION": 99, "_OPEN_BLOCKS": 1}, "a run of before", False),
        ({"_FORMAT_VERSION": 99, "_OPEN_BLOCKS": 1}, "all", False),  # nothing was trained: it may begin
    ],
)
def test_other_rules_of_packing_are_no_users_change_but_a_student_needs_the_blocks_of_the_other(
    run, upgrade, left, refused
):
    folder, argv = run
    if left == "a run of before":
        (folder / "run" / RECORD).unlink()
    for name in {"nothing": [], "all": ["baseline", "student", "checkpoints"]}.get(left, ["student"]):
        shutil.rmtree(folder / "run" / name)
    ending = killed.run(folder, argv, prepare=lambda: [setattr(packing, *item) for item in upgrade.items()])
    if refused:
        assert "gives other blocks now than those that this run was trained on" in killed.error_of(ending)
    else:
        assert ending.code == 0, ending.errors[-3000:]


# -------------------------------------------------------------------------------------------------------- the record


def looked_at(
    recipe,
    folder,
    content="c" * 40,
    held_out=None,
    wordlist="english_gender",
    teacher=None,
    student=None,
    blocks=("k",),
):
    """What a run does before it trains; `inputs` then."""
    inputs = RunInputs(recipe, folder)
    inputs.look_at_models(load_wordlist(wordlist), teacher, student)
    inputs.look_at_text(Corpus("key", lambda: iter(TEXT), content), Corpus("other", lambda: iter(TEXT), held_out))
    inputs.look_at_blocks(SimpleNamespace(identities=blocks), students_left=True)
    return inputs


def begun(folder):
    folder_of(folder / "checkpoints" / "student" / "client" / "0-3" / "checkpoint-1")


def test_commits_of_the_hub_are_those_that_the_run_has_begun_with(tmp_path):
    recipe = Recipe(corpus=CorpusConfig(source="hub", dataset="some/set"), held_out=CorpusConfig(source="files"))
    assert RunInputs(recipe, tmp_path).commits == [None, None]
    looked_at(recipe, tmp_path, held_out="d" * 64)
    assert RunInputs(recipe, tmp_path).commits == ["c" * 40, None]  # none of files
    looked_at(recipe, tmp_path, "e" * 40)  # nothing was trained: it may begin with another
    begun(tmp_path)
    with pytest.raises(UserError, match=r"what corpus names \(some/set\) has changed"):
        looked_at(recipe, tmp_path, "f" * 40)
    assert RunInputs(recipe, tmp_path).commits == ["e" * 40, None]


def test_held_out_text_and_a_list_that_nothing_is_swapped_with_change_scores_alone(tmp_path):
    plain, mitigated = Recipe(), Recipe(target=TargetConfig(op="mean"))
    for recipe, folder in ((plain, tmp_path / "plain"), (mitigated, tmp_path / "mitigated")):
        folder.mkdir()
        looked_at(recipe, folder, held_out="one")
        begun(folder)
        looked_at(recipe, folder, held_out="two")
    looked_at(plain, tmp_path / "plain", wordlist="english_religion")
    with pytest.raises(UserError, match="what wordlist names"):
        looked_at(mitigated, tmp_path / "mitigated", wordlist="english_religion")


def test_what_another_version_may_have_changed_is_not_said_of_the_user(tmp_path, monkeypatch):
    recipe = Recipe(target=TargetConfig(op="mean"))
    looked_at(recipe, tmp_path)
    begun(tmp_path)
    now = run_inputs._versions()
    monkeypatch.setattr(run_inputs, "_versions", lambda: now | {"wordlists": ""})
    looked_at(recipe, tmp_path, wordlist="english_religion")
    monkeypatch.setattr(run_inputs, "_versions", lambda: now | {"transformers": "99"})
    with pytest.raises(UserError, match="what wordlist names"):
        looked_at(recipe, tmp_path, wordlist="english_religion")
    with pytest.raises(UserError, match="what corpus names"):
        looked_at(recipe, tmp_path, "another")


def test_a_merged_adapter_is_known_by_its_file_whatever_a_products_last_digit(tmp_path, toy_model, toy_tokenizer):
    pytest.importorskip("peft", reason="needs the extra lora")
    folder = saved_adapter(toy_model(), toy_tokenizer, tmp_path)
    recipe = Recipe(teacher=TeacherConfig(path=str(folder)))
    first, elsewhere = (load_model(str(folder)) for _ in range(2))
    with torch.no_grad():
        next(elsewhere.parameters()).mul_(1 + 2**-20)
    (tmp_path / "run").mkdir()
    looked_at(recipe, tmp_path / "run", teacher=first)
    begun(tmp_path / "run")
    looked_at(recipe, tmp_path / "run", teacher=elsewhere)
    path = folder / "adapter_model.safetensors"
    save_file({name: 2 * weight for name, weight in load_file(path).items()}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"what teacher\.path names"):
        looked_at(recipe, tmp_path / "run", teacher=load_model(str(folder)))


@pytest.mark.parametrize("rank", [0, 4])
def test_the_checkpoint_that_a_student_begins_with_is_looked_at_without_a_new_adapter(tmp_path, toy_model, rank):
    recipe = Recipe(student=StudentConfig(init="checkpoint", path="mine", lora=LoraConfig(r=rank)))

    def student(seed):
        model = toy_model(seed=seed)
        if rank:
            add_adapter(model, recipe.student.lora)
        return model

    looked_at(recipe, tmp_path, student=student(0))
    begun(tmp_path)
    looked_at(recipe, tmp_path, student=student(0))
    with pytest.raises(UserError, match=r"what student\.path names \(mine\) has changed"):
        looked_at(recipe, tmp_path, student=student(1))


def test_another_process_reads_what_the_first_reads_or_none_begins(tmp_path, monkeypatch):
    """It may be on another machine, where the same name stands for something else."""
    recipe = Recipe(corpus=CorpusConfig(source="files", files=("text.jsonl",)), target=TargetConfig(op="mean"))
    looked_at(recipe, tmp_path)
    record = (tmp_path / RECORD).read_bytes()
    monkeypatch.setenv("RANK", "3")
    looked_at(recipe, tmp_path)
    for other, words in (
        ({"content": "d" * 40}, r"process 3 on .*: what corpus names \(text\.jsonl\) is another than in the first"),
        ({"wordlist": "english_religion"}, r"process 3 on .*: what wordlist names .* is another than in the first"),
        ({"blocks": ("other",)}, "process 3 on .*: the text gives other blocks than in the first process"),
    ):
        with pytest.raises(UserError, match=words):
            looked_at(recipe, tmp_path, **other)
    begun(tmp_path)
    with pytest.raises(UserError, match="has changed since this run was trained"):
        looked_at(recipe, tmp_path, "d" * 40)
    assert (tmp_path / RECORD).read_bytes() == record


@pytest.mark.parametrize("processes", [1, 4])
def test_all_students_of_a_run_are_trained_by_as_many_processes(tmp_path, monkeypatch, processes):
    """Or else their steps would read batches of different sizes, and scores compare what is not alike."""
    recipe = Recipe(target=TargetConfig(op="mean"))
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    looked_at(recipe, tmp_path)
    RunInputs(recipe, tmp_path, ["student"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=rf"baseline was trained by {processes} proc.*, but 2 were .* {processes}, or"):
        RunInputs(recipe, tmp_path, ["student"])
    RunInputs(recipe, tmp_path, ["baseline", "student"])  # none is trained yet
    RunInputs(recipe, tmp_path)  # all are, and are scored
    RunInputs(replace(recipe, privacy=PrivacyConfig(epsilon=8)), tmp_path, ["student"])


@pytest.mark.parametrize("text", ["{", "{}", "[]", '"text"', "[" * 100_000], ids=lambda text: text[:6])
def test_a_record_that_cannot_be_read_is_a_mistake(tmp_path, text):
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(UserError, match=r"inputs\.json: cannot be read"):
        RunInputs(Recipe(), tmp_path)
