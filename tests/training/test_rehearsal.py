"""What Trainer will make is made before any work, and what cannot be made is told then."""

import pytest

from distill.base.errors import UserError
from distill.recipe import Recipe
from distill.training.arguments import training_arguments
from distill.training.rehearsal import rehearse


def rehearsed(trainer, folder, student=None):
    rehearse(training_arguments(Recipe(trainer={"use_cpu": True, **trainer}), folder), student)


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
    ],
)
def test_what_can_be_made_leaves_the_student_as_it_was(tmp_path, toy_model, trainer):
    student = toy_model()
    before = {name: weight.clone() for name, weight in student.state_dict().items()}
    use_cache = student.config.use_cache
    rehearsed(trainer, tmp_path / "run", student)
    assert all((student.state_dict()[name] == weight).all() for name, weight in before.items())
    assert student.config.use_cache == use_cache
    assert not (tmp_path / "run").exists()


def test_a_model_without_gradient_checkpointing_is_named(tmp_path, toy_model):
    student = toy_model()
    student.supports_gradient_checkpointing = False
    with pytest.raises(UserError, match="a GPT2LMHeadModel does not have it"):
        rehearsed({"gradient_checkpointing": True}, tmp_path, student)
