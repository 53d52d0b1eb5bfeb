"""Adapters: loaded with their base, trained over a base that two models share, saved, merged; each by hand as well."""

import copy
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from architectures import toy
from huggingface_hub import constants
from launched import train
from safetensors.torch import load_file, save_file
from shared import TOY_ARCHITECTURES, TOY_TEXT
from torch import nn
from toy_trainer import make_trainer, toy_batch
from train_toy import main as train_toy
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from distill.base.errors import UserError
from distill.models import adapters
from distill.models.adapters import has_adapter, sharing, trainable_state
from distill.models.architecture import hidden_states
from distill.models.loading import in_format, load_config, load_model, load_tokenizer
from distill.models.student import make_student, train_tokenizer
from distill.objective.chunks import IGNORED
from distill.recipe import LoraConfig, LossConfig, Recipe, StudentConfig, TargetConfig
from distill.training.run import Models, write_student

peft = pytest.importorskip("peft", reason="needs the extra lora")

LORA = StudentConfig(init="teacher", lora=LoraConfig(r=3))
IDS = torch.arange(24)[None]


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def stirred(student, seed=0):
    """The student with an adapter that says something: as it is made, one of its two matrices is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in trainable_state(student).values():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    return student


@pytest.fixture
def saved(toy_model, toy_tokenizer, tmp_path):
    """A function from an architecture to (folder of its base, student with an adapter, folder of the adapter)."""

    def make(architecture="gpt2", **keys):
        toy_model(architecture).save_pretrained(tmp_path / "base")
        toy_tokenizer.save_pretrained(tmp_path / "base")
        base = load_model(str(tmp_path / "base")).requires_grad_(False)
        config = replace(LORA, lora=LoraConfig(**{"r": 3, **keys}))
        student = stirred(make_student(config, base, toy_tokenizer, "base"))
        adapters.save_adapter(student, tmp_path / "adapter", torch.float32, merge=False)
        return tmp_path / "base", student, tmp_path / "adapter"

    return make


# ---------------------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("architecture", TOY_ARCHITECTURES)
def test_an_adapter_is_loaded_with_its_base(saved, architecture):
    """Against the formula, W + alpha / r * B A, put into the base's weights by hand; and against peft's own loading."""
    base, student, folder = saved(architecture, alpha=12)
    assert {p.name for p in folder.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    by_hand = AutoModelForCausalLM.from_pretrained(base)
    weights = load_file(folder / "adapter_model.safetensors")
    names = {name.rpartition(".lora_")[0] for name in weights}
    for name in names:
        module = by_hand.get_submodule(name.removeprefix("base_model.model."))
        product = 12 / 3 * weights[f"{name}.lora_B.weight"] @ weights[f"{name}.lora_A.weight"]
        module.weight.data += product.T if isinstance(module, Conv1D) else product
    linear = [m for m in by_hand.modules() if isinstance(m, nn.Linear | Conv1D)]
    assert len(names) == len(linear) - 1  # all but the output head
    loaded = load_model(str(folder))
    assert not has_adapter(loaded) and type(loaded) is type(by_hand) and not loaded.training
    assert loaded.state_dict().keys() == by_hand.state_dict().keys()
    torch.testing.assert_close(logits(loaded), logits(by_hand), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits(student), logits(by_hand), rtol=1e-4, atol=1e-5)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits(plain), logits(by_hand), rtol=1e-4, atol=1e-5)
    assert (logits(loaded) - logits(load_model(str(base)))).abs().max() > 0.01


@pytest.mark.parametrize("changed", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]], ids="+".join)
@pytest.mark.parametrize("wholly", [True, False], ids=["wholly", "by LoRA"])
def test_a_head_that_an_adapter_tells_from_a_tied_embedding_is_loaded_copied_and_saved_as_such(
    tmp_path, changed, wholly
):
    """Against peft's own loading, without a merge."""
    toy("llama", vocab_size=400, tie_word_embeddings=True).save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    tokenizer = train_tokenizer([TOY_TEXT] * 4, 400)
    tokenizer.save_pretrained(tmp_path / "base")
    targets = {"target_modules": ["q_proj"], "modules_to_save": changed} if wholly else {"target_modules": changed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tied matrices, which is what this is about
        model = peft.get_peft_model(base, peft.LoraConfig(r=2, task_type="CAUSAL_LM", **targets))
        for module in model.modules():
            if isinstance(module, peft.utils.ModulesToSaveWrapper):
                weight = module.modules_to_save["default"].weight
                module.modules_to_save["default"].weight = nn.Parameter(torch.randn_like(weight))
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.data.normal_(std=0.2)
        expected = logits(model)
        model.save_pretrained(tmp_path / "adapter")
    loaded = load_model(str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)
    copied = in_format(loaded, torch.bfloat16)
    assert torch.equal(copied.lm_head.weight, loaded.lm_head.weight.bfloat16())
    assert torch.equal(copied.get_input_embeddings().weight, loaded.get_input_embeddings().weight.bfloat16())

    config = StudentConfig(init="checkpoint", path=str(tmp_path / "adapter"))
    student = make_student(config, None, tokenizer, None)
    models = Models(student, None, tokenizer, (), {})
    write_student(Recipe(student=config), models, student.state_dict(), tmp_path / "student")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "student")), logits(loaded))


