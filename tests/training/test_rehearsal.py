"""What Trainer will make is made before any work, and what cannot be made is told then."""

import os
from dataclasses import fields

import pytest
import torch
import transformers
from transformers import TrainingArguments

from distill.base.errors import UserError
from distill.recipe import Recipe
from distill.training.arguments import training_arguments
from distill.training.rehearsal import rehearse


def rehearsed(trainer, folder, student=None):
    rehearse(training_arguments(Recipe(trainer={"use_cpu": True, **trainer}), folder), student)


def require_keys(trainer):
    """Skip the test of keys that the installed version of transformers does not have yet."""
    if lacking := trainer.keys() - {field.name for field in fields(TrainingArguments)}:
        pytest.skip(f"transformers {transformers.__version__} lacks {', '.join(lacking)}")


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        ({"optim": "lomo"}, r"optim lomo cannot be had \(.*lomo"),  # a package that nothing here brings in
        ({"optim": "sgd", "optim_args": "momentum"}, r"optim sgd cannot be had .*optim_args"),
        ({"adam_beta1": 2}, "Invalid beta"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, r"cosine_with_min_lr cannot be had .*lr_scheduler_kwargs"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, r"num_decay_steps.*lr_scheduler_kwargs"),
        ({"lr_scheduler_kwargs": {"num_cycle": 1}}, "num_cycle"),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": "abc"}}, "polynomial cannot be had"),
        ({"dataloader_num_workers": 1, "dataloader_multiprocessing_context": "spoon"}, r"dataloader_\* cannot be had"),
        ({"dataloader_persistent_workers": True}, "num_workers"),
        ({"activation_checkpointing": True, "activation_checkpointing_kwargs": {"abc": 1}}, "abc"),
        ({"log_level": "loud"}, "the trainer cannot be had"),
        ({"torch_compile": True, "torch_compile_mode": "abc"}, "torch_compile_mode cannot be had"),
    ],
)
@pytest.mark.parametrize("with_student", [False, True])
def test_what_cannot_be_made_is_one_sentence(tmp_path, toy_model, trainer, words, with_student):
    require_keys(trainer)
    with pytest.raises(UserError, match=words) as told:
        rehearsed(trainer, tmp_path / "run", toy_model() if with_student else None)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "trainer",
    [
        {},
        {"max_steps": 0},
        {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 5}},
        {"optim": "adafactor"},
        {"gradient_checkpointing": True},
        {"full_determinism": True},
    ],
)
def test_what_can_be_made_leaves_the_student_as_it_was(tmp_path, toy_model, trainer, monkeypatch):
    monkeypatch.setattr("os.environ", dict(os.environ))  # which transformers adds to
    student = toy_model()
    before = {name: weight.clone() for name, weight in student.state_dict().items()}
    use_cache = student.config.use_cache
    rehearsed(trainer, tmp_path / "run", student)
    assert all((student.state_dict()[name] == weight).all() for name, weight in before.items())
    assert student.config.use_cache == use_cache
    assert not (tmp_path / "run").exists()
    assert not torch.are_deterministic_algorithms_enabled()  # text is sampled next


def test_a_model_without_gradient_checkpointing_is_named(tmp_path, toy_model):
    student = toy_model()
    student.supports_gradient_checkpointing = False
    with pytest.raises(UserError, match="a GPT2LMHeadModel does not have it"):
        rehearsed({"gradient_checkpointing": True}, tmp_path, student)


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        ({"optim_args": "betas=3"}, "optim_args holds betas=3, .* optim adamw_torch"),
        ({"optim": "sgd", "optim_args": "momentum=0.9, eps=3"}, "optim_args holds eps=3, .* optim sgd"),
        ({"optim_target_modules": ["attn"]}, "optim_target_modules is .* optim adamw_torch"),
        ({"optim": "sgd", "adam_epsilon": 1e-6}, "adam_epsilon is 1e-06, .* optim sgd"),
        ({"optim": "adafactor", "adam_beta1": 0.8}, "adam_beta1 is 0.8, .* optim adafactor"),
        ({"lr_scheduler_type": "constant", "warmup_steps": 10}, "warmup_steps is 10, .* lr_scheduler_type constant"),
        ({"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"num_cycles": 3}}, "lr_scheduler_kwargs is"),
        ({"activation_checkpointing_kwargs": {"use_reentrant": False}}, "checkpointing_kwargs is set, .* without"),
    ],
)
@pytest.mark.parametrize("with_student", [False, True])
def test_a_key_that_the_chosen_optimizer_or_schedule_does_not_heed_is_refused(
    tmp_path, toy_model, trainer, words, with_student
):
    require_keys(trainer)
    with pytest.raises(UserError, match=f"{words}.*; (leave it out|set)"):
        rehearsed(trainer, tmp_path / "run", toy_model() if with_student else None)


@pytest.mark.parametrize(
    "trainer",
    [
        {"optim": "sgd", "optim_args": "momentum=0.9"},
        {"optim": "sgd", "optim_args": "momentum=0, nesterov=false"},  # heeded, although they are its own
        {"optim": "adagrad", "optim_args": "eps=1e-10"},
        {"optim": "sgd", "adam_epsilon": 1e-8, "weight_decay": 0.1},  # 1e-8 is Trainer's own
        {"adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-6, "weight_decay": 0.1},
        {"optim": "adafactor", "weight_decay": 0.1},
        {"warmup_steps": 0.1, "learning_rate": 0},
        {"warmup_steps": 3, "max_steps": 1_000_000},
        {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 10},
        {"lr_scheduler_kwargs": {"num_cycles": 0.5}},  # cosine's own
        {"lr_scheduler_type": "inverse_sqrt", "lr_scheduler_kwargs": {"timescale": 30}},
        {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}},
    ],
)
def test_a_key_that_is_heeded_is_not_refused(tmp_path, toy_model, trainer):
    require_keys(trainer)
    for student in (None, toy_model()):
        rehearsed(trainer, tmp_path / "run", student)
