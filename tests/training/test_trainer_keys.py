"""The keys of a recipe's trainer: every field of TrainingArguments is looked at, and none is without effect."""

from dataclasses import MISSING, fields

import pytest
import transformers
from packaging.version import Version
from shared import REPOSITORY
from transformers import TrainingArguments

from distill.base.errors import UserError
from distill.recipe import CorpusConfig, Recipe
from distill.training.arguments import training_arguments
from distill.training.trainer_keys import OWN_KEYS, REFUSED_KEYS, check_trainer_keys, of_their_kinds

FIELDS = {f.name: f for f in fields(TrainingArguments)}

#: Each of them was looked at, in the version of transformers that constraints.txt names and in 5.10, the least that is
#: supported: Trainer or we do with it what transformers says.
FREE_KEYS = {
    # Batches and steps.
    "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps",
    "train_sampling_strategy", "dataloader_drop_last", "dataloader_num_workers", "dataloader_pin_memory",
    "dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context",
    "dataloader_in_order",
    # Optimizer and schedule.
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "weight_decay",
    "optim_target_modules", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "neftune_noise_alpha",
    # Numbers, memory, speed.
    "bf16", "fp16", "tf32", "full_determinism", "gradient_checkpointing", "gradient_checkpointing_kwargs",
    "activation_checkpointing", "activation_checkpointing_kwargs", "torch_compile", "torch_compile_backend",
    "torch_compile_mode", "torch_empty_cache_steps", "use_cpu",
    # Several processes.
    "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend",
    "ddp_timeout", "fsdp", "fsdp_config", "deepspeed",
    # Logs, trackers, checkpoints, the hub.
    "logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "log_level", "log_level_replica",
    "disable_tqdm", "report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id",
    "trackio_static_space_id", "save_strategy", "save_steps", "save_total_limit", "push_to_hub", "hub_token",
    "hub_private_repo", "hub_model_id", "hub_strategy", "hub_revision",
}  # fmt: skip

#: Free in older versions, which have another name for them by now.
OLDER_KEYS = {"warmup_ratio"}


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_set_by_us_or_refused_or_was_looked_at(name):
    """A field of a new version is free until somebody has looked at it here."""
    places = [name in keys for keys in (OWN_KEYS, REFUSED_KEYS, FREE_KEYS | OLDER_KEYS)]
    assert sum(places) == 1, f"{name}: look at what Trainer does with it, and put it in one of the three"


def test_nothing_is_classified_that_does_not_exist():
    """But for keys that other versions have."""
    pins = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line)
    if Version(transformers.__version__) < Version(pins["transformers"]):
        pytest.skip("an older version of transformers, which lacks some")
    assert FREE_KEYS | OWN_KEYS.keys() | REFUSED_KEYS.keys() - {"group_by_length", "logging_dir"} <= FIELDS.keys()


@pytest.mark.parametrize("name", REFUSED_KEYS)
def test_a_key_without_effect_is_refused_with_the_reason_unless_it_asks_for_nothing(name):
    with pytest.raises(UserError, match=rf"^trainer\.{name} has no place here: \w"):
        check_trainer_keys({name: "something"})
    if name in FIELDS:
        field = FIELDS[name]
        check_trainer_keys({name: field.default if field.default is not MISSING else field.default_factory()})


@pytest.mark.parametrize("name", OWN_KEYS)
def test_a_key_that_is_ours_to_set_is_refused(name):
    with pytest.raises(UserError, match=rf"^trainer\.{name} is set by distill itself; \w"):
        check_trainer_keys({name: 1})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("label_smoothing_factor", 0.1, "does not smooth labels"),
        ("resume_from_checkpoint", "outputs/run", "continues by itself, from the newest whole checkpoint"),
        ("do_eval", True, "students are scored when they are trained"),
        ("eval_strategy", "steps", "students are scored"),
        ("save_strategy", "best", "save_strategy is best, but nothing is evaluated"),
        ("lr_scheduler_type", "reduce_lr_on_plateau", "nothing is evaluated"),
        ("use_liger_kernel", True, "distill's, which is fused already"),
        ("group_by_length", True, "all blocks are of one length"),
        ("train_sampling_strategy", "group_by_length", "must be random or sequential"),
        ("save_only_model", True, "without its optimizer no training could continue"),
        ("learning_rate", "abc", "is 'abc', but must be a number"),
        ("learning_rate", None, "must be a number"),
        ("max_steps", "ten", "is 'ten', but must be a whole number"),
        ("learning_rate", float("nan"), "must be a number"),
        ("learning_rate", -1e-3, "must be at least 0"),
        ("per_device_train_batch_size", 0, "is 0, but must be at least 1"),
        ("per_device_train_batch_size", 2.5, "a whole number"),
        ("gradient_accumulation_steps", 0, "at least 1"),
        ("num_train_epochs", 0, "must be above 0"),
        ("max_steps", -2, "at least -1"),
        ("save_steps", 0, "above 0"),
        ("bf16", "yes", "true or false"),
        ("run_name", 7, "text that is no number in YAML; begin it with a letter"),
        ("lr_scheduler_kwargs", 3, "a dictionary"),
        ("learning_rat", 1, "did you mean 'learning_rate'"),
    ],
)
def test_values_that_cannot_be_had_are_refused(key, value, words):
    with pytest.raises(UserError, match=words):
        check_trainer_keys({key: value})


def test_settings_copied_from_elsewhere_that_ask_for_nothing_pass():
    """YAML reads a plain `no` as false."""
    check_trainer_keys({"eval_strategy": False, "label_smoothing_factor": 0, "do_eval": False, "debug": ""})


def test_numbers_that_yaml_reads_as_text_are_numbers():
    keys = {"learning_rate": "1e-3", "max_steps": "20", "optim": "sgd", "save_steps": 0.5}
    check_trainer_keys(keys)
    assert of_their_kinds(keys) == {"learning_rate": 0.001, "max_steps": 20, "optim": "sgd", "save_steps": 0.5}


@pytest.mark.parametrize("key", ["train_sampling_strategy", "dataloader_drop_last", "dataloader_persistent_workers"])
def test_settings_of_an_order_that_a_stream_does_not_have(key, tmp_path):
    trainer = {key: "sequential" if key == "train_sampling_strategy" else True, "use_cpu": True, "max_steps": 3}
    if key == "dataloader_persistent_workers":
        trainer["dataloader_num_workers"] = 1
    training_arguments(Recipe(trainer=trainer), tmp_path)
    with pytest.raises(UserError, match=rf"{key} has no effect on text that is packed while training"):
        training_arguments(Recipe(trainer=trainer, corpus=CorpusConfig(pack="while_training")), tmp_path)
