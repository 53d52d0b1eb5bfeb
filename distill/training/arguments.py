"""The recipe -> transformers' TrainingArguments and the settings of the loss."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, parse_flag_from_env
from transformers import TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.utils import is_torch_tf32_available

from distill.base.console import warn
from distill.base.errors import UserError, first_line
from distill.objective.chunks import ChunkSizes
from distill.objective.kd_loss import sizes_of_chunks
from distill.objective.settings import LossSettings
from distill.privacy.accountant import require_accountant
from distill.recipe import Recipe
from distill.training.processes import training_alone, use_all_cores
from distill.training.trainer_keys import check_trainer_keys, of_their_kinds

# Where the recipe is silent. Names and meanings are those of TrainingArguments.
_DEFAULTS: dict[str, Any] = {
    "report_to": "none",
    "project": "distill",  # trackio's
    "max_grad_norm": 1.0,
    "lr_scheduler_type": "cosine",
    "logging_steps": 20,
    "save_steps": 200,
    "save_total_limit": 2,
    "optim": "adamw_torch",
    "dataloader_pin_memory": False,
    "logging_nan_inf_filter": False,  # asks the device after every micro-batch; we ask once a step, and stop
    "ddp_timeout": 24 * 3600,  # seconds; one process samples and packs text, or scores, while the others wait
}

# On a GPU, over those: the update is one kernel, and the next batch is made and copied while the GPU works.
_GPU_DEFAULTS: dict[str, Any] = {
    "optim": "adamw_torch_fused",
    "dataloader_pin_memory": True,
    "accelerator_config": {"non_blocking": True},
}

# Trackers that are called as their packages are.
_TRACKERS = ("trackio", "tensorboard", "wandb", "mlflow")


def start_processes(recipe: Recipe) -> None:
    """Share the cores among this run's processes, and let these find each other, before anything else asks for them.

    How long one may wait for another (`trainer.ddp_timeout`) holds from the first time that they meet:
    TrainingArguments would come too late with it, and on a CPU brings none.

    Raises:
        UserError: the trainer's keys are none, the backend that they name is not there, or these processes have ended a
            run before.
    """
    given = _given(recipe)
    on_cpu = bool(given.get("use_cpu"))
    use_all_cores(on_gpu=torch.cuda.is_available() and not on_cpu)
    try:
        timeout = timedelta(seconds=given["ddp_timeout"])
        processes = PartialState(cpu=on_cpu, backend=given.get("ddp_backend"), timeout=timeout)
    except (ValueError, TypeError, OverflowError) as error:  # others are of the network, or of a device
        raise UserError(f"trainer.ddp_backend, or ddp_timeout: {first_line(error)}") from None
    # Where they met is still written in the launcher's store, so that at a second time some wait there in vain.
    if processes.num_processes > 1 and not torch.distributed.is_initialized():
        raise UserError(
            f"the {processes.num_processes} processes that were started have ended a run together, and cannot meet for "
            "another one; start them anew for each run"
        )


def training_arguments(recipe: Recipe, folder: Path) -> TrainingArguments:
    """Trainer's settings: the recipe's over our defaults; `tf32` says whether the products of its steps are in TF32.

    Raises:
        UserError: TrainingArguments refuses a value, or the processes that were started cannot work together so.
    """
    given = _given(recipe)
    if recipe.corpus.pack == "while_training":
        _check_streamed(recipe.trainer)
    if given["save_total_limit"] is not None and given["save_total_limit"] < 2:
        raise UserError("trainer.save_total_limit must be at least 2: with one, a kill while saving loses everything")
    _check_files(given)
    _leave_launchers_settings(given)
    try:
        arguments = _made(
            output_dir=str(folder), seed=recipe.seed, data_seed=recipe.seed, remove_unused_columns=False, **given
        )
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        # Of a value among several names it says what it is and not whose: "adam is not a valid OptimizerNames".
        key = next((f".{key}" for key, value in given.items() if str(error).startswith(f"{value} is not")), "")
        raise UserError(f"trainer{key}: {first_line(error)}") from None
    # A run trains two students, and trackers tell runs apart by their names.
    arguments.run_name = f"{arguments.run_name or Path(recipe.output_dir).name}-{folder.name}"
    _require_trackers(arguments)
    if arguments.n_gpu > 1:
        raise UserError(
            f"one process sees {arguments.n_gpu} GPUs, over which its batches cannot be split; start one process for "
            "each with accelerate launch --multi_gpu, or set CUDA_VISIBLE_DEVICES to one of them"
        )
    _check_processes(arguments)
    _check_cuda_graphs(arguments)
    if recipe.is_private:
        require_accountant()
        _check_private(arguments)
    if recipe.student.lora.r and takes_models_apart(arguments):
        raise UserError(
            "student.lora.r is set, but FSDP and DeepSpeed would take a shared base apart; an adapter's gradients and "
            "optimizer are small, so train it with recipes/accelerate/ddp.yaml"
        )
    if recipe.student.remove_directions and takes_models_apart(arguments):
        raise UserError(
            "student.remove_directions is set, but FSDP and DeepSpeed would take the student apart, whose hidden "
            "states are looked at as a whole; train it with recipes/accelerate/ddp.yaml"
        )
    return arguments


def _given(recipe: Recipe) -> dict[str, Any]:
    """What TrainingArguments is given: the recipe's keys over our defaults. Raises UserError for what it cannot be."""
    check_trainer_keys(recipe.trainer)
    given = {
        **_DEFAULTS,
        **_defaults_of_device(recipe),
        "hub_model_id": Path(recipe.output_dir).name,
        **of_their_kinds(recipe.trainer),
    }
    # YAML reads a plain `no`, which is the name of a strategy, as false.
    given |= {name: "no" for name, value in given.items() if name.endswith("_strategy") and value is False}
    if given.get("bf16") and not torch.accelerator.is_available():
        if given.get("use_cpu") is False:
            raise UserError(
                "trainer.bf16 is true and trainer.use_cpu false, but no GPU is seen; set one of the two the other way"
            )
        given["use_cpu"] = True  # Trainer wants to be told so; processors have bf16 too
    return given


