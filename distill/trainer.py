"""Blocks of aligned views -> a trained student: transformers' Trainer with a two-view teacher."""

import math
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.activations import ACT2FN, NewGELUActivation

from distill import checkpoints as checkpoint_folder
from distill import kd_loss
from distill.console import Stopped, say, stop_signals_kept
from distill.errors import UserError
from distill.integrity import told_storage_errors
from distill.logit_ops import RoleMap
from distill.models import head, hidden_states
from distill.packing import IGNORED, BlockDataset, Collator
from distill.recipe import Recipe
from distill.run_folder import write_folder
from distill.step_watch import SpikeWatch, smallest_bad

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
    "logging_nan_inf_filter": False,  # asks the device after every micro-batch; we ask once a step, and stop
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
        skip_nonfinite: Leave out a step whose loss or gradient is not finite, and count it, instead of stopping.
        decode: Token ids -> text, for the message then.
        stop_signals: Signals that came since training began, see `stop_signals_kept`.
        kwargs: As for Trainer.
    """

    def __init__(
        self,
        *,
        teacher: PreTrainedModel | None,
        settings: kd_loss.LossSettings,
        role_maps: Sequence[RoleMap] | None,
        skip_nonfinite: bool = False,
        decode: Callable[[list[int]], str] = str,
        stop_signals: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if skip_nonfinite and self.is_deepspeed_enabled:
            raise UserError("on_nonfinite is skip, but DeepSpeed's steps cannot be left out; set it to stop")
        # We divide by the tokens of the whole step ourselves, so Trainer must not divide by accumulation steps.
        self.model_accepts_loss_kwargs = True
        self.settings = settings
        for model in (self.model, teacher):
            if model is not None:
                fuse_activations(model)
        self.teacher = teacher.to(self.args.device).eval() if teacher is not None else None
        self.role_maps = [m.to(self.args.device) for m in role_maps] if role_maps else None
        self._sums: dict[str, Tensor] = {}
        self.skip_nonfinite = skip_nonfinite
        self.skipped_steps = 0
        self._decode = decode
        self._stop_signals = stop_signals
        self.stopped = False
        self._step: list[tuple[dict[str, Tensor], Tensor]] = []  # micro-batches of this step, and their losses
        self._spikes = SpikeWatch()
        self._saving = False

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
            value = value.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)  # a step that is left out must not stay in here
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

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Trainer's, which would take a step too many from the checkpoint of the last one."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    # ------------------------------------------------------------------------------------------- what a step gave

    def training_step(self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Any = None) -> Tensor:
        """Trainer's; keeps the micro-batch until the step is known to be sound."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._step.append((inputs, loss))
        return loss.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Trainer's, between the last gradient and the optimizer: the one place where a step is looked at.

        The device is asked once a step, and all processes see the same numbers, so that they stop together.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        micro_batches, self._step = self._step, []
        losses = torch.stack([loss.float() for _, loss in micro_batches])
        # A gradient scaler (fp16) meets infinite gradients by itself.
        scaled = getattr(self.accelerator, "scaler", None) is not None
        judged = torch.as_tensor(0.0 if norm is None or scaled else norm, device=losses.device, dtype=losses.dtype)
        asked = losses.new_full((), float(bool(self._stop_signals)))
        values = torch.stack([losses.sum(), judged, asked])
        if self.args.world_size > 1:
            values = self.accelerator.reduce(values, reduction="mean")
        loss, judged, asked = values.tolist()
        if asked:
            self.stopped = self.control.should_save = True
        if not (math.isfinite(loss) and math.isfinite(judged)):
            self._not_finite(micro_batches)
            model.zero_grad()  # the optimizer has nothing to do
            return torch.zeros(())
        if (usual := self._spikes.usual(loss)) is not None:
            say(f"the loss of step {self.state.global_step + 1} is {loss:.3g}; the median before it was {usual:.3g}")
        return norm

    def _not_finite(self, micro_batches: Sequence[tuple[dict[str, Tensor], Tensor]]) -> None:
        """Say which text a step that is not finite came from, and stop there unless such steps are to be left out.

        Raises:
            UserError: names step, block, position, text and the checkpoint to go on from.
        """
        found = [place for inputs, loss in micro_batches if (place := self._culprit(inputs, loss))]
        found = [place for places in gather_object([found]) for place in places]
        if not found:  # finite when asked again
            blocks = sorted({int(b) for inputs, _ in micro_batches for b in inputs["source"][:, 0]})
            blocks = sorted({b for of_process in gather_object([blocks]) for b in of_process})
            found = [f"the gradient is not finite; the step read the blocks {', '.join(map(str, blocks))}"]
        message = f"step {self.state.global_step + 1}: {found[0]}"
        if self.skip_nonfinite:
            self.skipped_steps += 1
            say(f"{message}; left out ({self.skipped_steps} so far)")
            return
        last = checkpoint_folder.newest_whole(Path(self.args.output_dir))
        raise UserError(
            f"{message}. Nothing was saved from it; the last good checkpoint is {last or 'none yet'}. Lower "
            "trainer.learning_rate, look at that text, or set on_nonfinite: skip"
        )

    def _culprit(self, inputs: dict[str, Tensor], loss: Tensor) -> str | None:
        """What is not finite in a micro-batch, and at which token; None if nothing is."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:  # a forward pass needs all processes at once
            blocks = ", ".join(map(str, inputs["source"][:, 0].unique().tolist()))
            return None if loss.isfinite() else f"the loss is not finite, in one of the blocks {blocks}"
        inputs = self._prepare_inputs(inputs)
        counted = inputs["labels"] != IGNORED
        teacher = self._teacher_view(inputs["input_ids"], inputs["position_ids"])
        if teacher is not None:
            for row, hidden in enumerate(teacher.hidden.view(*counted.shape, -1)):
                logits = nn.functional.linear(hidden, teacher.weight, teacher.bias)
                bad = (counted[row] & ~logits.isfinite().all(-1)).nonzero()
                if len(bad):
                    return f"a logit of the teacher is not finite {self._place(inputs, row, int(bad[0]))}"
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        sums, what = dict(self._sums), "loss"

        def is_bad(positions: Sequence[list[int]]) -> bool:
            nonlocal what
            labels = torch.full_like(inputs["labels"], IGNORED)
            rows, columns = torch.tensor(positions, device=labels.device).T
            labels[rows, columns] = inputs["labels"][rows, columns]
            loss = self.compute_loss(self.model, {**inputs, "labels": labels})
            if not loss.isfinite():
                what = "loss"
                return True
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            what = "gradient"
            return not all(bool(g.isfinite().all()) for g in gradients if g is not None)

        positions = counted[: int(inputs["student_rows"])].nonzero().tolist()
        try:
            if not positions or not is_bad(positions):
                return None
            row, column = smallest_bad(positions, is_bad)[0]
            is_bad([[row, column]])  # says again what it was
        finally:
            self._sums = sums
        return f"the {what} is not finite {self._place(inputs, row, column)}"

    def _place(self, inputs: dict[str, Tensor], row: int, position: int) -> str:
        block, view = inputs["source"][row].tolist()
        text = self._decode(inputs["input_ids"][row, max(0, position - 7) : position + 1].tolist())
        return (
            f"in block {block}, {f'counterfactual {view}' if view else 'text'}, token {position}, "
            f"at the end of {text!r}"
        )

    # ------------------------------------------------------------------------------------------------ checkpoints

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, checkpoint_folder.PARTIAL) if self._saving else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Trainer's, into a folder beside the checkpoints that gets its name when all processes have written.

        Raises:
            UserError: the disk is full or gone, or the weights are not finite; the checkpoints before are as they were.
        """
        self.require_finite_weights()
        self._saving = True
        try:
            with told_storage_errors():
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.is_world_process_zero():
                    folder, step = Path(self.args.output_dir), self.state.global_step
                    checkpoint_folder.publish(folder, step, self.args.save_total_limit)
        finally:
            self._saving = False
        self.accelerator.wait_for_everyone()
        self.control.should_training_stop |= self.stopped  # after saving: the checkpoint must not say so

    def require_finite_weights(self) -> None:
        """Refuse to save weights that an optimizer step has made infinite.

        Raises:
            UserError: on all processes, and names the checkpoint before.
        """
        local = [p.to_local() if isinstance(p, DTensor) else p for p in self.model.parameters()]
        broken = torch.stack([~p.detach().isfinite().all() for p in local]).any().float()
        if self.args.world_size > 1:
            broken = self.accelerator.reduce(broken, reduction="sum")
        if broken:
            last = checkpoint_folder.newest_whole(Path(self.args.output_dir))
            raise UserError(
                f"step {self.state.global_step}: the student's weights are not finite. They are not saved; the last "
                f"good checkpoint is {last or 'none yet'}. Lower trainer.learning_rate"
            )


