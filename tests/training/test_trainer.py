"""The trainer: the right loss, one teacher pass, checkpoints that survive a kill."""

import shutil

import pytest
import torch
import train_toy
from safetensors.torch import load_file
from shared import TOY_ARCHITECTURES
from transformers import AutoModelForCausalLM

from distill.base.errors import UserError
from distill.data.batches import Collator
from distill.data.counts import PackingCounts
from distill.data.packing import pack
from distill.models.architecture import head, hidden_states
from distill.objective.kd_loss import IGNORED
from distill.objective.settings import LossSettings
from distill.recipe import LossConfig, Recipe, TargetConfig
from distill.recipe_check import parse_recipe
from distill.text.counterfactual import Swapper
from distill.text.wordlist import load_wordlist
from distill.training.arguments import training_arguments
from distill.training.student_loss import attach_loss
from distill.training.trainer import DistillationTrainer


@pytest.fixture
def batch(toy_tokenizer):
    swapper = Swapper(load_wordlist("english_gender"))
    blocks = list(pack(train_toy.toy_documents()[:20], toy_tokenizer, swapper, 48, PackingCounts()))
    return Collator(2, augment=True)(blocks), blocks


def make_trainer(tmp_path, student, teacher, blocks, target, loss, role_maps=None):
    recipe = Recipe(target=target, loss=loss, trainer={"use_cpu": True, "max_steps": 1})
    attach_loss(student)
    return DistillationTrainer(
        model=student,
        args=training_arguments(recipe, tmp_path),
        train_dataset=blocks,
        data_collator=Collator(2, target.augment),
        teacher=teacher,
        settings=LossSettings(kd=loss.kd, ce=loss.ce, op=target.op),
        role_maps=role_maps,
    )


@pytest.mark.parametrize("architecture", list(TOY_ARCHITECTURES))
def test_loss_is_the_reference_loss_of_the_batch(tmp_path, toy_model, batch, architecture):
    """Trainer, packing and fused loss together against plain tensors: every row, every partner."""
    inputs, blocks = batch
    student, teacher = toy_model(architecture, seed=1), toy_model(architecture, seed=2)
    target = TargetConfig(op="mean", augment=True)
    trainer = make_trainer(tmp_path, student, teacher, blocks, target, LossConfig(ce=0.3))
    loss = trainer.compute_loss(student, inputs)
    with torch.no_grad():
        own = hidden_states(student, inputs["input_ids"], inputs["position_ids"]).flatten(0, 1)
        theirs = hidden_states(teacher, inputs["input_ids"], inputs["position_ids"]).flatten(0, 1)
        log_q = (own @ head(student)[0].T).log_softmax(-1)
        log_t = (theirs @ head(teacher)[0].T).log_softmax(-1)
        labels, partner = inputs["labels"].flatten(), inputs["partner"][0].flatten()
        total = count = 0
        for i in range(len(labels)):
            if labels[i] == IGNORED:
                continue
            target = log_t[i]
            if partner[i] >= 0:
                target = ((target + log_t[partner[i]]) / 2).log_softmax(-1)
            total += (target.exp() * (target - log_q[i])).sum() - 0.3 * log_q[i, labels[i]]
            count += 1
    assert float(loss.detach()) == pytest.approx(float(total) / count, rel=1e-5)


def test_the_teacher_runs_once_in_eval_mode_without_gradients(tmp_path, toy_model, batch):
    inputs, blocks = batch
    student, teacher = toy_model(seed=1), toy_model(seed=2).train()
    trainer = make_trainer(tmp_path, student, teacher, blocks, TargetConfig(op="max", augment=True), LossConfig())
    calls = []
    teacher.base_model.register_forward_hook(
        lambda module, args, kwargs, out: calls.append(
            (module.training, torch.is_grad_enabled(), kwargs["input_ids"].shape[0])
        ),
        with_kwargs=True,
    )
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    trainer.compute_loss(student.train(), inputs).backward()
    assert calls == [(False, False, len(inputs["input_ids"]))]
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


