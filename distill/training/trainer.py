"""Blocks of aligned views -> a trained student: transformers' Trainer with a two-view teacher."""

import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import BatchSamplerShard
from accelerate.utils import DynamoBackend, gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils.logging import disable_progress_bar

from distill.base.console import counter, say
from distill.base.errors import UserError, storage_errors_as_user_errors
from distill.data.batches import FilledBatches
from distill.data.stream import BlockStream, StreamLoader
from distill.models.adapters import has_adapter, trainable_state
from distill.models.architecture import (
    backbone,
    fuse_activations,
    head,
    hidden_states,
    is_sharded,
    shard_layers,
    view_of,
    without_warnings,
)
from distill.models.document_attention import Documents, try_documents
from distill.models.matrix_rate import seconds_at_matrix_rate
from distill.objective import kd_loss
from distill.objective.chunks import IGNORED
from distill.objective.clipped_head import ClippedHead
from distill.objective.listed_tokens import ListedTokens
from distill.objective.logit_ops import RoleMap
from distill.objective.settings import LossSettings
from distill.objective.transfer import copied_to
from distill.training import checkpoints as checkpoint_folder
from distill.training.arguments import uses_cuda_graphs
from distill.training.probing import SIZE
from distill.training.step_watch import SpikeWatch, smallest_bad
from distill.training.teacher_cache import TeacherCache
from distill.training.training_log import TrainingLog, log_line, token_counts

COUNTER = "training"  # what is said of the steps
_TRAINED = "trained.safetensors"  # in checkpoints of students with an adapter
#: That torch.compile makes of one piece of code before new shapes run without it. Teacher and students of a family
#: share their code, and each has a graph for any number of rows, one for a single row, one for other documents ...
_GRAPHS = 64


class NotFiniteError(UserError):
    """A loss, a gradient or a weight is not finite: of all mistakes, the one that lies in the text or its settings."""


@dataclass(frozen=True)
class Part:
    """Where a training stands in a longer one that is done in parts, each with an optimizer of its own.

    Args:
        first: The longer one's steps before this part: the learning rate goes on from there.
        steps: Those of the longer one in all.
        mu: Weight of the proximal term, mu / 2 times the squared distance from the weights with which the part begins
            (FedProx, Li et al. 2020); it is part of the logged loss.
    """

    first: int
    steps: int
    mu: float = 0.0


class _ConsoleProgress(TrainerCallback):
    """Steps done, and the newest of what is logged, in the place of Trainer's own bar and of what it prints."""

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        disable_progress_bar()  # that of saving would be drawn across ours
        self._report = counter(COUNTER, "steps", done=state.global_step, tells_speed=False)
        self._newest: dict[str, str] = {}

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        names = {name: name for name in logs if name.startswith("loss")} | {SIZE: "disparity"}
        self._newest |= {name: f"{says} {logs[name]:.3g}" for name, says in names.items() if name in logs}

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        self._report(state.global_step, state.max_steps, ", ".join(self._newest.values()))


