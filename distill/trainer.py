"""Blocks of aligned views -> a trained student: transformers' Trainer with a two-view teacher."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.activations import ACT2FN, NewGELUActivation

from distill import kd_loss
from distill.errors import UserError
from distill.logit_ops import RoleMap
from distill.models import head, hidden_states
from distill.packing import IGNORED, BlockDataset, Collator
from distill.recipe import Recipe
from distill.run_folder import write_folder

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
        kwargs: As for Trainer.
    """

    def __init__(
        self,
        *,
        teacher: PreTrainedModel | None,
        settings: kd_loss.LossSettings,
        role_maps: Sequence[RoleMap] | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # We divide by the tokens of the whole step ourselves, so Trainer must not divide by accumulation steps.
        self.model_accepts_loss_kwargs = True
        self.settings = settings
        for model in (self.model, teacher):
            if model is not None:
                fuse_activations(model)
        self.teacher = teacher.to(self.args.device).eval() if teacher is not None else None
        self.role_maps = [m.to(self.args.device) for m in role_maps] if role_maps else None
        self._sums: dict[str, Tensor] = {}

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Tensor | None:
        if not batch_samples:
            return None
        count = sum((b["labels"][: int(b["student_rows"])] != IGNORED).sum() for b in batch_samples).to(device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    @torch.no_grad()
    def _teacher_view(self, input_ids: Tensor, position_ids: Tensor) -> TeacherView | None:
        if self.teacher is None:
            return None
        hidden = hidden_states(self.teacher, input_ids, position_ids)
        return TeacherView(hidden.flatten(0, 1), *head(self.teacher))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, kd_loss.LossParts]:
        """The micro-batch's share of the step's mean loss, scaled so that averaging over processes adds the shares."""
        rows = int(inputs["student_rows"])
        teacher = self._teacher_view(inputs["input_ids"], inputs["position_ids"])
        parts = model(
            input_ids=inputs["input_ids"][:rows],
            position_ids=inputs["position_ids"][:rows],
            labels=inputs["labels"][:rows],
            settings=self.settings,
            teacher=teacher,
            partner=inputs["partner"][:, :rows] if self.settings.op != "none" else None,
            role_maps=self.role_maps,
        )
        for name in ("kd", "ce", "hidden", "count"):
            value = torch.as_tensor(getattr(parts, name), device=parts.total.device).detach().double()
            self._sums[name] = self._sums.get(name, 0) + value
        count = parts.count if num_items_in_batch is None else num_items_in_batch
        # DDP and FSDP average gradients over processes; the shares have to be added instead.
        loss = parts.total * (self.args.world_size if num_items_in_batch is not None else 1) / count
        return (loss, parts) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the loss, each as a mean per token since the last log."""
        if self._sums and "loss" in logs:
            names = sorted(self._sums)
            sums = torch.stack([self._sums[n] for n in names])
            if self.args.world_size > 1:
                sums = self.accelerator.reduce(sums, reduction="sum")
            by_name = dict(zip(names, sums.tolist(), strict=True))
            count = by_name.pop("count") or 1.0
            weights = {"kd": self.settings.kd, "ce": self.settings.ce, "hidden": self.settings.hidden}
            logs |= {f"loss_{n}": v / count for n, v in by_name.items() if weights[n]}
            self._sums = {}
        super().log(logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            Path(self.args.output_dir, f"checkpoint-{self.state.global_step}", _COMPLETE).touch()


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
        UserError: TrainingArguments refuses a value.
    """
    given = {**_DEFAULTS, "hub_model_id": Path(recipe.output_dir).name, **recipe.trainer}
    if given["save_total_limit"] is not None and given["save_total_limit"] < 2:
        raise UserError("trainer.save_total_limit must be at least 2: with one, a kill while saving loses everything")
    try:
        arguments = TrainingArguments(
            output_dir=str(folder), seed=recipe.seed, data_seed=recipe.seed, remove_unused_columns=False, **given
        )
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"trainer: {str(error).strip().splitlines()[0]}") from None
    if arguments.n_gpu > 1:
        raise UserError(
            f"one process sees {arguments.n_gpu} GPUs, over which its batches cannot be split; start one process for "
            "each with accelerate launch --multi_gpu, or set CUDA_VISIBLE_DEVICES to one of them"
        )
    return arguments


def hub_repository(arguments: TrainingArguments) -> tuple[HfApi, str]:
    """Make the hub's repository for the student, or find it there.

    Args:
        arguments: `hub_model_id`, `hub_token` and `hub_private_repo` are read.

    Returns:
        The hub, and the repository's full id.

    Raises:
        UserError: the hub cannot be reached, or refuses.
    """
    hub = HfApi(token=arguments.hub_token, library_name="distill")
    try:
        repository = hub.create_repo(arguments.hub_model_id, private=arguments.hub_private_repo, exist_ok=True)
    except (OSError, ValueError, HTTPError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"trainer.push_to_hub: no repository {arguments.hub_model_id} to push to ({reason}); log in with "
            "`hf auth login`, or check trainer.hub_model_id"
        ) from None
    return hub, repository.repo_id


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
    blocks: BlockDataset,
    num_groups: int,
    role_maps: Sequence[RoleMap] | None,
    checkpoints: Path,
    destination: Path,
) -> None:
    """Train a student and put it, whole, at `destination`; goes on from the newest complete checkpoint.

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
        UserError: see `training_arguments` and `hub_repository`.
    """
    arguments = training_arguments(recipe, checkpoints)
    if arguments.push_to_hub:
        # Who may not push shall know before the training. Trainer would push every checkpoint, without scores or card,
        # the baseline's too: the student follows when it has been scored (`model_card.push_student`).
        if PartialState().is_main_process:
            hub_repository(arguments)
        arguments.push_to_hub = False
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
    )
    resume = newest_complete_checkpoint(checkpoints) if trainer.is_world_process_zero() else None
    trainer.accelerator.wait_for_everyone()
    resume = resume or newest_complete_checkpoint(checkpoints)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    trainer.accelerator.wait_for_everyone()
    state = trainer.accelerator.get_state_dict(trainer.model)
    if trainer.is_world_process_zero():
        state = {k: v for k, v in state.items() if not k.startswith(_PROJECTION)}
        # The training state lies in the checkpoints; what is published may be smaller.
        student = trainer.accelerator.unwrap_model(trainer.model).to(getattr(torch, recipe.student.save_dtype))
        student.config.use_cache = True  # Trainer switches it off for training
        state = {k: v.to(student.dtype) if v.is_floating_point() else v for k, v in state.items()}

        def save(folder: Path) -> None:
            student.save_pretrained(folder, state_dict=state)
            tokenizer.save_pretrained(folder)

        write_folder(destination, save)
    trainer.accelerator.wait_for_everyone()