def rewrite(folder, **keys):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def test_a_relative_base_counts_from_here_or_from_the_adapter(saved, monkeypatch, tmp_path):
    _, student, folder = saved()
    (tmp_path / "elsewhere").mkdir()
    for here, base in ((tmp_path, "base"), (tmp_path / "elsewhere", "../base")):
        monkeypatch.chdir(here)
        rewrite(folder, base_model_name_or_path=base)
        torch.testing.assert_close(logits(load_model(str(folder))), logits(student), rtol=1e-4, atol=1e-5)


def test_an_adapter_without_a_tokenizer_takes_its_bases(saved, toy_tokenizer):
    base, _, folder = saved()
    assert load_tokenizer(str(folder)).get_vocab() == toy_tokenizer.get_vocab()
    (base / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="base: holds no tokenizer"):
        load_tokenizer(str(folder))
    toy_tokenizer.save_pretrained(folder)
    assert load_tokenizer(str(folder)).get_vocab() == toy_tokenizer.get_vocab()


def test_adapters_that_cannot_be_had_are_one_sentence(saved, monkeypatch):
    base, _, folder = saved()
    original, weights = (folder / "adapter_config.json").read_text(), load_file(folder / "adapter_model.safetensors")

    def refused(words):
        with pytest.raises(UserError, match=words) as told:
            load_model(str(folder))
        assert "\n" not in str(told.value)
        (folder / "adapter_config.json").write_text(original)
        save_file(weights, folder / "adapter_model.safetensors")

    rewrite(folder, base_model_name_or_path="/nowhere/base")
    refused("is an adapter of /nowhere/base, which is not there")
    rewrite(folder, base_model_name_or_path=None)
    refused("names no base_model_name_or_path")
    rewrite(folder, base_model_name_or_path="some/base")
    refused("some/base: no ")
    (folder / "adapter_config.json").write_text("{")
    refused("is damaged")
    rewrite(folder, r=5)
    refused("its adapter cannot be merged into")
    rewrite(folder, target_modules=["absent"])
    refused("its adapter cannot be merged into")
    first = sorted(weights)[0]
    save_file({k: v for k, v in weights.items() if k != first}, folder / "adapter_model.safetensors")
    refused(f"lacks weights of an adapter.*{first} first")
    save_file(weights | {f"more.{first}": weights[first].clone()}, folder / "adapter_model.safetensors")
    refused(f"others than.*more.{first} first")
    (folder / "adapter_model.safetensors").unlink()
    refused("no adapter_model.safetensors")
    shutil.copy(base / "config.json", folder)
    refused("beside a model")
    (folder / "config.json").unlink()
    monkeypatch.setattr(adapters, "is_peft_available", lambda: False)
    refused(r"adapters need the package peft; pip install 'distill\[lora\]'")


def test_an_adapter_over_an_adapter_must_be_merged(saved, toy_tokenizer):
    _, _, folder = saved()
    teacher = load_model(str(folder))
    with pytest.raises(UserError, match=r"no folder holds it; set student\.lora\.merge to true"):
        make_student(LORA, teacher, toy_tokenizer, "t")
    make_student(replace(LORA, lora=LoraConfig(r=2, merge=True)), teacher, toy_tokenizer, "t")


