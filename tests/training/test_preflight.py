"""What a first run is warned of, and that nothing else makes it noisy."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from private_toy import make_toy
from shared import REPOSITORY

from distill.base.cores import control_groups
from distill.base.errors import UserError
from distill.data.corpus import Corpus
from distill.data.counts import PackingCounts
from distill.data.packing import packed_blocks
from distill.models.architecture import parameter_count
from distill.models.student import train_tokenizer
from distill.recipe import PrivacyConfig, Recipe, TargetConfig
from distill.text.counterfactual import Swapper
from distill.text.role_map import token_roles
from distill.training import preflight
from distill.training.arguments import training_arguments
from distill.training.preflight import check_privacy, little_memory, slow_processor, split_words, warn_of

MITIGATED = TargetConfig(op="expmean", reverse_roles=True, augment=True)


@pytest.fixture
def recipe(tmp_path):
    trainer = {"max_steps": 100, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "use_cpu": True}
    return Recipe(output_dir=str(tmp_path / "run"), block_length=32, target=MITIGATED, trainer=trainer)


def arguments(recipe):
    return training_arguments(recipe, Path(recipe.output_dir))


# ------------------------------------------------------------------------------------------------------------- time


def test_the_time_is_operations_over_pace(recipe, toy_model, monkeypatch):
    teacher, student = toy_model(), toy_model(seed=1, n_layer=2)
    # 8 blocks of 32 tokens a step, half of them with a second view: 1.5 teacher passes (2 operations a parameter and
    # token), 1.5 student passes forth and back (6).
    tokens = 8 * 32 * 1.5
    step = tokens * (2 * parameter_count(teacher) + 6 * parameter_count(student))
    counts = PackingCounts(blocks=100, edited_blocks=50)
    monkeypatch.setattr(preflight, "operations_per_second", lambda: step)  # a second a step
    assert slow_processor(recipe, arguments(recipe), 2, teacher, student, counts) is None
    long = replace(recipe, trainer=recipe.trainer | {"max_steps": 6 * 3600})
    warning = slow_processor(long, arguments(long), 2, teacher, student, counts)
    assert "2 x 21,600 steps take 12 h or more" in warning
    assert all(word in warning for word in ("no GPU", "trainer.max_steps", "block_length"))


def test_epochs_are_counted_in_blocks(recipe, toy_model, monkeypatch):
    student = toy_model()
    epochs = {k: v for k, v in recipe.trainer.items() if k != "max_steps"} | {"num_train_epochs": 3}
    recipe = replace(recipe, target=TargetConfig(), trainer=epochs)
    monkeypatch.setattr(preflight, "operations_per_second", lambda: 1.0)
    warning = slow_processor(recipe, arguments(recipe), 1, None, student, PackingCounts(blocks=81))
    assert "1 x 31 steps" in warning  # 3 times 81 blocks in steps of 8
    private = replace(recipe, privacy=PrivacyConfig(epsilon=8.0, batch_size=27))
    warning = slow_processor(private, arguments(recipe), 1, None, student, PackingCounts(blocks=81))
    assert "1 x 9 steps" in warning  # in steps that draw 27


def test_a_student_that_stays_untrained_takes_no_time(recipe, toy_model, monkeypatch):
    monkeypatch.setattr(preflight, "operations_per_second", lambda: 1.0)
    counts = PackingCounts(blocks=81)
    for steps, warned in ((-1, True), (0, False), (1, True)):
        asked = replace(recipe, trainer=recipe.trainer | {"max_steps": steps})
        assert (slow_processor(asked, arguments(asked), 1, None, toy_model(), counts) is not None) is warned


def test_the_pace_of_this_machine_is_plausible():
    assert 1e8 < preflight.operations_per_second() < 1e14


# ----------------------------------------------------------------------------------------------------------- memory


def test_memory_is_what_training_adds(recipe, toy_model, monkeypatch):
    student = toy_model()
    size = parameter_count(student)
    tokens, width, layers, vocabulary = 4 * 32 * 2, 32, 4, student.config.vocab_size
    states = 4 * size + 4 * size + 8 * size  # another student, gradients, two moments
    activations = 4 * 16 * tokens * width * layers + 4 * 2 * 96 * vocabulary  # 96 tokens in a chunk of the loss
    monkeypatch.setattr(preflight, "_free_memory", lambda: states + activations)
    assert little_memory(recipe, arguments(recipe), None, student) is None
    monkeypatch.setattr(preflight, "_free_memory", lambda: states + activations - 1)
    warning = little_memory(recipe, arguments(recipe), None, student)
    keys = ("trainer.per_device_train_batch_size", "block_length", "student.num_layers", "gradient_checkpointing")
    assert all(key in warning for key in keys)
    frugal = replace(recipe, trainer=recipe.trainer | {"gradient_checkpointing": True, "optim": "sgd"})
    assert little_memory(frugal, arguments(frugal), None, student) is None


@pytest.mark.slow
def test_the_memory_estimate_is_a_bound_from_below_and_not_far_off(toy_tokenizer):
    """What a step of a model of some size adds to a process, beside the estimate."""
    code = """
