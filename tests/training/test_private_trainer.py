"""Private steps: their gradients, what they draw, their noise, and how they go on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import train_toy
from device_questions import Operations
from launched import train
from private_toy import freeze_head, make_toy, naive_clipped, naive_gradients, norm, private_gradients, settings_of
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes
from transformers.pytorch_utils import Conv1D

from distill.base.errors import UserError
from distill.data.batches import Collator
from distill.models.architecture import backbone, hidden_states
from distill.models.document_attention import try_documents
from distill.objective.chunks import IGNORED
from distill.objective.listed_tokens import ListedTokens
from distill.privacy import accountant, clipping
from distill.privacy.accountant import Plan
from distill.privacy.clipping import Rows
from distill.privacy.draws import Draws
from distill.recipe import PrivacyConfig, Recipe, TargetConfig
from distill.training import arguments, private_trainer
from distill.training.arguments import training_arguments
from distill.training.private_trainer import PrivateTrainer, training_key
from distill.training.run import loss_planner

ARCHITECTURES = ("gpt2", "llama", "gpt_neox")


def difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The norm of the difference over the norm."""
    assert ours.keys() == theirs.keys()
    return norm({name: ours[name] - theirs[name] for name in ours}) / norm(theirs)


def median_clip(toy, weights: str) -> float:
    """A clip that some documents' gradients exceed and some do not."""
    norms = sorted(norm(part) for block in toy.blocks for part in naive_gradients(toy, block) if part)
    return norms[len(norms) // 2] * (1 if weights == "body" else 2)


# -------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("weights", ["body", "all"])
def test_clipped_sums_are_those_of_autograd_document_by_document(architecture, groups, weights, monkeypatch):
    """In fp64: single rows, pairs and triples, some documents above the clip and some below it; and their norms."""
    toy = make_toy(architecture, groups)
    if weights == "body":
        freeze_head(toy.student)
    heads, bodies, add = [], [], private_trainer.add_clipped
    monkeypatch.setattr(private_trainer, "add_clipped", lambda *given: bodies.append(add(*given)))
    monkeypatch.setattr(private_trainer, "ClippedHead", lambda *given: heads.append(clipping_head(*given)) or heads[-1])
    clip = median_clip(toy, weights)
    ours = private_gradients(toy, toy.blocks, clip)
    assert difference(ours, naive_clipped(toy, toy.blocks, clip)) < 1e-5
    naive = [naive_gradients(toy, block) for block in toy.blocks]
    torch.testing.assert_close(bodies[0].tolist(), [norm(body) for body, _ in naive], rtol=1e-5, atol=0)
    if weights == "all":
        torch.testing.assert_close(heads[0].norms.tolist(), [norm(head) for _, head in naive], rtol=1e-5, atol=0)


clipping_head = private_trainer.ClippedHead
BROKEN = {
    "gpt2": (nn.LayerNorm, Conv1D, nn.Embedding),
    "llama": (nn.Linear, "_rms_norm"),
}


@pytest.mark.parametrize(("architecture", "layer"), [(a, layer) for a, layers in BROKEN.items() for layer in layers])
def test_a_broken_rule_fails_that_comparison_and_is_refused_before_training(architecture, layer, monkeypatch):
    """A rule that forgets the first token of each row: the norms, and with them the sums, are others."""
    toy = make_toy(architecture, 2)
    whole = getattr(clipping, layer) if isinstance(layer, str) else clipping.RULES[layer]

    def forgetful(module, inputs, gradient, rows):
        gradient = gradient.clone()
        gradient[:, 0] = 0
        return whole(module, inputs, gradient, rows)

    if isinstance(layer, str):
        monkeypatch.setattr(clipping, layer, forgetful)
    else:
        monkeypatch.setitem(clipping.RULES, layer, forgetful)
    clip = median_clip(toy, "all")
    assert difference(private_gradients(toy, toy.blocks, clip), naive_clipped(toy, toy.blocks, clip)) > 1e-4
    layers = clipping.layers_of(toy.student, left_out=[toy.student.get_output_embeddings()])
    with pytest.raises(UserError, match="come out wrong in the layer"):
        clipping.check_layers(toy.student, layers)


def test_micro_batches_add_up():
    """A batch read one document at a time gives what it gives at once."""
    toy = make_toy("gpt2", 2)
    clip = median_clip(toy, "all")
    at_once = private_gradients(toy, toy.blocks, clip)
    toy.student.zero_grad()
    for block in toy.blocks:
        one_by_one = private_gradients(toy, [block], clip)
    assert difference(one_by_one, at_once) < 1e-10


@pytest.mark.parametrize("weights", ["body", "all"])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_a_document_changes_the_sum_by_the_clip_at_most(weights, half):
    """The law that epsilon rests on, for documents far above the clip; also under autocast."""
    toy = make_toy("gpt2", 2, torch.float32)
    if weights == "body":
        freeze_head(toy.student)
    clip = 1e-3
    sums = []
    for left_out in (None, 0, len(toy.blocks) - 1):
        toy.student.zero_grad()
        blocks = [block for number, block in enumerate(toy.blocks) if number != left_out]
        sums.append(private_gradients(toy, blocks, clip, half))
    for without in sums[1:]:
        change = norm({name: sums[0][name] - without[name] for name in without})
        assert 0.3 * clip < change <= clip * (1 + 1e-6)


# ----------------------------------------------------------------------------------------------------------- the steps


@pytest.fixture(autouse=True)
def _known_noise(monkeypatch):
    """A noise multiplier of 0.2, in the place of the accountant's, which takes seconds and a package."""
    for module in (accountant, arguments):
        monkeypatch.setattr(module, "require_accountant", lambda: None)
    monkeypatch.setattr(accountant, "least_noise", lambda *_: 0.2)


PRIVACY = {"epsilon": 8.0, "batch_size": 40, "clip": 0.5}


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "student" / "model.safetensors")