def _check_files(given: Mapping[str, Any]) -> None:
    """Raises UserError for a file with settings of FSDP or DeepSpeed that is none, on which TrainingArguments fails."""
    # It takes DeepSpeed's in other forms too, and says what it can be where that is no file.
    read = {"fsdp_config": bool(given.get("fsdp")), "deepspeed": os.path.exists(str(given.get("deepspeed")))}
    for key in (key for key, is_read in read.items() if is_read):
        file = given.get(key)
        if not isinstance(file, str) or file.startswith("{"):  # the settings themselves
            continue
        try:
            is_object = isinstance(json.loads(Path(file).read_text(encoding="utf-8")), dict)
        except (OSError, ValueError, RecursionError):
            is_object = False
        if not is_object:
            raise UserError(f"trainer.{key} is {file}, which is no file that holds a JSON object; name one that does")


def _leave_launchers_settings(given: Mapping[str, Any]) -> None:
    """Keep what the launcher, or a file of `accelerate config`, says of formats and compiling out of the training.

    It would change what is learned, and a run's recipe would not tell; transformers takes it where a recipe is silent.
    accelerate would compile the loss too, by graphs that may write over gradients, and turn on products in TF32.
    """
    asked = os.environ.pop("ACCELERATE_MIXED_PRECISION", "no").lower()
    own = next((name for name in ("fp16", "bf16") if given.get(name)), "no")
    if asked not in ("no", own):
        warn(
            f"the launcher asks for mixed precision {asked}, but it is the recipe that says in which format a student "
            f"is trained, and it says {'float32' if own == 'no' else own}; to change that, set trainer.bf16 or "
            "trainer.fp16"
        )
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if backend == "no":
        return
    os.environ["ACCELERATE_DYNAMO_BACKEND"] = "NO"  # its presence tells of a launcher, see `use_all_cores`
    if not any(given.get(name) for name in ("torch_compile", "torch_compile_backend", "torch_compile_mode")):
        warn(
            f"the launcher asks to compile models with {backend}, but it is the recipe that says whether they are, "
            "and it does not; to change that, set trainer.torch_compile"
        )


@training_alone()
def _made(**given: Any) -> TrainingArguments:
    arguments = TrainingArguments(**given)
    # Of what it has turned on nothing is left here, and it does so once in a process.
    if arguments.tf32 is None and arguments.torch_compile and not arguments.fp16 and is_torch_tf32_available():
        arguments.tf32 = True
    return arguments


def uses_cuda_graphs(arguments: TrainingArguments) -> bool:
    """Whether compiled models run as CUDA graphs, whose outputs lie where the next graph's may."""
    if not arguments.torch_compile or arguments.device.type != "cuda":
        return False
    of_inductor = arguments.torch_compile_mode in ("reduce-overhead", "max-autotune")
    return {"cudagraphs": True, "inductor": of_inductor}.get(str(arguments.torch_compile_backend), False)


