"""All that Trainer makes of its settings, made once before any work: optimizer, schedule, data loader, compiler.

Trainer makes them when all text is packed, and would end with a traceback then: a package that is missing, a schedule
without the arguments that it wants. Here they are made on the untrained student, or on two small layers where there is
none yet, and thrown away.
"""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, Trainer, TrainingArguments

from distill.base.errors import UserError, first_line

_SOME_STEPS = 1000  # where the number of steps depends on how much text there is


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
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the training itself will say them
        quiet = copy(arguments)
        quiet.output_dir, quiet.report_to, quiet.push_to_hub = folder, [], False
        layers = nn.Sequential(nn.Embedding(2, 2), nn.Linear(2, 2))
        with _told_as("the trainer", "see the keys of TrainingArguments"):
            trainer = Trainer(layers, quiet, train_dataset=[0])
        with _told_as("dataloader_*", "see torch.utils.data.DataLoader"):
            trainer.get_train_dataloader()
        with _told_as(f"optim {arguments.optim.value}", "see trainer.optim_args and optim_target_modules"):
            trainer.model = layers if student is None else student
            trainer.create_optimizer()
        with _told_as(f"lr_scheduler_type {arguments.lr_scheduler_type.value}", "see trainer.lr_scheduler_kwargs"):
            _schedule(trainer, arguments.max_steps if arguments.max_steps > 0 else _SOME_STEPS)
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


def _schedule(trainer: Trainer, steps: int) -> None:
    """The schedule, asked for the learning rate at its beginning, middle and end."""
    schedule = trainer.create_scheduler(steps)
    for at in (0, 1, steps // 2, steps):
        for rate in getattr(schedule, "lr_lambdas", ()):
            rate(at)


def _checkpointed(arguments: TrainingArguments) -> None:
    kwargs = dict(arguments.gradient_checkpointing_kwargs or {})
    for of_trainer in ("every_n_layers", "offload"):  # Trainer's own
        kwargs.pop(of_trainer, None)
    checkpoint(nn.Identity(), torch.ones(1, requires_grad=True), **{"use_reentrant": False, **kwargs})
