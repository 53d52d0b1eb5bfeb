"""The recipe's settings of the trainer: what they become, and which cannot be had."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from accelerate.utils import DynamoBackend, TorchDynamoPlugin
from shared import REPOSITORY
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

import distill.training.arguments
from distill.base.errors import UserError
from distill.recipe import CorpusConfig, FederationConfig, PrivacyConfig, Recipe, TargetConfig
from distill.recipe_check import parse_recipe
from distill.training.arguments import (
    _check_cuda_graphs,
    _check_private,
    _check_processes,
    _defaults_of_device,
    start_processes,
    training_arguments,
    uses_cuda_graphs,
)


def test_one_kept_checkpoint_is_too_few(tmp_path):
    with pytest.raises(UserError, match="save_total_limit"):
        training_arguments(Recipe(trainer={"save_total_limit": 1}), tmp_path)
    for key, value in (("lr_scheduler_type", "cosinus"), ("optim", "adam"), ("report_to", "mlflowx")):
        with pytest.raises(UserError, match=rf"^trainer\.{key}: {value} is not"):
            training_arguments(Recipe(trainer={key: value}), tmp_path)


@pytest.mark.parametrize("content", [None, "[1]", "{", "\0"])
@pytest.mark.parametrize("key", ["fsdp_config", "deepspeed"])
def test_a_file_of_settings_that_is_none_is_told_by_its_key(tmp_path, key, content):
    """transformers opens it by itself, and would end with a traceback, or as if the run's own files were gone."""
    file = tmp_path / "settings.json"
    if content is None:
        file.mkdir()
    else:
        file.write_text(content, encoding="utf-8")
    for path in [file, tmp_path / "absent.json"][: 2 if key == "fsdp_config" else 1]:
        trainer = {"use_cpu": True, "fsdp": key == "fsdp_config", key: str(path)}
        with pytest.raises(UserError, match=rf"^trainer\.{key} is {path}, which is no file that holds a JSON object;"):
            training_arguments(Recipe(trainer=trainer), tmp_path)


@pytest.mark.parametrize(
    ("keys", "tf32"),
    [
        ({}, None),
        ({"tf32": True}, True),
        ({"tf32": False}, False),
        ({"torch_compile": True, "bf16": True}, True),
        ({"torch_compile": True}, True),
        ({"torch_compile": True, "tf32": False}, False),
    ],
)
def test_products_in_tf32_are_those_of_steps_alone(monkeypatch, tmp_path, keys, tf32):
    """As on a card that has them: transformers turns them on for the whole process, text and scores too."""
    for module in (transformers.training_args, distill.training.arguments):
        monkeypatch.setattr(module, "is_torch_tf32_available", lambda: True)
    transformers.training_args.enable_tf32.cache_clear()  # which does what it is asked for once in a process
    for _ in range(2):
        arguments = training_arguments(Recipe(trainer=keys), tmp_path)
        assert arguments.tf32 is tf32
        assert torch.backends.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "none"
        assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_only_gpus_of_cuda_train(monkeypatch, tmp_path, kind):
    """Apple's have no float64, nor have many of Intel's; what else there is was not tried."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device(kind))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    for keys in ({}, {"bf16": True}, {"use_cpu": True}):
        assert training_arguments(Recipe(trainer=keys), tmp_path).device.type == "cpu"
    with pytest.raises(UserError, match=rf"^trainer\.use_cpu is false, but the device here is {kind}, .*float64"):
        training_arguments(Recipe(trainer={"use_cpu": False}), tmp_path)


def test_a_gpu_has_defaults_of_its_own(monkeypatch):
    assert _defaults_of_device(Recipe()) == {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    everything = {
        "optim": "adamw_torch_fused",
        "dataloader_pin_memory": True,
        "dataloader_num_workers": 2,
        "dataloader_persistent_workers": True,
        "accelerator_config": {"non_blocking": True},
    }
    assert _defaults_of_device(Recipe()) == everything
    assert _defaults_of_device(Recipe(trainer={"use_cpu": True})) == {"use_cpu": True}
    without = Recipe(trainer={"dataloader_pin_memory": False})  # what lies elsewhere is not copied meanwhile
    assert "accelerator_config" not in _defaults_of_device(without)
    for number, stay in ((0, False), ("0", False), (1, True)):
        assert _defaults_of_device(Recipe(trainer={"dataloader_num_workers": number})) == {
            **everything, "dataloader_persistent_workers": stay
        }  # fmt: skip
    # Readers would take each other's text, private steps have none, and a client makes few steps at a time.
    for keys in (
        {"corpus": CorpusConfig(pack="while_training")},
        {"privacy": PrivacyConfig(epsilon=8.0)},
        {"federation": FederationConfig(clients=4)},
    ):
        recipe = Recipe(**keys)
        assert _defaults_of_device(recipe).keys() == everything.keys() - {
            "dataloader_num_workers", "dataloader_persistent_workers"
        }  # fmt: skip


@pytest.mark.parametrize("gpu", [False, True])
def test_a_launcher_that_asks_for_the_cpu_gets_it(monkeypatch, tmp_path, gpu):
    """accelerate launch --cpu: models followed it, and inputs went to the GPU that the machine has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    for keys in ({}, {"bf16": True}, {"use_cpu": True}):
        made = training_arguments(Recipe(trainer=keys), tmp_path)
        assert made.use_cpu and made.device.type == "cpu"
        assert (made.optim, made.dataloader_num_workers) == ("adamw_torch", 0)
    with pytest.raises(UserError, match=r"^trainer\.use_cpu is false, but the launcher asks for the CPU"):
        training_arguments(Recipe(trainer={"use_cpu": False}), tmp_path)