def _check_cuda_graphs(arguments: TrainingArguments) -> None:
    """Raises UserError for gradients that would be added to where a graph writes them anew."""
    if uses_cuda_graphs(arguments) and arguments.gradient_accumulation_steps > 1:
        raise UserError(
            "trainer.torch_compile_mode or torch_compile_backend asks for CUDA graphs, which write gradients over "
            "those of the micro-batch before, and trainer.gradient_accumulation_steps is above 1; leave one of the two "
            "out, and raise per_device_train_batch_size instead"
        )


def _defaults_of_device(recipe: Recipe) -> dict[str, Any]:
    """Raises UserError where a device is asked for that cannot train, or the launcher leaves it out."""
    on_cpu = recipe.trainer.get("use_cpu")
    if parse_flag_from_env("ACCELERATE_USE_CPU"):  # which models obey, and TrainingArguments.device does not
        if on_cpu is False:
            raise UserError(
                "trainer.use_cpu is false, but the launcher asks for the CPU (--cpu, or use_cpu in its configuration); "
                "change one of the two"
            )
        on_cpu = True
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is not None and device.type != "cuda":  # which ROCm's are called, too
        if on_cpu is False:
            raise UserError(
                f"trainer.use_cpu is false, but the device here is {device.type}, and only GPUs of NVIDIA or AMD train "
                "(losses are summed in float64, which others lack); leave it out, and the CPU trains"
            )
        on_cpu = True
    if on_cpu:
        return {"use_cpu": True}
    if not torch.cuda.is_available():
        return {}
    found = dict(_GPU_DEFAULTS)
    # Private steps draw their own documents; readers of a stream share out its text, so that their number changes it; a
    # client's few steps of a round are made before two processes have been started.
    if not (recipe.is_private or recipe.federation.clients) and recipe.corpus.pack == "before_training":
        found["dataloader_num_workers"] = 2
        # They stay for the next epoch, which would wait for new ones to start; of none, none can stay.
        workers = of_their_kinds(recipe.trainer).get("dataloader_num_workers", 2)
        found["dataloader_persistent_workers"] = workers != 0
    if recipe.trainer.get("dataloader_pin_memory") is False:
        del found["accelerator_config"]  # nothing else can be copied so
    return found


def _check_private(arguments: TrainingArguments) -> None:
    """Raises UserError for what private steps were not tried with, or have no use for."""
    untried = {
        "fp16": arguments.fp16,
        "tf32": arguments.tf32,
        "torch_compile": arguments.torch_compile,
        "gradient_checkpointing": arguments.gradient_checkpointing,
        "neftune_noise_alpha": arguments.neftune_noise_alpha,
        "FSDP": _is_fsdp(arguments),
        "DeepSpeed": arguments.deepspeed_plugin is not None,
    }
    for name, asked in untried.items():
        if asked:
            key = f"trainer.{name}" if name in vars(arguments) else name
            raise UserError(
                f"privacy.epsilon is set, and {key} asked for, with which the gradients of single documents were not "
                "tried; leave it out"
            )
    if arguments.gradient_accumulation_steps > 1:
        raise UserError(
            "privacy.epsilon is set, so that trainer.gradient_accumulation_steps has no effect: "
            "per_device_train_batch_size documents are read at a time; say how many a step draws in privacy.batch_size"
        )
    for key in ("dataloader_num_workers", "dataloader_drop_last", "dataloader_persistent_workers"):
        if getattr(arguments, key):
            raise UserError(f"privacy.epsilon is set, so that trainer.{key} has no effect: each step draws its own "
                            "documents; leave it out")  # fmt: skip
    if arguments.train_sampling_strategy != "random":
        raise UserError(
            "privacy.epsilon is set, so that documents are drawn; leave trainer.train_sampling_strategy out"
        )
    if any(name in arguments.optim.value for name in ("lomo", "layerwise")):
        raise UserError(
            f"privacy.epsilon is set, but trainer.optim {arguments.optim.value} takes gradients as they are made, "
            "before they are clipped and get their noise; take adamw_torch or sgd"
        )


