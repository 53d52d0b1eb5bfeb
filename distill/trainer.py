"""Blocks of aligned views -> a trained student: transformers' Trainer with a two-view teacher."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard
from accelerate.utils import DistributedType, parse_flag_from_env
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainingArguments,
)
from transformers.activations import ACT2FN, NewGELUActivation
from transformers.integrations import get_reporting_integration_callbacks

from distill import kd_loss
from distill.console import say
from distill.errors import UserError
from distill.logit_ops import RoleMap
from distill.models import head, hidden_states, is_sharded, shard_layers
from distill.packing import IGNORED, BlockDataset, Collator, FilledBatches
from distill.processes import together
from distill.recipe import Recipe
from distill.run_folder import write_folder
from distill.stream import BlockStream, StreamLoader
from distill.teacher_cache import TeacherCache, open_teacher_cache
from distill.training_log import TrainingLog, log_line, token_counts

_COMPLETE = "complete"  # a file of this name is the last thing written to a checkpoint
_PROJECTION = "distill_projection"

# Where the recipe is silent. Names and meanings are those of TrainingArguments.
_DEFAULTS: dict[str, Any] = {
    "report_to": "none",
    "max_grad_norm": 1.0,
    "lr_scheduler_type": "cosine",
    "logging_steps": 20,
    "save_steps": 200,
    "save_total_limit": 2,
    "optim": "adamw_torch",
    "dataloader_pin_memory": False,
    "ddp_timeout": 24 * 3600,  # seconds; one process samples and packs text, or scores, while the others wait
}


@dataclass(frozen=True)
class TeacherView:
    """What the loss needs of the teacher for one batch; R rows, T tokens, K groups.

    hidden: (R * T, Dt) last hidden states. weight: (V, Dt) and bias: (V,) or None, the teacher's head.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None