import resource, torch
from pathlib import Path
from transformers import GPT2Config, GPT2LMHeadModel
from distill.training import preflight
from distill.recipe import Recipe, LossConfig
from distill.training.arguments import training_arguments
torch.manual_seed(0)
trainer = {"max_steps": 1, "per_device_train_batch_size": 8, "use_cpu": True}
recipe = Recipe(output_dir="x", block_length=256, trainer=trainer)
model = GPT2LMHeadModel(GPT2Config(vocab_size=1000, n_embd=256, n_layer=6, n_head=4))
preflight._free_memory = lambda: 0
needed = float(preflight.little_memory(recipe, training_arguments(recipe, Path("x")), None, model).split()[4])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ids = torch.randint(0, 1000, (8, 256))
optimizer = torch.optim.AdamW(model.parameters())
model(input_ids=ids, labels=ids).loss.backward()
optimizer.step()
print(needed, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    needed, seen = map(float, done.stdout.split())
    assert seen / 3 < needed < seen


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """/proc/self/cgroup and control groups by their paths -> what may be taken, where the machine has 10**12 bytes."""
    monkeypatch.setattr(preflight.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**12))

    def free(own, groups):
        (tmp_path / "own").write_text(own)
        for path, files in groups.items():
            (tmp_path / path).mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                (tmp_path / path / f"memory.{name}").write_text(f"{content}\n")
        return preflight._free_memory(control_groups("memory", tmp_path, tmp_path / "own"))

    return free


STAT = "anon 100\nfile 290\ninactive_file 250\nactive_file 40"


@pytest.mark.parametrize(
    ("groups", "free"),
    [
        ({}, 10**12),
        ({"a/b": {"max": "max", "current": 5}}, 10**12),
        ({"a/b": {"max": 1000, "current": 400}}, 600),
        ({"a/b": {"max": 1000, "current": 400, "stat": STAT}}, 850),  # files that were read can be forgotten again
        ({"a/b": {"max": "max", "current": 5, "stat": STAT}}, 10**12),
        ({"a/b": {"max": "max", "current": 5}, "a": {"max": 1000, "current": 400}}, 600),  # a job's, of all its steps
        ({"a/b": {"max": 900, "current": 400}, "a": {"max": 1000, "current": 700}}, 300),
        ({"a/c": {"max": 1000, "current": 400}}, 10**12),  # another's
        ({".": {"max": 1000, "current": 400}}, 600),  # in a container, told by the machine's names
    ],
)
def test_control_groups_limit_the_memory(machine, groups, free):
    assert machine("0::/a/b\n", groups) == free


def test_a_container_limits_the_memory_by_its_own_root(machine):
    assert machine("0::/\n", {".": {"max": 1000, "current": 400}}) == 600
    assert machine("4:memory:/m\n0::/\n", {"memory/m": {"max": 7, "current": 0}}) == 600  # no names of version 1


# ------------------------------------------------------------------------------------------------------------ words


@pytest.fixture
def words(short_wordlist, toy_tokenizer):
    return token_roles(short_wordlist, toy_tokenizer, len(toy_tokenizer)), Swapper(short_wordlist)


def test_split_words_are_counted_as_often_as_the_text_holds_them(recipe, words):
    roles, swapper = words
    roles = replace(roles, unmovable=("king", "queen"))
    assert split_words(recipe, roles, swapper, ["the king and he", "she"]) is None
    warning = split_words(recipe, roles, swapper, ["the king and the queen", "she"])
    assert "67% of the listed words" in warning
    assert "distill wordlist check 'english_gender' --tokenizer 'demo'" in warning
    assert split_words(replace(recipe, target=TargetConfig()), roles, swapper, ["the king"]) is None


def test_a_text_without_a_listed_word_falls_back_on_the_list(recipe, words):
    roles, swapper = words
    every = tuple(swapper.wordlist.words)
    assert "100%" in split_words(recipe, replace(roles, unmovable=every), swapper, ["nothing"])
    assert split_words(recipe, replace(roles, unmovable=()), swapper, ["nothing"]) is None


# -------------------------------------------------------------------------------------------------------- all of it


def test_every_warning_is_one_sentence(recipe, words, toy_model, monkeypatch, capsys):
    roles, swapper = words
    monkeypatch.setattr(preflight, "operations_per_second", lambda: 1.0)
    monkeypatch.setattr(preflight, "_free_memory", lambda: 0)
    roles = replace(roles, unmovable=tuple(swapper.wordlist.words))
    warn_of(recipe, 1, None, toy_model(), PackingCounts(blocks=1), roles, swapper, [])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(r"warning: [^\n]+; [^\n]+[^.]", line) for line in lines)


# ---------------------------------------------------------------------------------------------------------- privacy


def test_what_a_private_training_would_find_out_is_told_before_it(recipe, tmp_path, monkeypatch):
    """Noise that drowns everything; a layer without a rule. The head is frozen, as it will be."""
    for module in ("distill.privacy.accountant", "distill.training.arguments"):
        monkeypatch.setattr(f"{module}.require_accountant", lambda: None)
    toy = make_toy("gpt2", 1)
    tokenizer = train_tokenizer(["a text"], 300)
    documents = [f"Text no. {n}." for n in range(50)]
    blocks, _ = packed_blocks(Corpus("k", lambda: documents), tokenizer, None, 32, tmp_path, one_document=True)
    private = replace(recipe, privacy=PrivacyConfig(epsilon=8.0, batch_size=25), trainer={"use_cpu": True})
    monkeypatch.setattr("distill.privacy.accountant.least_noise", lambda *_: 0.01)
    check_privacy(replace(private, privacy=PrivacyConfig()), toy.student, blocks)
    assert toy.student.lm_head.weight.requires_grad
    check_privacy(private, toy.student, blocks)
    assert not toy.student.lm_head.weight.requires_grad and toy.student.transformer.wpe.weight.requires_grad
    with monkeypatch.context() as patched:
        patched.setattr("distill.privacy.accountant.least_noise", lambda *_: 5.0)
        with pytest.raises(UserError, match="nothing would be learned"):
            check_privacy(private, toy.student, blocks)
    toy.student.transformer.h[0].odd = torch.nn.PReLU(dtype=torch.float64)
    with pytest.raises(UserError, match=r"the layer transformer.h.0.odd \(PReLU\) .* no rule"):
        check_privacy(private, toy.student, blocks)