@pytest.mark.parametrize(
    ("trainer", "variables", "on_gpu"),
    [({}, {}, True), ({"use_cpu": True}, {}, False), ({}, {"ACCELERATE_USE_CPU": "true"}, False)],
)
def test_a_run_on_the_cpu_has_all_cores_beside_a_gpu_too(monkeypatch, trainer, variables, on_gpu):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked = {}

    def processes(**given):
        asked.update(given)
        return SimpleNamespace(num_processes=1)

    monkeypatch.setattr(distill.training.arguments, "use_all_cores", asked.update)
    monkeypatch.setattr(distill.training.arguments, "PartialState", processes)
    start_processes(Recipe(trainer=trainer))
    assert (asked["on_gpu"], asked["cpu"]) == (on_gpu, not on_gpu)


def test_no_is_a_strategy_although_yaml_reads_it_as_false(tmp_path):
    (tmp_path / "recipe.yaml").write_text("trainer: {save_strategy: no}\n", encoding="utf-8")
    for given in (["--config", str(tmp_path / "recipe.yaml")], ["--trainer.save_strategy", "no"]):
        recipe = parse_recipe([*given, "--corpus.max_documents", "1", "--held_out.max_documents", "1"])
        assert training_arguments(recipe, tmp_path).save_strategy == "no"


def test_a_tracker_that_is_not_there_is_a_users_mistake(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"trainer\.report_to: .*pigeon"):
        training_arguments(Recipe(trainer={"report_to": "pigeon"}), tmp_path)

    class Missing(TrainerCallback):
        def __init__(self):
            raise RuntimeError("Missing requires the package missing")

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "missing", Missing)
    with pytest.raises(UserError, match="requires the package missing"):
        training_arguments(Recipe(trainer={"report_to": "missing"}), tmp_path)