def _as_made_here(optimizer: Any, state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's saved state for the one that takes it, which keeps its own kernels.

    One that makes its steps in a single kernel each leaves out what is not finite; it would go on saying so.
    """
    theirs, own = state["param_groups"], optimizer.param_groups
    if len(theirs) != len(own) or any("fused" not in group for group in own):
        return state
    return state | {"param_groups": [a | {"fused": b["fused"]} for a, b in zip(theirs, own, strict=True)]}


class DistillationTrainer(Trainer):
    """Trainer whose loss compares the student with a teacher that sees a text and its counterfactuals.

    Each micro-batch gives a sum; the sum is divided once, by the number of valid tokens of the whole optimizer step
    over all accumulation steps and processes, so that neither changes the result.

    Args:
        teacher: Frozen teacher, or None for plain language modelling.
        vocab: V, the tokens that student and teacher share; None: all rows of their heads.
        settings: Weights and form of the loss.
        role_maps: K - 1 maps that undo each shift, or None without role reversal.
        listed: The sets of counterparts of the loss's part on listed tokens.
        shard_teacher: Share the teacher's layers among the processes.
        skip_nonfinite: Leave out a step whose loss or gradient is not finite, and count it, instead of stopping.
        decode: Token ids -> text, for the message then.
        stop_signals: Signals that came since training began, see `stop_signals_kept`.
        part: Set where this is a part of a longer training.
        kwargs: As for Trainer.
    """

    def __init__(
        self,
        *,
        teacher: PreTrainedModel | None,
        settings: LossSettings,
        role_maps: Sequence[RoleMap] | None,
        vocab: int | None = None,
        listed: ListedTokens | None = None,
        shard_teacher: bool = False,
        skip_nonfinite: bool = False,
        decode: Callable[[list[int]], str] = str,
        stop_signals: Sequence[int] = (),
        part: Part | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if skip_nonfinite and self.is_deepspeed_enabled:
            raise UserError("on_nonfinite is skip, but DeepSpeed's steps cannot be left out; set it to stop")
        if self.is_fsdp_enabled and (policy := self.accelerator.state.fsdp_plugin.mixed_precision_policy):
            # accelerate would round what the model returns, the sums of the loss, to 16 bits.
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = replace(policy, output_dtype=None)
        # We divide by the tokens of the whole step ourselves, so Trainer must not divide by accumulation steps.
        self.model_accepts_loss_kwargs = True
        self.settings = settings
        self.teacher = teacher
        self.vocab = vocab
        self._place_models(shard_teacher)
        #: Of the hidden states of `train_dataset`; without one, the teacher runs in every epoch.
        self.teacher_cache: TeacherCache | None = None
        self.role_maps = [m.to(self.args.device) for m in role_maps] if role_maps else None
        self.listed = listed.to(self.args.device) if listed else None
        self.training_log = TrainingLog(self.accelerator)
        self.add_callback(self.training_log)
        for callback in (PrinterCallback, ProgressCallback):  # they print each log as a dictionary
            self.remove_callback(callback)
        if not self.args.disable_tqdm:
            self.add_callback(_ConsoleProgress)
        self.skip_nonfinite = skip_nonfinite
        self.skipped_steps = 0
        self._decode = decode
        self._stop_signals = stop_signals
        self._part = part
        #: The weights that the proximal term holds on to: those of now, not of a checkpoint that is loaded later.
        self._anchor = [
            (p, p.detach().clone()) for p in self.model.parameters() if part and part.mu and p.requires_grad
        ]
        self.stopped = False
        self._step: list[tuple[dict[str, Any], Tensor]] = []  # micro-batches of this step, and their losses
        #: Number, micro-batches and values of a step that was not looked at yet, and when they are there.
        self._unseen: tuple[int, list[tuple[dict[str, Any], Tensor]], Tensor, torch.cuda.Event] | None = None
        self._spikes = SpikeWatch()
        self._saving = False
        self._loader: DataLoader | None = None  # torch's, of blocks
        self._not_loaded: set[str] = set()  # weights of the model that a checkpoint has not given it

    def _autocast(self, model: PreTrainedModel) -> Any:
        """As the accelerator is set; a model of 16 bits has no use for it, and would only be cast to and fro."""
        if model.dtype.itemsize > 2:
            return self.accelerator.autocast()
        return torch.autocast(self.args.device.type, enabled=False)

    def _place_models(self, shard_teacher: bool) -> None:
        """Both models as steps read them: the teacher where it is read, layers fused, tried and compiled."""
        models = [model for model in (self.model, self.teacher) if model is not None]
        for model in models:
            fuse_activations(model)
        if self.teacher is not None and not is_sharded(self.teacher):
            self.teacher.to(self.args.device).eval()
            if shard_teacher and self.args.world_size > 1:
                shard_layers(self.teacher)
        if self.args.device.type == "cuda":
            # FSDP may compute activations again in the backward pass, where layers would not be told again.
            for model in models:
                if not is_sharded(model) and not (self.is_fsdp_enabled and model is self.model):
                    with self._autocast(model):
                        try_documents(backbone(model.to(self.args.device)))
        if self.args.torch_compile:
            # Their bodies, and not what stands around them, as accelerate would: the loss.
            self.accelerator.state.dynamo_plugin.backend = DynamoBackend.NO
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _GRAPHS)
            for model in models:
                head(model)  # read once, as it is
                backbone(model).compile(backend=self.args.torch_compile_backend, mode=self.args.torch_compile_mode)

    def get_train_dataloader(self) -> DataLoader:
        """Trainer's, but for what several processes would share wrongly.

        A stream's readers share out the text themselves. And an epoch of blocks that does not divide among the
        processes is filled up with ones that do not count; its first blocks, which accelerate takes, would be learned
        from twice.
        """
        if isinstance(self.train_dataset, BlockStream):
            return StreamLoader(self.train_dataset, self.data_collator, self._train_batch_size, self.args)
        dataloader = super().get_train_dataloader()
        self._loader = getattr(dataloader, "base_dataloader", dataloader)  # accelerate's has torch's inside
        shards = dataloader.batch_sampler
        if isinstance(shards, BatchSamplerShard) and not shards.drop_last:
            shards.batch_sampler = FilledBatches(shards.batch_sampler, shards.num_processes)
        if self.args.dataloader_persistent_workers:
            # Workers that stay get a seed once, and once more after a resume: not from where dropout draws.
            self._loader.generator = torch.Generator()
        return dataloader

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's; the loader's workers that stay from epoch to epoch end with it.

        Left to the garbage collector, which takes their queues apart first, each is waited for in vain for five
        seconds, at any moment later.
        """
        try:
            return super().train(*args, **kwargs)
        finally:
            if (staying := getattr(self._loader, "_iterator", None)) is not None:
                staying._shutdown_workers()

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Tensor | None:
        if not batch_samples:
            return None
        tokens = sum(int(b["tokens"][: b["student_rows"]].sum()) for b in batch_samples)
        count = torch.full((), tokens, device=device)  # filled there: nothing is waited for
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    def _prepare_input(self, data: Any) -> Any:
        """Trainer's, but that no step waits for the batch of a stream, which accelerate's loader has not moved."""
        if isinstance(data, Tensor) and not self.is_deepspeed_enabled:
            return copied_to(data, self.args.device)
        return super()._prepare_input(data)

    @torch.no_grad()
    def _teacher_view(self, inputs: dict[str, Any]) -> tuple[kd_loss.ModelView | None, np.ndarray]:
        """What the teacher says of all R rows, and (R,) which of them it read to say so."""
        read = np.ones(len(inputs["input_ids"]), dtype=bool)
        if (model := self.teacher) is None:
            return None, ~read

        documents = inputs["documents"].to(self.args.device, non_blocking=True)

        def predict(ids: Tensor, positions: Tensor, documents: Documents) -> Tensor:
            with self._autocast(model):
                hidden = hidden_states(model, ids, positions, documents=documents)
            # The next CUDA graph that runs, which is the student's, may write where this one has.
            return hidden.clone() if uses_cuda_graphs(self.args) else hidden

        def predict_some(rows: np.ndarray) -> Tensor:
            there = copied_to(torch.from_numpy(rows), self.args.device)
            return predict(inputs["input_ids"][there], inputs["position_ids"][there], documents.of_rows(rows))

        self.training_log.teacher_time.start()
        if self.teacher_cache is None:
            hidden = predict(inputs["input_ids"], inputs["position_ids"], documents)
        else:
            hidden, read = self.teacher_cache.hidden_states(inputs["source"], predict_some, self.args.device)
            hidden = hidden.to(head(self.teacher).weight.dtype)
        self.training_log.teacher_time.stop()
        return view_of(self.teacher, hidden, self.vocab), read

    def _loss_parts(
        self, model: nn.Module, inputs: dict[str, Any], clipped_head: ClippedHead | None = None
    ) -> tuple[kd_loss.LossParts, np.ndarray]:
        """The loss of a micro-batch, and (R,) which of its rows the teacher read."""
        rows = inputs["student_rows"]
        plan = inputs.get("plan")
        teacher, read = self._teacher_view(inputs)
        parts = model(
            input_ids=inputs["input_ids"][:rows],
            position_ids=inputs["position_ids"][:rows],
            labels=inputs["labels"][:rows],
            settings=self.settings,
            teacher=teacher,
            partner=inputs["partner"][:, :rows] if self.settings.op != "none" or self.settings.pairing else None,
            role_maps=self.role_maps,
            plan=None if plan is None else plan.to(self.args.device, non_blocking=True),
            documents=inputs["documents"].first(rows).to(self.args.device, non_blocking=True),
            listed=self.listed,
            pairs=inputs.get("pairs"),
            clipped_head=clipped_head,
        )
        return parts, read

    def _seconds_at_matrix_rate(self, tokens: int) -> tuple[float, float]:
        """Of a token in a row of so many, in the teacher's pass and in the student's, forward and backward.

        0 where the card's rate is not known.
        """
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision)
        student = self.accelerator.unwrap_model(self.model)
        of_teacher = 0.0 if self.teacher is None else seconds_at_matrix_rate(self.teacher, tokens, dtype)
        return of_teacher, 3 * seconds_at_matrix_rate(student, tokens, dtype)

    def _log_parts(self, parts: kd_loss.LossParts, inputs: dict[str, Any], read: np.ndarray) -> None:
        """Add a micro-batch's loss and tokens to what the next log says."""
        passes = 0 if self.teacher is None else 1 if self.settings.op == "none" else len(inputs["partner"]) + 1
        names = ("kd", "ce", "hidden", "pairing", "listed")
        weighted = [name for name in names if getattr(self.settings, name)]
        if self.training_log.at_matrix_rate is None:
            self.training_log.at_matrix_rate = self._seconds_at_matrix_rate(inputs["input_ids"].shape[1])
        of_loss = {f"loss_{name}": getattr(parts, name) for name in weighted}
        self.training_log.add(of_loss, token_counts(inputs, passes, read))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, kd_loss.LossParts]:
        """The micro-batch's share of the step's mean loss, scaled so that averaging over processes adds the shares."""
        parts, read = self._loss_parts(model, inputs)
        self._log_parts(parts, inputs, read)
        count = parts.count if num_items_in_batch is None else num_items_in_batch
        # DDP and FSDP average gradients over processes; the shares have to be added instead.
        total = parts.total
        if self._anchor:  # once a step: each micro-batch adds its share of the step's tokens
            total = total + self._proximal_term() * parts.count
        loss = total * (self.args.world_size if num_items_in_batch is not None else 1) / count
        return (loss, parts) if return_outputs else loss

    def _proximal_term(self) -> Tensor:
        """mu / 2 times the squared distance from the weights with which this part of a training began, ()."""
        assert self._part is not None  # or there would be no anchor
        return self._part.mu / 2 * torch.stack([(p - begun).square().sum() for p, begun in self._anchor]).sum()

    def create_optimizer(self, model: Any = None) -> Any:
        """Trainer's; from a checkpoint it takes what it has learned, not how the machine that saved it made steps."""
        optimizer = super().create_optimizer(model)
        if hasattr(optimizer, "register_load_state_dict_pre_hook"):
            optimizer.register_load_state_dict_pre_hook(_as_made_here)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Trainer's; of a part, the schedule of the longer training, where the part begins in it."""
        if self._part is None:
            return super().create_scheduler(num_training_steps, optimizer)
        scheduler = super().create_scheduler(self._part.steps, optimizer)
        scheduler.last_epoch = self._part.first - 1  # a schedule is a function of the step alone
        with warnings.catch_warnings(action="ignore"):  # that the optimizer has made no step yet
            scheduler.step()
        return scheduler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the loss and `TrainingLog.figures`, for the console and every tracker."""
        if "loss" in logs:
            logs |= self.training_log.figures()
            say(log_line(logs, self.state.global_step, self.state.max_steps))
        super().log(logs, start_time)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Trainer's, which would take a step too many from the checkpoint of the last one."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
            self.look_at_last_step()

    # ------------------------------------------------------------------------------------------- what a step gave

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Trainer's; keeps the micro-batch until the step is known to be sound."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._step.append((inputs, loss))
        return loss.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Trainer's, between the last gradient and the optimizer: the one place where a step is looked at.

        The device is asked once a step, and all processes see the same numbers, so that they stop together. A GPU's
        optimizer leaves out by itself what is not finite, so that nobody waits: it is looked at a step later.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        if isinstance(norm, DTensor):  # FSDP2
            norm = norm.full_tensor()
        micro_batches, self._step = self._step, []
        losses = torch.stack([loss.float() for _, loss in micro_batches])
        # A gradient scaler (fp16) meets infinite gradients by itself.
        scaled = getattr(self.accelerator, "scaler", None) is not None
        judged = losses.new_zeros(()) if norm is None or scaled else torch.as_tensor(norm).to(losses)
        asked = losses.new_full((), float(bool(self._stop_signals)))
        values = torch.stack([losses.sum(), judged, asked])
        if self.args.world_size > 1:
            values = self.accelerator.reduce(values, reduction="mean")
        step = self.state.global_step + 1
        if self._optimizer_can_skip() and not scaled:
            self.look_at_last_step()
            self.optimizer.optimizer.found_inf = (~values[:2].isfinite().all()).float()
            copy, copied = values.to("cpu", non_blocking=True), torch.cuda.Event()
            copied.record()
            self._unseen = (step, micro_batches, copy, copied)
        elif not self._is_sound(step, micro_batches, values.tolist()):
            model.zero_grad()  # the optimizer has nothing to do
            return torch.zeros(())
        return norm

    def _optimizer_can_skip(self) -> bool:
        """Whether the optimizer makes its steps in one kernel each, which asks the device itself whether to."""
        inner = getattr(self.optimizer, "optimizer", None)
        return self.args.device.type == "cuda" and bool(getattr(inner, "_step_supports_amp_scaling", False))

    def look_at_last_step(self) -> None:
        """Judge the last step where that was put off; see `_is_sound`."""
        if self._unseen is not None:
            (step, micro_batches, values, copied), self._unseen = self._unseen, None
            copied.synchronize()
            self._is_sound(step, micro_batches, values.tolist())

    def _is_sound(self, step: int, micro_batches: list[tuple[dict[str, Any], Tensor]], values: list[float]) -> bool:
        """Whether a step's loss and gradient are finite; says if the loss is unusual.

        Args:
            step: Its number.
            micro_batches: What it read, and their losses.
            values: The loss, the norm of the gradient, and above 0 if a process was asked to stop.

        Raises:
            UserError: not finite, and such steps are not to be left out.
        """
        loss, judged, asked = values
        if asked:
            self.stopped = self.control.should_save = True
        if not (math.isfinite(loss) and math.isfinite(judged)):
            self._not_finite(step, micro_batches)
            return False
        if (usual := self._spikes.usual(loss)) is not None:
            say(f"the loss of step {step} is {loss:.3g}; the median before it was {usual:.3g}")
        return True

    def _not_finite(self, step: int, micro_batches: Sequence[tuple[dict[str, Any], Tensor]]) -> None:
        """Say which text a step that is not finite came from, and stop there unless such steps are to be left out.

        Raises:
            UserError: names step, block, position, text and the checkpoint to continue from.
        """
        found = [place for inputs, loss in micro_batches if (place := self._culprit(inputs, loss))]
        found = [place for places in gather_object([found]) for place in places]
        if not found:  # finite when asked again
            blocks = sorted({int(b) for inputs, _ in micro_batches for b in inputs["source"][:, 0]})
            blocks = sorted({b for of_process in gather_object([blocks]) for b in of_process})
            found = [f"the gradient is not finite; the step read the blocks {', '.join(map(str, blocks))}"]
        message = f"step {step}: {found[0]}"
        if self.skip_nonfinite:
            self.skipped_steps += 1
            say(f"{message}; left out ({self.skipped_steps} so far)")
            return
        last = checkpoint_folder.newest_whole(Path(self.args.output_dir))
        raise NotFiniteError(
            f"{message}. Nothing was saved from it; the last good checkpoint is {last or 'none yet'}. Lower "
            "trainer.learning_rate, look at that text, or set on_nonfinite: skip"
        )

    def _culprit(self, inputs: dict[str, Any], loss: Tensor) -> str | None:
        """What is not finite in a micro-batch, and at which token; None if nothing is."""
        # A forward pass needs all processes at once, or would write over the gradients that are about to be used.
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled or (self.teacher and is_sharded(self.teacher))
        if sharded or uses_cuda_graphs(self.args):
            blocks = ", ".join(map(str, np.unique(inputs["source"][:, 0])))
            return None if loss.isfinite() else f"the loss is not finite, in one of the blocks {blocks}"
        inputs = self._prepare_inputs(inputs)
        counted = inputs["labels"] != IGNORED
        teacher, _ = self._teacher_view(inputs)
        if teacher is not None:
            for row, hidden in enumerate(teacher.hidden.view(*counted.shape, -1)):
                weight, bias = teacher.tokens
                logits = nn.functional.linear(hidden.to(weight.dtype), weight, bias)  # outside of autocast
                bad = (counted[row] & ~logits.isfinite().all(-1)).nonzero()
                if len(bad):
                    return f"a logit of the teacher is not finite {self._place(inputs, row, int(bad[0]))}"
        parameters = [p for p in self.model.parameters() if p.requires_grad]

        def wrong(positions: Sequence[list[int]]) -> str | None:
            """What is not finite of the loss of these tokens."""
            labels = torch.full_like(inputs["labels"], IGNORED)
            rows, columns = torch.tensor(positions, device=labels.device).T
            labels[rows, columns] = inputs["labels"][rows, columns]
            loss = self._loss_parts(self.model, {**inputs, "labels": labels, "plan": None, "pairs": None})[0].total
            if not loss.isfinite():
                return "loss"
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            return None if all(bool(g.isfinite().all()) for g in gradients if g is not None) else "gradient"

        positions = counted[: inputs["student_rows"]].nonzero().tolist()
        if not positions or not wrong(positions):
            return None
        place = smallest_bad(positions, wrong)[0]
        what = wrong([place]) or "gradient"  # of several together, each of which is sound by itself
        return f"the {what} is not finite {self._place(inputs, *place)}"

    def _place(self, inputs: dict[str, Any], row: int, position: int) -> str:
        block, view = inputs["source"][row].tolist()
        text = self._decode(inputs["input_ids"][row, max(0, position - 7) : position + 1].tolist())
        where = f"block {block}" if block >= 0 else "a block that was packed while training"
        return f"in {where}, {f'counterfactual {view}' if view else 'text'}, token {position}, at the end of {text!r}"

    # ------------------------------------------------------------------------------------------------ checkpoints

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, checkpoint_folder.PARTIAL) if self._saving else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Trainer's, into a folder beside the checkpoints that gets its name when all processes have written.

        Raises:
            UserError: the disk is full or gone, or the weights are not finite; the checkpoints before are as they were.
        """
        self.look_at_last_step()
        self.require_finite_weights()
        self.training_log.keep(self.state)
        self._saving = True
        try:
            with storage_errors_as_user_errors():
                super()._save_checkpoint(model, trial)
                if isinstance(self.train_dataset, BlockStream):
                    name = checkpoint_folder.name_of(self.state.global_step)
                    self.train_dataset.save(Path(self._get_output_dir(trial), name))
                self.accelerator.wait_for_everyone()
                if self.is_world_process_zero():
                    folder, step = Path(self.args.output_dir), self.state.global_step
                    checkpoint_folder.publish(folder, step, self.args.save_total_limit)
        finally:
            self._saving = False
        self.accelerator.wait_for_everyone()
        self.control.should_training_stop |= self.stopped  # after saving: the checkpoint must not say so

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Trainer's; of a student with an adapter only what is trained, as the base stays what it was."""
        if not has_adapter(self.model):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            state = {name: weight.contiguous() for name, weight in trainable_state(self.model).items()}
            save_file(state, folder / _TRAINED, metadata={"format": "pt"})

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Trainer's, which says that weights are missing where they are only tied to others."""
        self._not_loaded = set(load_result.missing_keys) - set(self.model.all_tied_weights_keys)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Trainer's, which leaves weights at random that transformers saves under other names than it has in memory.

        Those of experts are: one by one in the file, as one tensor in the model.
        """
        if has_adapter(self.model):
            self._load_adapter(resume_from_checkpoint)
            return
        self._not_loaded = set()
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if not self._not_loaded:
            return
        with without_warnings():
            converted = type(self.model).from_pretrained(resume_from_checkpoint, dtype=self.model.dtype).state_dict()
        if left := sorted(self._not_loaded - converted.keys()):
            raise UserError(
                f"{resume_from_checkpoint}: lacks weights, {left[0]} first; remove it to continue without it"
            )
        self.model.load_state_dict({name: converted[name] for name in self._not_loaded}, strict=False)

    def _load_adapter(self, checkpoint: str) -> None:
        state = trainable_state(self.model)
        saved = load_file(Path(checkpoint, _TRAINED))
        if state.keys() != saved.keys():  # nobody else writes there, and the recipe is the same
            raise UserError(f"{checkpoint}: is no checkpoint of this adapter; remove the folder above it")
        with torch.no_grad():
            for name, weight in state.items():
                weight.copy_(saved[name])

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
            raise NotFiniteError(
                f"step {self.state.global_step}: the student's weights are not finite. They are not saved; the last "
                f"good checkpoint is {last or 'none yet'}. Lower trainer.learning_rate"
            )