def test_an_adapter_names_the_commit_of_its_base(toy_model, toy_tokenizer, tmp_path, monkeypatch):
    """The hub's main branch moves on: the adapter still loads over what it was trained over."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--someone--base"
    (repository / "refs").mkdir(parents=True)
    for seed, commit in enumerate(("a" * 40, "b" * 40)):
        toy_model(seed=seed, n_positions=64 + seed).save_pretrained(repository / "snapshots" / commit)
        tokenizer = copy.deepcopy(toy_tokenizer)
        tokenizer.add_tokens([f"<{commit[0]}>"])
        tokenizer.save_pretrained(repository / "snapshots" / commit)
    (repository / "refs" / "main").write_text("a" * 40, encoding="utf-8")
    base = load_model("someone/base").requires_grad_(False)
    student = stirred(make_student(replace(LORA, lora=LoraConfig(r=3)), base, toy_tokenizer, "base"))
    adapters.save_adapter(student, tmp_path / "adapter", torch.float32, merge=False)
    (repository / "refs" / "main").write_text("b" * 40, encoding="utf-8")
    torch.testing.assert_close(logits(load_model(str(tmp_path / "adapter"))), logits(student), rtol=1e-4, atol=1e-5)
    assert "<a>" in load_tokenizer(str(tmp_path / "adapter")).get_vocab()
    assert "<b>" in load_tokenizer("someone/base").get_vocab()
    # An adapter that lies on the hub itself, without a tokenizer.
    of_adapter = tmp_path / "hub" / "models--someone--adapter"
    (of_adapter / "refs").mkdir(parents=True)
    (of_adapter / "refs" / "main").write_text("c" * 40, encoding="utf-8")
    shutil.copytree(tmp_path / "adapter", of_adapter / "snapshots" / ("c" * 40))
    assert not [*(of_adapter / "snapshots").rglob("*token*")]
    assert "<a>" in load_tokenizer("someone/adapter").get_vocab()
    torch.testing.assert_close(logits(load_model("someone/adapter")), logits(student), rtol=1e-4, atol=1e-5)
    assert [load_config(path).n_positions for path in (str(tmp_path / "adapter"), "someone/base")] == [64, 65]


# --------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("architecture", TOY_ARCHITECTURES)
def test_a_student_begins_as_its_teacher_and_shares_its_memory(toy_model, toy_tokenizer, architecture):
    teacher = toy_model(architecture).requires_grad_(False)
    student = make_student(LORA, teacher, toy_tokenizer, "t")
    assert torch.equal(logits(student), logits(teacher))
    theirs = {weight.data_ptr() for weight in teacher.parameters()}
    own = {name for name, weight in student.named_parameters() if weight.data_ptr() not in theirs}
    assert own == trainable_state(student).keys() and all("lora_" in name for name in own)
    assert not any(weight.requires_grad for weight in teacher.parameters())
    stirred(student)
    assert (logits(student) - logits(teacher)).abs().max() > 0.01
    student.train()
    assert not teacher.training


def test_an_adapter_is_trained_in_float32_over_a_base_in_16_bits(tmp_path, toy_model, toy_tokenizer):
    _, blocks = toy_batch(toy_tokenizer)
    teacher = toy_model("llama").to(torch.bfloat16).requires_grad_(False)
    student = stirred(make_student(LORA, teacher, toy_tokenizer, "t"))
    assert {weight.dtype for weight in trainable_state(student).values()} == {torch.float32}
    assert student.get_output_embeddings().weight.dtype == torch.bfloat16
    trainer = make_trainer(tmp_path / "run", student, teacher, blocks, TargetConfig(augment=True), LossConfig())
    trainer.train()
    assert all(weight.isfinite().all() for weight in trainable_state(student).values())
    student.__dict__.pop("forward")
    want = logits(student).float()
    adapters.save_adapter(student, tmp_path / "merged", torch.float32, merge=True)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(logits(whole), want, rtol=0.05, atol=0.05)


def test_two_models_that_share_keep_what_is_tied_tied(toy_model):
    model = toy_model("gpt2")
    other = sharing(model)
    assert other.lm_head.weight is other.transformer.wte.weight is model.lm_head.weight
    assert other.lm_head is not model.lm_head and other.config is not model.config


@pytest.mark.parametrize("architecture", TOY_ARCHITECTURES)
def test_the_gradient_of_an_adapter_is_that_of_the_plain_loss(tmp_path, toy_model, toy_tokenizer, architecture):
    """Fused loss, frozen head and all, against a softmax over all logits; the base gets no gradient at all."""
    inputs, blocks = toy_batch(toy_tokenizer)
    teacher = toy_model(architecture, seed=2).requires_grad_(False)
    student = stirred(make_student(LORA, teacher, toy_tokenizer, "t")).eval()
    trainer = make_trainer(tmp_path, student, teacher, blocks, TargetConfig(augment=True), LossConfig(ce=0.3))
    trainer.compute_loss(student, inputs).backward()
    found = {name: weight.grad.clone() for name, weight in student.named_parameters() if weight.grad is not None}
    assert found.keys() == trainable_state(student).keys()
    student.zero_grad()
    head = student.get_output_embeddings().weight
    labels = inputs["labels"].flatten()
    there = labels != IGNORED

    def log_q(model):
        hidden = hidden_states(model, inputs["input_ids"], inputs["position_ids"]).flatten(0, 1)[there]
        return (hidden @ head.T).log_softmax(-1)

    ours, theirs = log_q(student), log_q(teacher)
    divergence = (theirs.exp() * (theirs - ours)).sum(-1)
    ((divergence - 0.3 * ours.gather(1, labels[there][:, None])[:, 0]).mean()).backward()
    for name, weight in student.named_parameters():
        if name in found:
            torch.testing.assert_close(found[name], weight.grad, rtol=1e-3, atol=1e-6)


SETTINGS = {"steps": 4, "save_steps": 2, "optim": "adamw_torch", "save_total_limit": 3}
STUDENT = {"student_keys": {"init": "teacher", "lora": {"r": 3, "dropout": 0.1}}}


def adapter(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "adapter_model.safetensors")


def test_training_goes_on_bit_for_bit_and_leaves_the_base_alone(tmp_path, steps_made):
    train_toy(str(tmp_path / "whole"), 4, 1, **SETTINGS, **STUDENT)
    shutil.copytree(tmp_path / "whole" / "checkpoints", tmp_path / "again" / "checkpoints")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "checkpoint-4")
    steps_made.clear()
    train_toy(str(tmp_path / "again"), 4, 1, **SETTINGS, **STUDENT)
    assert steps_made == [3, 4]
    want, got = adapter(tmp_path / "whole"), adapter(tmp_path / "again")
    assert want.keys() == got.keys() and all(torch.equal(want[k], got[k]) for k in want)
    assert any(weight.any() for name, weight in want.items() if "lora_B" in name)
    base, before = (
        load_file(tmp_path / "again" / name) for name in ("teacher/model.safetensors", "untrained.safetensors")
    )
    names = {name.replace(".base_layer", ""): name for name in before}
    assert all(torch.equal(base[name], before[names[name]]) for name in base)
    size = sum(p.stat().st_size for p in (tmp_path / "again" / "checkpoints" / "checkpoint-4").glob("*.safetensors"))
    assert size < (tmp_path / "again" / "teacher" / "model.safetensors").stat().st_size


def test_two_processes_train_the_same_adapter(tmp_path):
    keys = {"steps": 3, "student_keys": {"init": "teacher", "lora": {"r": 3}}}
    train(tmp_path / "two", 2, processes=2, **keys)
    train_toy(str(tmp_path / "one"), 4, 1, **keys)
    want, got = adapter(tmp_path / "one"), adapter(tmp_path / "two")
    assert all(torch.allclose(want[k], got[k], rtol=1e-4, atol=1e-6) for k in want)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merged_student_is_a_plain_model_and_predicts_as_the_adapter(saved, tmp_path, dtype):
    _, student, _ = saved()
    before = {name: weight.clone() for name, weight in student.state_dict().items()}
    want = logits(student)
    adapters.save_adapter(student, tmp_path / "merged", getattr(torch, dtype), merge=True)
    plain, report = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys"))
    assert plain.dtype == getattr(torch, dtype) and not (tmp_path / "merged" / "adapter_config.json").exists()
    tolerance = 1e-5 if dtype == "float32" else 0.05
    torch.testing.assert_close(logits(plain).float(), want, rtol=1e-3, atol=tolerance)
    assert has_adapter(student)
    assert all(torch.equal(before[name], weight) for name, weight in student.state_dict().items())


def test_a_base_of_its_own(saved, toy_model, toy_tokenizer):
    """`init: checkpoint`: another model than the teacher gets the adapter."""
    base, _, _ = saved()
    teacher = toy_model(seed=7).requires_grad_(False)
    student = make_student(replace(LORA, init="checkpoint", path=str(base)), teacher, toy_tokenizer, "t")
    assert torch.equal(logits(student), logits(load_model(str(base))))
    assert all("lora_" in name for name in trainable_state(student))


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["c_atn"], "no layer is called 'c_atn'; did you mean 'c_attn'"),
        (["c_attn", "lm_head"], "names the embeddings or the output head"),
        (["wte"], "names the embeddings or the output head"),
    ],
)
def test_layers_that_cannot_have_an_adapter(toy_model, toy_tokenizer, targets, words):
    with pytest.raises(UserError, match=words):
        make_student(replace(LORA, lora=LoraConfig(r=2, targets=targets)), toy_model(), toy_tokenizer, "t")


def test_only_the_named_layers_get_an_adapter(toy_model, toy_tokenizer):
    student = make_student(replace(LORA, lora=LoraConfig(r=2, targets=["c_attn"])), toy_model(), toy_tokenizer, "t")
    assert {name.partition(".lora_")[0].rpartition(".")[2] for name in trainable_state(student)} == {"c_attn"}
    assert len(trainable_state(student)) == 2 * 4  # two matrices a layer