def test_training_goes_on_bit_for_bit(tmp_path, steps_made):
    """Draws, dropout and noise are those of a training that was never stopped; the second epoch has begun."""
    options = {"steps": 5, "save_steps": 2, "dropout": 0.1, "optim": "adamw_torch", "save_total_limit": 9}
    options["privacy"] = PRIVACY | {"weights": "all"}
    train_toy.main(str(tmp_path / "whole"), 4, 1, **options)
    shutil.copytree(tmp_path / "whole" / "checkpoints", tmp_path / "again" / "checkpoints")
    for lost in (4, 5):
        shutil.rmtree(tmp_path / "again" / "checkpoints" / f"checkpoint-{lost}")
    steps_made.clear()
    train_toy.main(str(tmp_path / "again"), 4, 1, **options)
    assert steps_made == [3, 4, 5]
    want, got = weights_of(tmp_path / "whole"), weights_of(tmp_path / "again")
    untrained = load_file(tmp_path / "whole" / "untrained.safetensors")
    assert all(torch.equal(want[name], got[name]) and not torch.equal(want[name], untrained[name]) for name in want)


def test_norms_are_made_in_float32_whatever_a_notebook_has_set(tmp_path, monkeypatch):
    """Products in TF32 would round a norm by a thousand times what the clip allows for."""
    inside = []

    def watched(*args, **named):
        inside.append(torch.get_float32_matmul_precision())
        return hidden_states(*args, **named)

    monkeypatch.setattr("distill.training.student_loss.hidden_states", watched)
    torch.set_float32_matmul_precision("high")
    try:
        train_toy.main(str(tmp_path), 4, 1, steps=1, privacy=PRIVACY)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(inside) == {"highest"}


def test_neither_rows_at_once_nor_a_cache_nor_processes_change_what_is_learned(tmp_path):
    """SGD: the same documents and the same noise, whoever reads them."""
    options = {"steps": 3, "save_strategy": "no", "privacy": PRIVACY | {"weights": "all"}}
    train_toy.main(str(tmp_path / "one"), 4, 1, **options)
    train_toy.main(str(tmp_path / "few"), 3, 1, **options, teacher_keys={"cache_hidden_states": True})
    train(tmp_path / "two", 4, processes=2, **options)
    want = weights_of(tmp_path / "one")
    for other in ("few", "two"):
        got = weights_of(tmp_path / other)
        assert all(torch.allclose(want[name], got[name], rtol=1e-4, atol=1e-6) for name in want)


@pytest.mark.parametrize("what", ["rate", "text"])
def test_noise_does_not_cancel_between_trainings_of_one_seed(tmp_path, monkeypatch, what):
    """Positions that no document reaches learn from noise alone: at another rate, or of a text with one other document,
    it is new."""
    options = {"steps": 2, "save_strategy": "no", "privacy": PRIVACY}
    texts = train_toy.toy_documents()
    learned = []
    for rate, document in ((0.1, texts[0]), (0.2, texts[0]) if what == "rate" else (0.1, "The king saw her.")):
        folder = tmp_path / f"{len(learned)}"
        monkeypatch.setattr(train_toy, "toy_documents", lambda first=document: [first, *texts[1:]])
        train_toy.main(str(folder), 8, 1, **options, learning_rate=rate)
        name = "transformer.wpe.weight"
        before = load_file(folder / "untrained.safetensors")[name]
        learned.append(((weights_of(folder)[name] - before) / rate)[48:].flatten())
    assert len(learned[0]) > 300
    assert all(float(noise.std()) > 0 for noise in learned)
    assert abs(torch.corrcoef(torch.stack(learned))[0, 1]) < 0.2