@pytest.mark.parametrize("tracker", ["trackio", "tensorboard", "wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_told_with_what_installs_it(tmp_path, monkeypatch, tracker):
    class Missing(TrainerCallback):
        def __init__(self):
            raise RuntimeError("of transformers' own words")

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, tracker, Missing)
    monkeypatch.setattr("distill.training.arguments.find_spec", lambda name: None)
    with pytest.raises(UserError) as told:
        training_arguments(Recipe(trainer={"report_to": tracker}), tmp_path)
    assert str(told.value) == (
        f"trainer.report_to is {tracker}, but the package {tracker} is not installed; pip install {tracker}, or set it "
        "to none"
    )
    assert not any(tmp_path.iterdir())


def test_trackers_can_tell_the_students_of_a_run_apart(tmp_path):
    for given, name in (({}, "mine"), ({"run_name": "try"}, "try")):
        recipe = Recipe(output_dir=str(tmp_path / "mine"), trainer=given)
        for variant in ("baseline", "student"):
            arguments = training_arguments(recipe, tmp_path / "mine" / "checkpoints" / variant)
            assert (arguments.run_name, arguments.project) == (f"{name}-{variant}", "distill")


@pytest.mark.parametrize("asked", ["bf16", "fp16", "fp8", "no"])
@pytest.mark.parametrize("given", [{}, {"bf16": True}])
def test_the_recipe_says_in_which_format_is_trained_and_the_launcher_does_not(
    tmp_path, monkeypatch, capsys, asked, given
):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", asked)
    own = "bf16" if given else "no"
    for _ in range(2):  # of the second student nothing is said
        assert training_arguments(Recipe(trainer={"use_cpu": True, **given}), tmp_path).mixed_precision == own
    told = capsys.readouterr().err
    assert told.count(f"the launcher asks for mixed precision {asked}") == (asked not in ("no", own))
    assert told.count("trainer.bf16") == (asked not in ("no", own))


@pytest.mark.parametrize("asked", ["INDUCTOR", "NO", None])
@pytest.mark.parametrize("given", [{}, {"torch_compile": True}])
def test_the_recipe_says_whether_models_are_compiled_and_the_launcher_does_not(
    tmp_path, monkeypatch, capsys, asked, given
):
    monkeypatch.delenv("ACCELERATE_DYNAMO_BACKEND", raising=False)
    if asked:
        monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", asked)
    for _ in range(2):  # of the second student nothing is said
        own = training_arguments(Recipe(trainer={"use_cpu": True, **given}), tmp_path).torch_compile_backend
        backend = TorchDynamoPlugin(backend=own).backend  # as Trainer makes it
        assert backend == (DynamoBackend.INDUCTOR if given else DynamoBackend.NO)
    assert os.environ.get("ACCELERATE_DYNAMO_BACKEND") == (asked and "NO")  # whether there is a launcher
    assert capsys.readouterr().err.count("asks to compile models with inductor") == (asked == "INDUCTOR" and not given)


@pytest.fixture
def recipe(tmp_path):
    trainer = {"max_steps": 100, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "use_cpu": True}
    return Recipe(output_dir=str(tmp_path / "run"), block_length=32, target=MITIGATED, trainer=trainer)


def arguments(recipe):
    return training_arguments(recipe, Path(recipe.output_dir))


MITIGATED = TargetConfig(op="expmean", reverse_roles=True, augment=True)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_bf16_without_a_gpu_runs_on_the_processor_unless_that_is_forbidden(recipe):
    recipe = replace(recipe, trainer={"bf16": True})
    assert arguments(recipe).use_cpu and arguments(recipe).bf16
    with pytest.raises(UserError, match=r"trainer.bf16 .* trainer.use_cpu false, but no GPU"):
        arguments(replace(recipe, trainer={"bf16": True, "use_cpu": False}))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_the_recipes_for_gpus_get_as_far_as_the_model_without_one(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    recipe = parse_recipe(["--config", "recipes/gpt2.yaml"])
    assert arguments(recipe).device.type == "cpu"


@pytest.mark.parametrize(
    ("environment", "trainer", "words"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, {"use_cpu": False}, "use_cpu"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, {"use_cpu": True}, "leaves it out on a CPU"),
        ({}, {"use_cpu": True, "fsdp": True}, "leaves it out on a CPU"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, {"use_cpu": True}, "has a parallelism_config"),
    ],
)
def test_processes_that_cannot_work_together(tmp_path, monkeypatch, environment, trainer, words):
    if environment.get("WORLD_SIZE") and torch.cuda.is_available():
        pytest.skip("with a GPU, the processes would find each other")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words):
        training_arguments(Recipe(trainer=trainer), tmp_path)


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"fp16": True}, r"trainer.fp16 asked for"),
        ({"torch_compile": True}, r"trainer.torch_compile asked for"),
        ({"gradient_checkpointing": True}, r"trainer.gradient_checkpointing asked for"),
        ({"neftune_noise_alpha": 5.0}, r"trainer.neftune_noise_alpha asked for"),
        ({"gradient_accumulation_steps": 2}, r"gradient_accumulation_steps has no effect.*privacy.batch_size"),
        ({"dataloader_num_workers": 2}, r"dataloader_num_workers has no effect"),
        ({"dataloader_drop_last": True}, r"dataloader_drop_last has no effect"),
        ({"train_sampling_strategy": "sequential"}, r"train_sampling_strategy"),
        ({"optim": "lomo"}, r"optim lomo takes gradients as they are made"),
    ],
)
def test_what_private_steps_were_not_tried_with_is_refused(recipe, trainer, message, monkeypatch):
    monkeypatch.setattr("distill.training.arguments.require_accountant", lambda: None)
    common = {"use_cpu": True, "max_steps": 2}
    private = replace(recipe, privacy=PrivacyConfig(epsilon=8.0), trainer=common)
    arguments(private)
    with pytest.raises(UserError, match=message):
        arguments(replace(private, trainer=common | trainer))


