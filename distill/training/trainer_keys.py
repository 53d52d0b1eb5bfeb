"""The keys of a recipe's `trainer`: transformers' TrainingArguments, but for those that have no effect here.

A key is one of three:

    set by distill      a second value would contradict it; refused with the recipe's own key
    refused             Trainer would leave it without effect, fail on it after hours, or make two students that cannot
                        be compared; refused with the reason, unless its value asks for nothing (the default)
    free                means here what it means to transformers; every other key, those of later versions too

A test goes through all fields of the installed TrainingArguments, so that a new one is looked at when the version that
the tests run with is raised.
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from types import NoneType
from typing import Any, get_args, get_type_hints

from transformers import TrainingArguments

from distill.base.errors import UserError, suggestion

#: Set by the pipeline itself -> what to use instead.
OWN_KEYS = {
    "output_dir": "use the recipe's key 'output_dir'",
    "seed": "use the recipe's key 'seed'",
    "data_seed": "use the recipe's key 'seed'",
    "remove_unused_columns": "leave it out",
    "label_names": "leave it out",
    "logging_nan_inf_filter": "use the recipe's key 'on_nonfinite'",
    "local_rank": "the launcher numbers the processes",
}

_NOT_EVALUATED = "nothing is evaluated while training; students are scored when they are trained (see 'scores')"
_EVALUATION = (
    "eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "do_eval", "do_predict", "per_device_eval_batch_size",
    "eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object", "prediction_loss_only",
    "include_for_metrics", "batch_eval_metrics", "bf16_full_eval", "fp16_full_eval", "load_best_model_at_end",
    "metric_for_best_model", "greater_is_better",
)  # fmt: skip
_SAME_LENGTH = "all blocks are of one length"
_RESUMES_ITSELF = "the same command continues by itself, from the newest whole checkpoint and exactly where it stopped"

#: Refused -> why, and what to do instead where there is something.
REFUSED_KEYS = {
    **dict.fromkeys(_EVALUATION, _NOT_EVALUATED),
    "label_smoothing_factor": "the loss is distill's own, which does not smooth labels; see the recipe's 'loss'",
    "use_liger_kernel": "Liger's fused loss would take the place of distill's, which is fused already",
    "liger_kernel_config": "Liger's fused loss would take the place of distill's, which is fused already",
    "average_tokens_across_devices": "the loss is always the mean over the tokens of all processes",
    "auto_find_batch_size": "baseline and student could train with batches of different sizes; lower "
    "per_device_train_batch_size and raise gradient_accumulation_steps",
    "use_cache": "training needs no cache of keys and values, and the finished student has it switched on",
    "resume_from_checkpoint": _RESUMES_ITSELF,
    "ignore_data_skip": _RESUMES_ITSELF,
    "restore_callback_states_from_checkpoint": _RESUMES_ITSELF,
    "enable_jit_checkpoint": "SIGTERM and SIGINT save a checkpoint as it is",
    "save_only_model": "from a checkpoint without its optimizer no training could continue; set save_strategy to no "
    "for a training without checkpoints",
    "save_on_each_node": "checkpoints of all processes lie in one folder that all nodes share",
    "do_train": "training is what a recipe is for",
    "logging_dir": "trackers' files lie beside the run's; the variable TENSORBOARD_LOGGING_DIR names another folder",
    "group_by_length": _SAME_LENGTH,
    "length_column_name": _SAME_LENGTH,
    "include_num_input_tokens_seen": "the log and training/NAME.json count the tokens as they are",
    "skip_memory_metrics": "the log says the peak of the memory as it is",
    "debug": "a number that is not finite is traced to its text as it is; see the recipe's 'on_nonfinite'",
    "hub_always_push": "only the finished student is pushed",
    "accelerator_config": "distill shares the blocks out among the processes itself",
    "parallelism_config": "the loss reads the whole output head; use DDP or FSDP2, see recipes/accelerate",
}  # fmt: skip

# Key -> values that are refused, and why; the others are free.
_REFUSED_VALUES: dict[str, tuple[tuple[str, ...], str]] = {
    "save_strategy": (("best",), _NOT_EVALUATED),
    "lr_scheduler_type": (("reduce_lr_on_plateau", "greedy"), _NOT_EVALUATED),
    "hub_strategy": (
        ("checkpoint", "all_checkpoints"),
        "checkpoints are not pushed, only the finished student with its card; leave it out",
    ),
}

# Key -> the only values, where TrainingArguments takes any.
_CHOICES = {"train_sampling_strategy": ("random", "sequential")}  # the others group texts by length

# Key -> the least value, and whether it may be that value itself.
_LEAST: dict[str, tuple[int, bool]] = {
    "per_device_train_batch_size": (1, True),
    "gradient_accumulation_steps": (1, True),
    "num_train_epochs": (0, False),
    "max_steps": (-1, True),
    "learning_rate": (0, True),
    "weight_decay": (0, True),
    "max_grad_norm": (0, True),
    "save_steps": (0, False),
    "logging_steps": (0, False),
    "dataloader_num_workers": (0, True),
    "ddp_timeout": (0, False),
}


def check_trainer_keys(trainer: Mapping[str, Any]) -> None:
    """Reject keys of a recipe's `trainer` that TrainingArguments does not know, or that cannot be had here.

    Raises:
        UserError: names the key, and the nearest one, or why it is refused; or a value that is not of the key's kind or
            out of its range, at which Trainer would fail when all text is packed.
    """
    known = {f.name: f for f in fields(TrainingArguments)}
    kinds = get_type_hints(TrainingArguments)
    for key, value in trainer.items():
        if key in OWN_KEYS:
            raise UserError(f"trainer.{key} is set by distill itself; {OWN_KEYS[key]}")
        if key in REFUSED_KEYS:
            if key in known and _asks_for_nothing(value, known[key]):
                continue
            raise UserError(f"trainer.{key} has no place here: {REFUSED_KEYS[key]}")
        if key not in known:
            raise UserError(f"trainer: unknown key '{key}'; {suggestion(key, known)}")
        if wrong := _wrong_kind(value, kinds[key]):
            raise UserError(f"trainer.{key} is {value!r}, but must be {wrong}")
        _check_value(key, value)


def _check_value(key: str, value: Any) -> None:
    """Raises UserError for a value of the right kind that is out of range, or has no place here."""
    refused, why = _REFUSED_VALUES.get(key, ((), ""))
    if str(getattr(value, "value", value)) in refused:
        raise UserError(f"trainer.{key} is {value}, but {why}")
    choices = _CHOICES.get(key)
    if choices and value not in choices:
        raise UserError(f"trainer.{key} is {value!r}, but must be {' or '.join(choices)}: {_SAME_LENGTH}")
    if key in _LEAST and value is not None:
        least, itself = _LEAST[key]
        if not (float(value) >= least if itself else float(value) > least):
            raise UserError(f"trainer.{key} is {value}, but must be {'at least' if itself else 'above'} {least}")


def _asks_for_nothing(value: Any, field: Field[Any]) -> bool:
    """Whether the value of a refused key is its default, as in settings that were copied from elsewhere."""
    default = field.default if field.default_factory is MISSING else field.default_factory()
    # YAML reads a plain `no`, which is the name of a strategy, as false.
    return value is None or value == getattr(default, "value", default) or (value is False and str(default) == "no")


def _wrong_kind(value: Any, hint: Any) -> str | None:
    """What a value must be that is not of a field's kind; None for one that is, or whose kind has no simple name.

    Numbers may stand in quotes, or as YAML reads 1e-3; see `of_their_kinds`.
    """
    kinds = {*(get_args(hint) or (hint,))}
    if value is None and NoneType in kinds:
        return None
    kinds -= {NoneType}
    if kinds <= {int, float}:
        if not _is_number(value):
            return "a number" if float in kinds else "a whole number"
        return "a whole number" if float not in kinds and float(value) % 1 else None
    if kinds == {bool}:
        return None if isinstance(value, bool) else "true or false"
    if kinds == {str}:
        return None if isinstance(value, str | bool) else "text that is no number in YAML; begin it with a letter"
    if any(kind is dict or getattr(kind, "__origin__", None) is dict for kind in kinds):
        return None if isinstance(value, Mapping | str) else "a dictionary"
    return None


def _is_number(value: Any) -> bool:
    try:
        return value is not None and not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def of_their_kinds(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Checked keys, with the numbers among them as numbers of their kind.

    They may stand in quotes, or as YAML reads 1e-3, which is text; and a whole number may be given as 1e3.
    """
    kinds = get_type_hints(TrainingArguments)
    values = dict(trainer)
    for key, value in values.items():
        of_key = {*(get_args(kinds[key]) or (kinds[key],))} - {NoneType}
        if isinstance(value, str | float) and of_key <= {int, float}:
            values[key] = float(value) if float in of_key else int(float(value))
    return values
