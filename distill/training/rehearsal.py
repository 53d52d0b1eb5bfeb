"""All that Trainer makes of its settings, made once before any work: optimizer, schedule, data loader, compiler.

Trainer makes them when all text is packed, and would end with a traceback then: a package that is missing, a schedule
without the arguments that it wants. Here they are made on the untrained student, or on two small layers where there is
none yet, and thrown away. They are made without each key of theirs, too: one that makes no difference is refused.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import MISSING, fields
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, Trainer, TrainingArguments

from distill.base.errors import UserError, first_line
from distill.training.processes import training_alone

_SOME_STEPS = 1000  # where the number of steps depends on how much text there is


@training_alone()
def rehearse(arguments: TrainingArguments, student: PreTrainedModel | None) -> None:
    """Make what a training will need, and throw it away.

    Args:
        arguments: The trainer's.
        student: As it will be trained, before it is; None where it cannot be made before the text is read.

    Raises:
        UserError: one of them cannot be made; names the keys that ask for it.
    """
    if arguments.gradient_checkpointing and student is not None and not student.supports_gradient_checkpointing:
        raise UserError(
            f"trainer.gradient_checkpointing is true, but a {type(student).__name__} does not have it; leave it out"
        )
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):  # the training says them
        quiet = copy(arguments)
        quiet.output_dir, quiet.report_to, quiet.push_to_hub = folder, [], False
        layers = nn.Sequential(nn.Embedding(2, 2), nn.Linear(2, 2))
        with _told_as("the trainer", "see the keys of TrainingArguments"):
            trainer = Trainer(layers, quiet, train_dataset=[0])
        with _told_as("dataloader_*", "see torch.utils.data.DataLoader"):
            trainer.get_train_dataloader()
        with _told_as(f"optim {arguments.optim.value}", "see trainer.optim_args and optim_target_modules"):
            trainer.model = layers if student is None else student
            _optimizer(trainer)
        steps = arguments.max_steps if arguments.max_steps > 0 else _SOME_STEPS
        with _told_as(f"lr_scheduler_type {arguments.lr_scheduler_type.value}", "see trainer.lr_scheduler_kwargs"):
            _schedule(trainer, steps)
        _refuse_idle_keys(trainer, steps)
        if arguments.gradient_checkpointing:
            with _told_as("gradient_checkpointing_kwargs", "see torch.utils.checkpoint"):
                _checkpointed(arguments)
        if arguments.torch_compile:
            with _told_as("torch_compile_backend or torch_compile_mode", "see torch.compile"):
                torch.compile(nn.Identity(), backend=arguments.torch_compile_backend, mode=arguments.torch_compile_mode)


@contextmanager
def _told_as(what: str, hint: str) -> Iterator[None]:
    """Turn whatever a library raises into a UserError: which kinds these are, each decides for itself."""
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else first_line(error)
        raise UserError(f"trainer: {what} cannot be had ({reason}); {hint}") from None


def _optimizer(trainer: Trainer) -> str:
    """The optimizer is made; all that it was given, as text."""
    trainer.optimizer = None
    made = trainer.create_optimizer()
    groups = [{**group, "params": [id(weight) for weight in group["params"]]} for group in made.param_groups]
    own = {name: value for name, value in vars(made).items() if isinstance(value, int | float | str | tuple)}
    return repr((type(made), made.defaults, groups, own))


def _schedule(trainer: Trainer, steps: int) -> list[float]:
    """The schedule is made; the factors of the learning rate that it gives at its beginning and on the way."""
    trainer.lr_scheduler = None
    rates = getattr(trainer.create_scheduler(steps), "lr_lambdas", ())
    points = sorted({*range(min(steps, 200) + 1), *(steps * part // 8 for part in range(9))})
    return [rate(at) for rate in rates for at in points]


# ---------------------------------------------------------------------------------------------------------- idle keys

# Which of these they heed, each optimizer and each schedule decides for itself.
_OF_OPTIMIZERS = ("optim_target_modules", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay")
_OF_SCHEDULES = ("warmup_steps", "lr_scheduler_kwargs")


def _refuse_idle_keys(trainer: Trainer, steps: int) -> None:
    """Raises UserError for a key that the chosen optimizer, schedule or checkpointing does not heed.

    Not for one that has its default value, as in settings that were copied from elsewhere.
    """
    arguments = trainer.args
    optim = f"optim {arguments.optim.value}"
    for number, item in enumerate(items := _items(arguments.optim_args)):
        name, rest = item.partition("=")[0], items[:number] + items[number + 1 :]
        # A value that no number, type or choice has, which is an error where it is heeded, and one that all may have:
        # that of the recipe may be the optimizer's own.
        others = (rest, [*rest, f"{name}=?"], [*rest, f"{name}=1"])
        if not any(_changes(_optimizer, trainer, optim_args=",".join(other)) for other in others):
            raise _idle(f"optim_args holds {item}, which", optim, "leave it out")
    defaults: dict[str, Any] = {
        field.name: None if field.default is MISSING else field.default for field in fields(TrainingArguments)
    }
    for key in (key for key in _OF_OPTIMIZERS if getattr(arguments, key) != defaults[key]):
        if not _changes(_optimizer, trainer, **{key: defaults[key]}):
            raise _idle(f"{key} is {getattr(arguments, key)}, which", optim, f"set it to {_written(defaults[key])}")
    schedule = f"lr_scheduler_type {arguments.lr_scheduler_type.value}"
    for key in (key for key in _OF_SCHEDULES if getattr(arguments, key) not in (None, {}, defaults[key])):
        values = (defaults[key], {"?": 1} if key.endswith("kwargs") else defaults[key])
        if not any(_changes(_schedule, trainer, steps, **{key: value}) for value in values):
            raise _idle(f"{key} is {getattr(arguments, key)}, which", schedule, f"set it to {_written(defaults[key])}")
    if arguments.gradient_checkpointing_kwargs and not arguments.gradient_checkpointing:
        newer = getattr(arguments, "activation_checkpointing_kwargs", None)  # not yet in transformers 5.10
        name = "activation_checkpointing" if newer else "gradient_checkpointing"
        raise _idle(f"{name}_kwargs is set, which", f"a training without {name}", f"set trainer.{name} to true")


def _items(optim_args: str | None) -> list[str]:
    return [item for item in (optim_args or "").replace(" ", "").split(",") if item]


def _written(default: Any) -> str:
    return f"{'null' if default is None else default}, its default, or leave it out"


def _idle(what: str, of: str, hint: str) -> UserError:
    return UserError(f"trainer.{what} changes nothing of {of}; {hint}")


def _changes(make: Callable[..., Any], trainer: Trainer, *given: Any, **keys: Any) -> bool:
    """Whether `make` gives something else, or fails, when the trainer's arguments have these keys."""
    before, arguments = make(trainer, *given), trainer.args
    trainer.args = copy(arguments)
    vars(trainer.args).update(keys)
    try:
        return bool(make(trainer, *given) != before)
    except Exception:  # which kinds these are, each library decides for itself
        return True
    finally:
        trainer.args = arguments


def _checkpointed(arguments: TrainingArguments) -> None:
    kwargs = dict(arguments.gradient_checkpointing_kwargs or {})
    for of_trainer in ("every_n_layers", "offload"):  # Trainer's own
        kwargs.pop(of_trainer, None)
    checkpoint(nn.Identity(), torch.ones(1, requires_grad=True), **{"use_reentrant": False, **kwargs})