def test_what_makes_a_student_another_makes_its_noise_another():
    plan = Plan(8.0, 1e-3, 0.5, 0.5, 100, 10, 10, 1)
    recipe = Recipe(target=TargetConfig(op="expmean"), privacy=PrivacyConfig(epsilon=8.0), trainer={"optim": "sgd"})
    others = [
        recipe.plain(),
        replace(recipe, privacy=PrivacyConfig(epsilon=4.0)),
        replace(recipe, loss=replace(recipe.loss, ce=0.25)),
        replace(recipe, student=replace(recipe.student, num_layers=1)),
        replace(recipe, teacher=replace(recipe.teacher, path="another")),
        replace(recipe, trainer={"optim": "sgd", "learning_rate": 0.1}),
    ]
    keys = [training_key(of, plan, "text") for of in (recipe, *others)]
    keys += [training_key(recipe, replace(plan, steps=11), "text"), training_key(recipe, plan, "another text")]
    assert len(set(keys)) == len(keys) == 9
    same = replace(recipe, output_dir="elsewhere", trainer={"optim": "sgd", "per_device_train_batch_size": 3})
    assert training_key(same, replace(plan, noise_multiplier=0.6), "text") == keys[0]


def test_what_was_spent_is_told_and_secure_draws_never_come_back(tmp_path):
    """Under autocast too. Twice the same recipe: other documents, other noise, the same account."""
    options = {"steps": 2, "save_strategy": "no", "bf16": True, "privacy": PRIVACY | {"secure": True}}
    for name in ("once", "again"):
        train_toy.main(str(tmp_path / name), 8, 1, **options)
        told = json.loads((tmp_path / name / "training" / "student.json").read_text(encoding="utf-8"))["privacy"]
        assert told | {"weights": 0, "noise_ratio": 0.0} == {
            "epsilon": 8.0, "delta": 1 / 120, "noise_multiplier": 0.2, "noise_ratio": 0.0, "clip": 0.5,
            "documents": 120, "batch_size": 40, "steps": 2, "weights": 0, "trained": "body", "secure": True,
        }  # fmt: skip
    once, again = weights_of(tmp_path / "once"), weights_of(tmp_path / "again")
    assert not torch.equal(once["transformer.wpe.weight"], again["transformer.wpe.weight"])


def test_the_head_is_frozen_and_another_plan_or_text_does_not_go_on_silently(tmp_path, monkeypatch):
    options = {"steps": 2, "save_steps": 1}
    train_toy.main(str(tmp_path), 4, 1, **options, privacy=PRIVACY)
    trained, untrained = weights_of(tmp_path), load_file(tmp_path / "untrained.safetensors")
    frozen = [name for name in trained if torch.equal(trained[name], untrained[name])]
    assert frozen == ["transformer.wte.weight"]  # the tied head; `weights: body` is the default
    shutil.rmtree(tmp_path / "student")
    with pytest.raises(UserError, match=r"trained with batch_size 40 and not 30, so that what is spent"):
        train_toy.main(str(tmp_path), 4, 1, **options, privacy=PRIVACY | {"batch_size": 30})
    texts = train_toy.toy_documents()
    monkeypatch.setattr(train_toy, "toy_documents", lambda: ["The king saw her.", *texts[1:]])
    shutil.rmtree(tmp_path / "cache-0")
    with pytest.raises(UserError, match=r"trained on other text, or by another version .* remove the folder"):
        train_toy.main(str(tmp_path), 4, 1, **options, privacy=PRIVACY)


@pytest.mark.parametrize("found", [0.2002, 0.1])
def test_noise_that_another_machine_finds_in_another_digit_stays_that_of_the_checkpoint(tmp_path, monkeypatch, found):
    """If with it all steps still spend epsilon at most, which they do not where the noise was too little."""
    options = {"steps": 2, "save_steps": 1, "privacy": PRIVACY}
    train_toy.main(str(tmp_path / "whole"), 4, 1, **options)
    shutil.copytree(tmp_path / "whole" / "checkpoints", tmp_path / "moved" / "checkpoints")
    shutil.rmtree(tmp_path / "moved" / "checkpoints" / "checkpoint-2")
    monkeypatch.setattr(accountant, "least_noise", lambda *_: found)
    monkeypatch.setattr(accountant, "spent", lambda noise, *_: 8.0 * 0.2 / noise if found > 0.2 else 9.0)
    if found < 0.2:
        with pytest.raises(UserError, match=r"trained with noise_multiplier 0\.2 and not 0\.1, so that what is spent"):
            train_toy.main(str(tmp_path / "moved"), 4, 1, **options)
        return
    train_toy.main(str(tmp_path / "moved"), 4, 1, **options)
    want, got = weights_of(tmp_path / "whole"), weights_of(tmp_path / "moved")
    assert all(torch.equal(want[name], got[name]) for name in want)
    record = json.loads((tmp_path / "moved" / "training" / "student.json").read_text(encoding="utf-8"))
    assert record["privacy"]["noise_multiplier"] == 0.2