@pytest.mark.parametrize("op", ["none", "max"])
@pytest.mark.parametrize("augment", [False, True])
def test_the_teacher_reads_every_text_once_and_nothing_twice(tmp_path, toy_model, toy_tokenizer, op, augment):
    """Unedited text is read once and never doubled; with augmentation, a pair shares its two passes."""
    swapper = Swapper(load_wordlist("english_gender"))
    edited, unedited = ["she saw her book", "his king"], ["Nothing happened.", "A storm came up.", "It rained."]
    blocks = [b for text in edited + unedited for b in pack([text], toy_tokenizer, swapper, 24, PackingCounts())]
    views = 2 if augment or op != "none" else 1
    inputs = Collator(views, augment)(blocks)
    student, teacher = toy_model(seed=1), toy_model(seed=2)
    trainer = make_trainer(tmp_path, student, teacher, blocks, TargetConfig(op=op, augment=augment), LossConfig())
    read = {"student": [], "teacher": []}
    for name, model in (("student", student), ("teacher", teacher)):
        # The position embedding sees each position that a model reads, however the words come in.
        model.base_model.wpe.register_forward_hook(
            lambda module, args, out, rows=read[name]: rows.append(args[0].numel()) and None
        )
    trainer.compute_loss(student, inputs)
    assert read["teacher"] == [24 * (3 + 2 * views)]
    assert read["student"] == [24 * (3 + 2 * (2 if augment else 1))]


def test_tied_heads_get_both_gradients(tmp_path, toy_model, batch):
    """The fused gradient of GPT-2's tied head adds to the embedding's, as autograd's does."""
    inputs, blocks = batch
    teacher = toy_model(seed=2)
    gradients = []
    for fused in (True, False):
        student = toy_model(seed=1)
        assert student.get_output_embeddings().weight is student.get_input_embeddings().weight
        if fused:
            trainer = make_trainer(tmp_path, student, teacher, blocks, TargetConfig(), LossConfig(kd=0.0, ce=1.0))
            trainer.compute_loss(student, {**inputs, "student_rows": torch.tensor(len(blocks))}).backward()
        else:
            rows = slice(len(blocks))
            logits = student(
                input_ids=inputs["input_ids"][rows], position_ids=inputs["position_ids"][rows], use_cache=False
            ).logits
            labels = inputs["labels"][rows]
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED).backward()
        gradients.append(student.get_input_embeddings().weight.grad)
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def test_training_goes_on_bit_for_bit(tmp_path):
    """Checkpoints every 2 of 6 steps, all but an early one lost: the end is the same to the last bit, dropout on."""
    arguments = {"steps": 6, "save_steps": 2, "dropout": 0.1, "optim": "adamw_torch", "save_total_limit": 3}
    train_toy.main(str(tmp_path / "whole"), 4, 1, **arguments)
    shutil.copytree(tmp_path / "whole" / "checkpoints", tmp_path / "again" / "checkpoints")
    for lost in (4, 6):
        shutil.rmtree(tmp_path / "again" / "checkpoints" / f"checkpoint-{lost}")
    train_toy.main(str(tmp_path / "again"), 4, 1, **arguments)
    want, got = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("whole", "again"))
    assert all(torch.equal(want[k], got[k]) for k in want)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "again" / "student")
    assert model.config.n_layer == 2


def test_a_finished_training_is_not_trained_further(tmp_path):
    """A student that is lost after its last checkpoint comes back as it was; the learning rate does not end at 0."""
    arguments = {"steps": 3, "save_steps": 3, "lr_scheduler_type": "constant"}
    train_toy.main(str(tmp_path), 4, 1, **arguments)
    want = load_file(tmp_path / "student" / "model.safetensors")
    shutil.rmtree(tmp_path / "student")
    train_toy.main(str(tmp_path), 4, 1, **arguments)
    got = load_file(tmp_path / "student" / "model.safetensors")
    assert all(torch.equal(want[k], got[k]) for k in want)


def test_one_kept_checkpoint_is_too_few(tmp_path):
    with pytest.raises(UserError, match="save_total_limit"):
        training_arguments(Recipe(trainer={"save_total_limit": 1}), tmp_path)
    with pytest.raises(UserError, match="trainer"):
        training_arguments(Recipe(trainer={"lr_scheduler_type": "cosinus"}), tmp_path)


def test_no_is_a_strategy_although_yaml_reads_it_as_false(tmp_path):
    (tmp_path / "recipe.yaml").write_text("trainer: {save_strategy: no}\n", encoding="utf-8")
    for given in (["--config", str(tmp_path / "recipe.yaml")], ["--trainer.save_strategy", "no"]):
        recipe = parse_recipe([*given, "--corpus.max_documents", "1", "--held_out.max_documents", "1"])
        assert training_arguments(recipe, tmp_path).save_strategy == "no"