@pytest.mark.parametrize(
    ("attribute", "message"),
    [("fsdp", "FSDP asked for"), ("deepspeed_plugin", "DeepSpeed asked"), ("tf32", "trainer.tf32 asked for")],
)
def test_what_no_cpu_trains_with_is_refused_with_privacy(recipe, attribute, message, monkeypatch):
    """Sharding however it was asked for: in the recipe or by the launcher."""
    made = arguments(recipe)
    monkeypatch.setattr(made, "gradient_accumulation_steps", 1)
    monkeypatch.setattr(made, attribute, "full_shard", raising=False)
    with pytest.raises(UserError, match=message):
        _check_private(made)


def test_privacy_without_the_accountants_package_is_told_before_any_work(recipe, monkeypatch):
    monkeypatch.setattr("distill.privacy.accountant.find_spec", lambda _: None)
    private = replace(recipe, privacy=PrivacyConfig(epsilon=8.0), trainer={"use_cpu": True})
    with pytest.raises(UserError, match=r"pip install 'distill\[private\]'"):
        arguments(private)


def test_gradients_are_not_accumulated_where_a_cuda_graph_writes_them():
    def arguments(backend="inductor", mode=None, device="cuda", steps=2, compiled=True):
        return SimpleNamespace(
            torch_compile=compiled, torch_compile_backend=backend, torch_compile_mode=mode,
            device=torch.device(device), gradient_accumulation_steps=steps,
        )  # fmt: skip

    for given in ({"mode": "reduce-overhead"}, {"mode": "max-autotune"}, {"backend": "cudagraphs"}):
        assert uses_cuda_graphs(arguments(**given))
        _check_cuda_graphs(arguments(**given, steps=1))
        with pytest.raises(UserError, match=r"CUDA graphs, .* trainer.gradient_accumulation_steps is above 1"):
            _check_cuda_graphs(arguments(**given))
        for other in ({"device": "cpu"}, {"compiled": False}):
            _check_cuda_graphs(arguments(**given, **other))
    for given in ({}, {"mode": "max-autotune-no-cudagraphs"}, {"mode": "reduce-overhead", "backend": "eager"}):
        _check_cuda_graphs(arguments(**given))


def test_a_file_of_deepspeeds_own_does_not_say_in_which_format_is_trained(tmp_path):
    made = training_arguments(Recipe(trainer={"use_cpu": True}), tmp_path)
    for asked, given, refused in (
        ("auto", False, False),
        (True, False, True),
        (True, True, False),
        (False, True, False),
    ):
        made.bf16 = given
        made.deepspeed_plugin = SimpleNamespace(zero_stage=2, deepspeed_config={"bf16": {"enabled": asked}})
        if refused:
            with pytest.raises(UserError, match=r"DeepSpeed's file asks for bf16.*trainer\.bf16"):
                _check_processes(made)
        else:
            _check_processes(made)