def use_all_cores() -> None:
    """Share the machine's cores among its processes.

    `accelerate launch` without a configuration gives each process of a machine without a GPU a single thread.
    """
    if "ACCELERATE_DYNAMO_BACKEND" in os.environ and torch.get_num_threads() == 1 and not torch.cuda.is_available():
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def training_arguments(recipe: Recipe, folder: Path) -> TrainingArguments:
    """Trainer's settings: the recipe's over our defaults.

    Raises:
        UserError: TrainingArguments refuses a value.
    """
    given = {**_DEFAULTS, **recipe.trainer}
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
        UserError: see `training_arguments`; numbers that are not finite; a disk that is full.
        Stopped: SIGINT or SIGTERM came; the step was finished and saved.
    """
    arguments = training_arguments(recipe, checkpoints)
    attach_loss(student)
    if recipe.loss.hidden and teacher is not None:
        ours, theirs = head(student)[0].shape[1], head(teacher)[0].shape[1]
        if ours != theirs:
            setattr(student, _PROJECTION, nn.Linear(ours, theirs, bias=False))
    views = num_groups if recipe.needs_counterfactuals else 1
    with stop_signals_kept() as signals:
        trainer = DistillationTrainer(
            model=student,
            args=arguments,
            train_dataset=blocks,
            data_collator=Collator(views, recipe.target.augment),
            teacher=teacher,
            settings=loss_settings(recipe),
            role_maps=role_maps if recipe.target.reverse_roles else None,
            skip_nonfinite=recipe.on_nonfinite == "skip",
            decode=tokenizer.decode,
            stop_signals=signals,
        )
        resume = [None]
        if trainer.is_world_process_zero():
            checkpoint_folder.clear_partial(checkpoints)
            resume = [checkpoint_folder.newest_whole(checkpoints)]
        resume = broadcast_object_list(resume)[0]
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        if trainer.stopped:
            raise Stopped(signals[0] if signals else signal.SIGTERM)
        if trainer.skipped_steps:
            say(f"{trainer.skipped_steps} steps were left out of training, because they were not finite")
        trainer.require_finite_weights()
        _write_student(trainer, recipe, tokenizer, destination)
        if signals:
            raise Stopped(signals[0])


def _write_student(
    trainer: DistillationTrainer, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, destination: Path
) -> None:
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