def fuse_activations(model: nn.Module) -> None:
    """Put torch's GELU in the place of GPT-2's, in place: the same function, but for rounding.

    GPT-2's is written out in eight operations, and training keeps the results of four of them. In a step of a 6-layer
    student with a 12-layer teacher that is a fifteenth of the time and a tenth of the memory. Weights and configuration
    do not change.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, ACT2FN["gelu_pytorch_tanh"])


def attach_loss(student: PreTrainedModel) -> None:
    """Let `student(..., labels=..., settings=...)` return the loss instead of logits.

    The loss has to run inside the forward of the module that DDP or FSDP wraps, or else the gradients of the output
    head are neither gathered nor reduced. Called without `settings`, the student answers as ever.
    """
    plain_forward = student.forward

    def forward(
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        settings: kd_loss.LossSettings | None = None,
        teacher: TeacherView | None = None,
        partner: Tensor | None = None,
        role_maps: Sequence[RoleMap] | None = None,
        **kwargs: Any,
    ) -> Any:
        if settings is None:
            return plain_forward(input_ids=input_ids, position_ids=position_ids, labels=labels, **kwargs)
        hidden = hidden_states(student, input_ids, position_ids).flatten(0, 1)
        weight, bias = head(student)
        projection = getattr(student, _PROJECTION, None)
        return kd_loss.fused_loss(
            hidden,
            weight,
            bias,
            teacher.hidden if teacher else None,
            teacher.weight if teacher else None,
            teacher.bias if teacher else None,
            # The student's rows are the first of the teacher's.
            torch.arange(len(hidden), device=hidden.device),
            partner.flatten(1) if partner is not None else None,
            labels.flatten(),
            settings,
            role_maps,
            projection=projection.weight.T if projection is not None else None,
        )

    student.forward = forward


class DistillationTrainer(Trainer):
    """Trainer whose loss compares the student with a teacher that sees a text and its counterfactuals.

    Each micro-batch gives a sum; the sum is divided once, by the number of valid tokens of the whole optimizer step
    over all accumulation steps and processes, so that neither changes the result.

    Args:
        teacher: Frozen teacher, or None for plain language modelling.
        settings: Weights and form of the loss.
        role_maps: K - 1 maps that undo each shift, or None without role reversal.
        shard_teacher: Share the teacher's layers among the processes.
        kwargs: As for Trainer.
    """

    def __init__(
        self,
        *,
        teacher: PreTrainedModel | None,
        settings: kd_loss.LossSettings,
        role_maps: Sequence[RoleMap] | None,
        shard_teacher: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if self.is_fsdp_enabled and (policy := self.accelerator.state.fsdp_plugin.mixed_precision_policy):
            # accelerate would round what the model returns, the sums of the loss, to 16 bits.
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = replace(policy, output_dtype=None)
        # We divide by the tokens of the whole step ourselves, so Trainer must not divide by accumulation steps.
        self.model_accepts_loss_kwargs = True
        self.settings = settings
        for model in (self.model, teacher):
            if model is not None:
                fuse_activations(model)
        self.teacher = teacher
        if teacher is not None and not is_sharded(teacher):
            teacher.to(self.args.device).eval()
            if shard_teacher and self.args.world_size > 1:
                shard_layers(teacher)
        if self.teacher is not None and self.args.torch_compile:  # accelerate compiles the student
            self.teacher.base_model.compile(backend=self.args.torch_compile_backend, mode=self.args.torch_compile_mode)
        #: Of the hidden states of `train_dataset`; without one, the teacher runs in every epoch.
        self.teacher_cache: TeacherCache | None = None
        self.role_maps = [m.to(self.args.device) for m in role_maps] if role_maps else None
        self.training_log = TrainingLog(self.accelerator)
        self.add_callback(self.training_log)
        for callback in (PrinterCallback, ProgressCallback):  # they print each log as a dictionary
            self.remove_callback(callback)

    def get_train_dataloader(self) -> DataLoader:
        """Trainer's, but for what several processes would share wrongly.

        A stream's readers share out the text themselves. And an epoch of blocks that does not divide among the
        processes is filled up with ones that do not count; its first blocks, which accelerate takes, would be learned
        from twice.
        """
        if isinstance(self.train_dataset, BlockStream):
            return StreamLoader(self.train_dataset, self.data_collator, self._train_batch_size, self.args)
        dataloader = super().get_train_dataloader()
        shards = dataloader.batch_sampler
        if isinstance(shards, BatchSamplerShard) and not shards.drop_last:
            shards.batch_sampler = FilledBatches(shards.batch_sampler, shards.num_processes)
        return dataloader

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Tensor | None:
        if not batch_samples:
            return None
        count = sum((b["labels"][: int(b["student_rows"])] != IGNORED).sum() for b in batch_samples).to(device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    @torch.no_grad()
    def _teacher_view(self, inputs: dict[str, Tensor]) -> tuple[TeacherView | None, Tensor]:
        """What the teacher says of all R rows, and (R,) which of them it read to say so."""
        read = torch.ones(len(inputs["input_ids"]), dtype=torch.bool, device=self.args.device)
        if self.teacher is None:
            return None, ~read

        def predict(rows: Tensor | slice) -> Tensor:
            # Trainer leaves autocast to the student's forward alone.
            with self.accelerator.autocast():
                return hidden_states(self.teacher, inputs["input_ids"][rows], inputs["position_ids"][rows])

        weight, bias = head(self.teacher)
        self.training_log.teacher_time.start()
        if self.teacher_cache is None:
            hidden = predict(slice(None))
        else:
            hidden, read = self.teacher_cache.hidden_states(inputs["source"].cpu(), predict, self.args.device)
            hidden, read = hidden.to(weight.dtype), read.to(self.args.device)
        self.training_log.teacher_time.stop()
        return TeacherView(hidden.flatten(0, 1), weight, bias), read

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, kd_loss.LossParts]:
        """The micro-batch's share of the step's mean loss, scaled so that averaging over processes adds the shares."""
        rows = int(inputs["student_rows"])
        teacher, read = self._teacher_view(inputs)
        parts = model(
            input_ids=inputs["input_ids"][:rows],
            position_ids=inputs["position_ids"][:rows],
            labels=inputs["labels"][:rows],
            settings=self.settings,
            teacher=teacher,
            partner=inputs["partner"][:, :rows] if self.settings.op != "none" else None,
            role_maps=self.role_maps,
        )
        passes = 0 if teacher is None else 1 if self.settings.op == "none" else len(inputs["partner"]) + 1
        weighted = [name for name in ("kd", "ce", "hidden") if getattr(self.settings, name)]
        self.training_log.add(
            {f"loss_{name}": getattr(parts, name) for name in weighted} | token_counts(inputs, passes, read)
        )
        count = parts.count if num_items_in_batch is None else num_items_in_batch
        # DDP and FSDP average gradients over processes; the shares have to be added instead.
        loss = parts.total * (self.args.world_size if num_items_in_batch is not None else 1) / count
        return (loss, parts) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the loss and `TrainingLog.figures`, for the console and every tracker."""
        if "loss" in logs:
            logs |= self.training_log.figures()
            say(log_line(logs, self.state.global_step, self.state.max_steps))
        super().log(logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.training_log.keep(self.state)
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        if isinstance(self.train_dataset, BlockStream):
            self.train_dataset.save(folder)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            (folder / _COMPLETE).touch()


def use_all_cores() -> None:
    """Share the machine's cores among its processes.

    `accelerate launch` without a configuration gives each process of a machine without a GPU a single thread.
    """
    if "ACCELERATE_DYNAMO_BACKEND" in os.environ and torch.get_num_threads() == 1 and not torch.cuda.is_available():
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def newest_complete_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to go on from; ones that a kill left half-written are removed."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    for broken in [c for c in checkpoints if not (c / _COMPLETE).exists()]:
        shutil.rmtree(broken)
    return next((c for c in reversed(checkpoints) if c.exists()), None)


def training_arguments(recipe: Recipe, folder: Path) -> TrainingArguments:
    """Trainer's settings: the recipe's over our defaults.

    Raises:
        UserError: TrainingArguments refuses a value, or the processes that were started cannot work together so.
    """
    given = {**_DEFAULTS, **recipe.trainer}
    if given["save_total_limit"] is not None and given["save_total_limit"] < 2:
        raise UserError("trainer.save_total_limit must be at least 2: with one, a kill while saving loses everything")
    try:
        arguments = TrainingArguments(
            output_dir=str(folder), seed=recipe.seed, data_seed=recipe.seed, remove_unused_columns=False, **given
        )
        for callback in get_reporting_integration_callbacks(arguments.report_to):
            callback()  # fails where the tracker's package is missing
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise UserError(f"trainer: {str(error).strip().splitlines()[0]}") from None
    if arguments.n_gpu > 1:
        raise UserError(
            f"one process sees {arguments.n_gpu} GPUs, over which its batches cannot be split; start one process for "
            "each with accelerate launch --multi_gpu, or set CUDA_VISIBLE_DEVICES to one of them"
        )
    _check_processes(arguments)
    return arguments


def _check_processes(arguments: TrainingArguments) -> None:
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != arguments.world_size:
        raise UserError(
            f"{started} processes were started, but there is no GPU for them, so that each would train by itself; "
            "add --trainer.use_cpu true to train on the CPU, or start one process"
        )
    if arguments.deepspeed_plugin is not None and arguments.deepspeed_plugin.zero_stage > 2:
        raise UserError(
            "DeepSpeed's ZeRO-3 hides the weights of the output head, which the loss reads; set zero_stage to 2, or "
            "shard with FSDP2 (recipes/accelerate/fsdp2.yaml)"
        )
    if not (arguments.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP")):
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


def loss_settings(recipe: Recipe) -> kd_loss.LossSettings:
    """The recipe's loss and target as the loss takes them."""
    loss, target = recipe.loss, recipe.target
    return kd_loss.LossSettings(
        kd=loss.kd,
        ce=loss.ce,
        hidden=loss.hidden,
        temperature=loss.temperature,
        divergence=loss.divergence,
        jsd_beta=loss.jsd_beta,
        chunk_tokens=loss.chunk_tokens,
        op=target.op,
        strength=target.strength,
    )


def train_student(
    recipe: Recipe,
    *,
    student: PreTrainedModel,
    teacher: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    blocks: BlockDataset | BlockStream,
    num_groups: int,
    role_maps: Sequence[RoleMap] | None,
    checkpoints: Path,
    destination: Path,
) -> None:
    """Train a student and put it, whole, at `destination`; goes on from the newest complete checkpoint.

    What was logged, and what the training took, goes to `training/NAME.json` beside it; see `TrainingLog.write`.

    Args:
        recipe: Target, loss, trainer settings and seed.
        student: The model to train, changed in place.
        teacher: The frozen teacher or None.
        tokenizer: Saved beside the student.
        blocks: Training blocks.
        num_groups: K of the word list.
        role_maps: K - 1 maps for role reversal, or None.
        checkpoints: Folder of Trainer's checkpoints.
        destination: Folder of the finished student.

    Raises:
        UserError: see `training_arguments` and `open_teacher_cache`.
    """
    arguments = training_arguments(recipe, checkpoints)
    attach_loss(student)
    if recipe.loss.hidden and teacher is not None:
        ours, theirs = head(student)[0].shape[1], head(teacher)[0].shape[1]
        if ours != theirs:
            setattr(student, _PROJECTION, nn.Linear(ours, theirs, bias=False))
    views = num_groups if recipe.needs_counterfactuals else 1
    trainer = DistillationTrainer(
        model=student,
        args=arguments,
        train_dataset=blocks,
        data_collator=Collator(views, recipe.target.augment),
        teacher=teacher,
        settings=loss_settings(recipe),
        role_maps=role_maps if recipe.target.reverse_roles else None,
        shard_teacher=recipe.teacher.shard,
    )
    if recipe.teacher.cache_hidden_states:
        folder = Path(recipe.cache_dir or destination.parent / "cache")
        with together(main_first=True):  # the main process makes the files
            trainer.teacher_cache = open_teacher_cache(
                folder, teacher, blocks, recipe, trainer.accelerator.mixed_precision
            )
    resume = newest_complete_checkpoint(checkpoints) if trainer.is_world_process_zero() else None
    trainer.accelerator.wait_for_everyone()
    resume = resume or newest_complete_checkpoint(checkpoints)
    if isinstance(blocks, BlockStream):
        blocks.start(arguments, resume)
        arguments.ignore_data_skip = True  # a stream goes on where it was by itself
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    trainer.training_log.gather()
    if trainer.teacher_cache is not None:
        trainer.teacher_cache.close()
    if isinstance(blocks, BlockStream):
        blocks.finish()
    trainer.accelerator.wait_for_everyone()
    state = trainer.accelerator.get_state_dict(trainer.model)
    if trainer.is_world_process_zero():
        trainer.training_log.write(
            destination.parent / "training" / f"{destination.name}.json", trainer.state.log_history
        )
        # What was gathered from several processes holds a tied weight under each of its names.
        left_out = (_PROJECTION, *student.all_tied_weights_keys)
        state = {k: v for k, v in state.items() if not k.startswith(left_out)}
        # The training state lies in the checkpoints; what is published may be smaller.
        student = trainer.accelerator.unwrap_model(trainer.model).to(getattr(torch, recipe.student.save_dtype))
        student.config.use_cache = True  # Trainer switches it off for training
        state = {k: v.to(student.dtype) if v.is_floating_point() else v for k, v in state.items()}

        def save(folder: Path) -> None:
            student.save_pretrained(folder, state_dict=state)
            tokenizer.save_pretrained(folder)

        write_folder(destination, save)
    trainer.accelerator.wait_for_everyone()