def _require_trackers(arguments: TrainingArguments) -> None:
    """Raises UserError for a tracker that cannot be had: its callback fails where its package is missing."""
    for tracker in arguments.report_to:
        try:
            for callback in get_reporting_integration_callbacks([tracker]):
                callback()
        except Exception as error:  # of whatever kind a tracker raises
            if tracker in _TRACKERS and find_spec(tracker) is None:
                raise UserError(
                    f"trainer.report_to is {tracker}, but the package {tracker} is not installed; pip install "
                    f"{tracker}, or set it to none"
                ) from None
            raise UserError(f"trainer.report_to: {first_line(error)}") from None


def takes_models_apart(arguments: TrainingArguments) -> bool:
    """Whether FSDP or DeepSpeed shares a student among processes, or moves it elsewhere."""
    return _is_fsdp(arguments) or arguments.deepspeed_plugin is not None


def _is_fsdp(arguments: TrainingArguments) -> bool:
    """Whether FSDP was asked for, in the recipe or by the launcher."""
    return bool(arguments.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP"))


def _check_streamed(trainer: Mapping[str, Any]) -> None:
    """Raises UserError for settings of the order of blocks, where these are packed while training."""
    for key in ("train_sampling_strategy", "dataloader_drop_last", "dataloader_persistent_workers"):
        if trainer.get(key):
            raise UserError(
                f"trainer.{key} has no effect on text that is packed while training (corpus.pack), which has no end "
                "and an order of its own; leave it out"
            )


def _check_processes(arguments: TrainingArguments) -> None:
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != arguments.world_size:
        raise UserError(
            f"{started} processes were started, but there is no GPU for them, so that each would train by itself; "
            "add --trainer.use_cpu true to train on the CPU, or start one process"
        )
    if parse_flag_from_env("ACCELERATE_USE_PARALLELISM_CONFIG"):
        raise UserError(
            "the launcher's configuration has a parallelism_config, but the loss reads the whole output head; leave it "
            "out, and use DDP or FSDP2 (recipes/accelerate)"
        )
    of_deepspeed = arguments.deepspeed_plugin.deepspeed_config if arguments.deepspeed_plugin is not None else {}
    for name in ("bf16", "fp16"):
        if of_deepspeed.get(name, {}).get("enabled") is True and not getattr(arguments, name):
            raise UserError(
                f"DeepSpeed's file asks for {name}, but it is the recipe that says in which format a student is "
                f"trained; set trainer.{name} to true, or {name} in that file to auto"
            )
    if arguments.deepspeed_plugin is not None and arguments.deepspeed_plugin.zero_stage > 2:
        raise UserError(
            "DeepSpeed's ZeRO-3 hides the weights of the output head, which the loss reads; set zero_stage to 2, or "
            "shard with FSDP2 (recipes/accelerate/fsdp2.yaml)"
        )
    if not _is_fsdp(arguments):
        return
    given = arguments.fsdp_plugin_args or {}
    if arguments.distributed_state.distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU):
        raise UserError(
            "FSDP shards models over several GPUs, and accelerate leaves it out on a CPU or with one process; "
            "use recipes/accelerate/ddp.yaml, or torchrun for several processes on a CPU"
        )
    if int(given.get("fsdp_version", os.environ.get("FSDP_VERSION", "1"))) != 2:
        raise UserError(
            "FSDP1 flattens the weights of the output head, which the loss reads; set fsdp_version to 2 in fsdp_config"
        )
    if parse_flag_from_env("FSDP_CPU_RAM_EFFICIENT_LOADING"):
        raise UserError(
            "with fsdp_cpu_ram_efficient_loading only the first process would load the teacher; set it to false in the "
            "fsdp_config (teacher.shard spreads the teacher over the GPUs once it is loaded)"
        )


def clips_head(recipe: Recipe) -> bool:
    """Whether the head's gradient is clipped, for which the loss goes through each document by itself."""
    return recipe.is_private and recipe.privacy.weights == "all"


def loss_settings(recipe: Recipe) -> LossSettings:
    """The recipe's loss and target as the loss takes them."""
    return LossSettings(**asdict(recipe.loss), op=recipe.target.op, strength=recipe.target.strength)


def chunks_of_loss(arguments: TrainingArguments, recipe: Recipe, vocab: int) -> ChunkSizes:
    """In what pieces the loss goes through rows of V numbers, on the device and in the format of this training."""
    dtype = torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else torch.float32
    return sizes_of_chunks(loss_settings(recipe), torch.device(arguments.device), vocab, dtype, clips_head(recipe))