class Blocks(list):
    """Blocks in memory, as `BlockDataset` gives them."""

    def __getitems__(self, indices):
        return [self[index] for index in indices]

    def first_pieces(self):
        return np.arange(len(self))

    def lengths(self):
        return np.array([(block.labels != IGNORED).any(axis=0).sum() for block in self])


def make_trainer(folder: Path, seed: int | None = 0, batch_size: int = 2, noise: float = 0.5, weights="all", **keys):
    """A private trainer of toy documents."""
    toy = make_toy("gpt2", 2, torch.float32)
    if weights == "body":
        freeze_head(toy.student)
    plan = Plan(8.0, 1e-3, noise, 0.5, len(toy.blocks), batch_size, 10, 1)
    return PrivateTrainer(
        plan=plan,
        draws=Draws(seed),
        model=toy.student,
        args=training_arguments(Recipe(trainer={"use_cpu": True, "max_steps": 1, **keys}), folder),
        train_dataset=Blocks(toy.blocks),
        data_collator=Collator(2, augment=True, trim=True),
        teacher=toy.teacher,
        settings=settings_of(toy),
        role_maps=toy.role_maps,
        listed=ListedTokens.of(toy.role_maps),
    )


@pytest.mark.parametrize("seed", [0, None], ids=["seed", "operating system"])
def test_a_step_that_draws_nothing_gets_the_noise_of_any_other(tmp_path, seed):
    """Its standard deviation is noise * clip / batch size, in every weight."""
    trainer = make_trainer(tmp_path, seed)
    trainer.training_step(trainer.model, {"documents": torch.zeros(0, dtype=torch.long)})
    noise = torch.cat([weight.grad.flatten() for weight in trainer.model.parameters()])
    assert len(noise) > 20_000
    assert noise.std() == pytest.approx(0.5 * 0.5 / 2, rel=0.03)
    assert abs(noise.mean()) < 4 * noise.std() / len(noise) ** 0.5
    assert all(weight.grad.std() > 0 for weight in trainer.model.parameters())


@pytest.mark.parametrize("weights", ["body", "all"])
def test_a_micro_batch_asks_the_device_nothing(tmp_path, weights, monkeypatch):
    """Which rows are whose is asked of the CPU; how the loss goes through them, where the batch is made."""

    def rows_on_the_cpu(*given):
        with _disable_current_modes():
            return Rows(*given)

    monkeypatch.setattr(private_trainer, "Rows", rows_on_the_cpu)
    trainer = make_trainer(tmp_path, weights=weights)
    vocab = len(trainer.model.get_output_embeddings().weight)
    recipe = Recipe(privacy=PrivacyConfig(epsilon=8.0, weights=weights), target=TargetConfig(op="expmean"))
    plan = loss_planner(trainer.args, recipe, True, vocab)
    collate = Collator(2, augment=True, trim=True, plan=plan, by_document=weights == "all")
    inputs = collate(trainer.train_dataset[:4])
    assert all(try_documents(backbone(model)) for model in (trainer.teacher, trainer.model))
    trainer._add_clipped(inputs)
    with Operations() as done:
        trainer._add_clipped(inputs)
    assert not done.questions


def test_the_sum_is_divided_by_what_is_drawn_on_average(tmp_path):
    """Not by what was drawn, which is not for anybody to know."""
    gradients = []
    for batch_size in (1, 4):
        trainer = make_trainer(tmp_path, batch_size=batch_size, noise=0.0)
        trainer.training_step(trainer.model, {"documents": torch.arange(3)})
        gradients.append(trainer.model.transformer.wpe.weight.grad.clone())
        trainer.model.zero_grad()
    torch.testing.assert_close(gradients[0], 4 * gradients[1])


def test_documents_are_drawn_by_chance_and_read_the_shortest_first(tmp_path):
    trainer = make_trainer(tmp_path)
    lengths = trainer.train_dataset.lengths()
    drawn = [trainer.documents_of(step).tolist() for step in range(400)]
    assert all(sorted(of_step, key=lambda n: lengths[n]) == of_step for of_step in drawn)
    assert sum(map(len, drawn)) / 400 == pytest.approx(2, abs=0.25)
    assert [] in drawn and max(map(len, drawn)) > 3
    assert drawn[:5] == [trainer.documents_of(step).tolist() for step in range(5)]


def test_a_layer_between_the_widths_of_student_and_teacher_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"loss.hidden are set, but student and teacher differ in width"):
        train_toy.main(str(tmp_path), 4, 1, student={"n_embd": 16}, privacy=PRIVACY)
