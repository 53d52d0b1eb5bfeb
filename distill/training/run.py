"""Blocks, teacher and student -> a trained student on disk."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from transformers.integrations import TensorBoardCallback

from distill.base.console import Stopped, say, stop_signals_kept
from distill.base.errors import UserError, first_line
from distill.base.files import training_record, write_folder
from distill.data.batches import Collator
from distill.data.blocks import BlockDataset
from distill.data.stream import BlockStream
from distill.models.adapters import has_adapter, save_adapter
from distill.models.architecture import head, is_plain, require_rows, vocab_size
from distill.models.loading import in_format
from distill.models.projection import group_directions, project_out
from distill.objective.chunks import Plan, Positions, plan_by_document, plan_chunks
from distill.objective.listed_tokens import ListedTokens
from distill.objective.logit_ops import RoleMap
from distill.objective.pairing import pairs_of
from distill.privacy.draws import Draws
from distill.recipe import Recipe, TeacherConfig
from distill.training import checkpoints as checkpoint_folder
from distill.training.arguments import chunks_of_loss, clips_head, loss_settings, training_arguments
from distill.training.private_trainer import (
    PrivateTrainer,
    freeze_what_is_not_trained,
    private_plan,
    say_plan,
    training_key,
)
from distill.training.probing import Probe, Probing
from distill.training.processes import together, training_alone
from distill.training.student_loss import PROJECTION, attach_loss
from distill.training.teacher_cache import open_teacher_cache
from distill.training.trainer import DistillationTrainer, Part

_FITTED_BLOCKS = 512  # with counterfactuals, from which directions are learned


@dataclass(frozen=True)
class Models:
    """What is trained, and by what.

    Args:
        student: The model to train, changed in place; see `prepare`.
        teacher: The frozen teacher or None.
        tokenizer: Of both.
        role_maps: K - 1 maps that undo each shift of the word list.
        padding: Of the untrained student, see `prepare`.
    """

    student: PreTrainedModel
    teacher: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    role_maps: Sequence[RoleMap]
    padding: Mapping[str, Tensor]


def train_student(
    recipe: Recipe,
    *,
    student: PreTrainedModel,
    teacher: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    blocks: BlockDataset | BlockStream,
    role_maps: Sequence[RoleMap],
    checkpoints: Path,
    destination: Path,
    probe: Probe | None = None,
) -> None:
    """Train a student and put it, whole, at `destination`; goes on from the newest whole checkpoint.

    What was logged, and what the training took, goes to `training/NAME.json` beside it; see `TrainingLog.write`.

    Args:
        recipe: Target, loss, trainer settings and seed.
        student: The model to train, changed in place.
        teacher: The frozen teacher or None.
        tokenizer: Saved beside the student.
        blocks: Training blocks.
        role_maps: K - 1 maps that undo each shift of the word list.
        checkpoints: Folder of Trainer's checkpoints.
        destination: Folder of the finished student.
        probe: Measures student and teacher on the way, see `probing`.

    Raises:
        UserError: see `training_arguments`, `open_teacher_cache`; numbers not finite; a full disk.
        Stopped: SIGINT or SIGTERM came; the step was finished and saved.
    """
    models = prepare(recipe, student, teacher, tokenizer, role_maps, checkpoints)
    cache = cache_folder(recipe, destination.parent)
    with stop_signals_kept() as signals:
        trainer = fit(recipe, models, blocks, checkpoints, cache, signals, probe=probe)
        if recipe.student.remove_directions:
            _remove_directions(trainer, recipe.student.remove_directions, 1 + len(role_maps))
        trainer.accelerator.wait_for_everyone()
        state = trainer.accelerator.get_state_dict(trainer.model)
        if trainer.is_world_process_zero():
            trainer.training_log.write(training_record(destination), trainer.state.log_history)
            unwrapped = trainer.accelerator.unwrap_model(trainer.model)
            write_student(recipe, replace(models, student=unwrapped), state, destination)
        trainer.accelerator.wait_for_everyone()
        if signals:
            raise Stopped(signals[0])


def prepare(
    recipe: Recipe,
    student: PreTrainedModel,
    teacher: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    role_maps: Sequence[RoleMap],
    checkpoints: Path,
) -> Models:
    """Make a student ready for `fit`, once however often it is trained: its loss, its projection, what stays of it.

    Raises:
        UserError: see `training_arguments`.
    """
    arguments = training_arguments(recipe, checkpoints)
    padding = _padding_rows(student, vocab := vocab_size(tokenizer, student, teacher))
    attach_loss(student, vocab)
    if recipe.is_private:
        freeze_what_is_not_trained(recipe, student)
    _project(recipe, student, teacher)
    return Models(student, read_by_steps(recipe.teacher, teacher, arguments), tokenizer, role_maps, padding)


def read_by_steps(
    config: TeacherConfig, teacher: PreTrainedModel | None, arguments: TrainingArguments
) -> PreTrainedModel | None:
    """The teacher as training steps read it: itself, or see `TeacherConfig.dtype`, a copy of it in bfloat16.

    Under autocast a step would turn its weights and hidden states into that format, and some of them back, over and
    over. A copy is made of plain weights alone: of none that are quantised or shared among processes.
    """
    asked = config.dtype is None and not config.shard and arguments.bf16 and arguments.device.type == "cuda"
    if teacher is None or not asked or not is_plain(teacher):
        return teacher
    try:
        copied = in_format(teacher, torch.bfloat16)
    except Exception as error:  # of a class that is no library's, perhaps; steps can do without
        say(f"steps read the teacher in float32, as no copy of it in bfloat16 can be made: {first_line(error)}")
        return teacher
    say("steps read the teacher in bfloat16; teacher.dtype: float32 keeps its format")
    return copied.requires_grad_(False)


@training_alone()
def fit(
    recipe: Recipe,
    models: Models,
    blocks: BlockDataset | BlockStream,
    checkpoints: Path,
    cache: Path,
    signals: Sequence[int],
    part: Part | None = None,
    probe: Probe | None = None,
) -> DistillationTrainer:
    """Train a prepared student in memory, from the newest whole checkpoint on.

    Args:
        recipe: Target, loss, trainer settings and seed.
        models: As `prepare` gives them.
        blocks: Training blocks.
        checkpoints: Folder of Trainer's checkpoints.
        cache: Folder of the teacher's hidden states, where they are kept.
        signals: Those that came, see `stop_signals_kept`.
        part: Set where this is a part of a longer training.
        probe: Measures student and teacher on the way, see `probing`.

    Returns:
        The trainer, whose model is trained.

    Raises:
        UserError, Stopped: see `train_student`.
    """
    arguments = training_arguments(recipe, checkpoints)
    # Trainer would push every checkpoint, without scores or card, the baseline's too: the student follows when it has
    # been scored (`hub.push_student`).
    arguments.push_to_hub = False
    if arguments.tf32 is not None or recipe.is_private:  # whose norms are trusted to the rounding of float32
        torch.set_float32_matmul_precision("high" if arguments.tf32 else "highest")
    _require_steps(arguments, blocks)
    if not isinstance(blocks, BlockStream):  # which has its own readers to count, see `BlockStream.start`
        checkpoint_folder.refuse_other_processes(checkpoints, arguments.world_size)
    vocab = _rows_for(models, blocks)
    plan = loss_planner(arguments, recipe, models.teacher is not None, vocab)
    trainer = _trainer_of(recipe, arguments, models.student, blocks)(
        model=models.student,
        args=arguments,
        train_dataset=blocks,
        data_collator=_collator(recipe, blocks, 1 + len(models.role_maps), plan),
        teacher=models.teacher,
        vocab=vocab,
        settings=loss_settings(recipe),
        role_maps=models.role_maps if recipe.target.reverse_roles else None,
        listed=ListedTokens.of(models.role_maps) if recipe.loss.listed else None,
        shard_teacher=recipe.teacher.shard,
        skip_nonfinite=recipe.on_nonfinite == "skip",
        decode=models.tokenizer.decode,
        stop_signals=signals,
        part=part,
    )
    _open_cache(trainer, recipe, cache)
    _watch(trainer, probe, recipe.scores.probe_steps)
    _train(trainer, checkpoints, signals)
    return trainer


def _rows_for(models: Models, blocks: BlockDataset | BlockStream) -> int:
    """V, which student and teacher share; see to it that the text holds no token beyond.

    Raises:
        UserError: see `require_rows`.
    """
    vocab = vocab_size(models.tokenizer, models.student, models.teacher)
    if vocab < vocab_size(models.tokenizer):
        if isinstance(blocks, BlockStream):
            blocks.rows = vocab  # it reads its text later
        else:
            require_rows(blocks.largest_id(), models.tokenizer, vocab, "the text")
    return vocab


def cache_folder(recipe: Recipe, folder: Path) -> Path:
    """Where a run keeps its text, its blocks and the teacher's hidden states; `folder` is the run's."""
    return Path(recipe.cache_dir or folder / "cache")


def _watch(trainer: DistillationTrainer, probe: Probe | None, steps: int | None) -> None:
    """Let the trainer ask the probe on the way, where one process can: not of a student that FSDP shards."""
    if probe is not None and trainer.is_fsdp_enabled:
        say("the disparity so far (scores.probe_steps) is left out: FSDP shards the student")
    elif probe is not None:
        trainer.add_callback(Probing(trainer, probe, steps))


def _require_steps(arguments: TrainingArguments, blocks: BlockDataset | BlockStream) -> None:
    """Nothing is published from no steps at all, unless that is what was asked for.

    Raises:
        UserError: there are fewer blocks than one step of all processes takes, and they are to be dropped.
    """
    if arguments.max_steps == 0:
        say("trainer.max_steps is 0, so the student stays untrained")
        return
    of_one = arguments.per_device_train_batch_size * arguments.world_size
    if arguments.dataloader_drop_last and not isinstance(blocks, BlockStream) and len(blocks) < of_one:
        raise UserError(
            f"no step can be made: the text gives {len(blocks)} blocks, a batch of all processes takes {of_one}, and "
            "trainer.dataloader_drop_last leaves out a smaller one; leave it out, lower per_device_train_batch_size, "
            "or give more text"
        )


def loss_planner(arguments: TrainingArguments, recipe: Recipe, with_teacher: bool, vocab: int) -> Callable[..., Plan]:
    """What plans a batch for the loss, in the process that makes it; see `plan_chunks` and `plan_by_document`.

    Args:
        arguments: Where and in which format it will be trained.
        recipe: Loss and target.
        with_teacher: Whether there is one to compare with.
        vocab: V, the tokens that student and teacher share.
    """
    settings = loss_settings(recipe)
    plan = plan_by_document if clips_head(recipe) else plan_chunks
    sizes = chunks_of_loss(arguments, recipe, vocab)
    return partial(plan, settings=settings if with_teacher else settings.without_target(), sizes=sizes)


def _trainer_of(
    recipe: Recipe, arguments: TrainingArguments, student: PreTrainedModel, blocks: BlockDataset | BlockStream
) -> Callable[..., DistillationTrainer]:
    """What makes the trainer: of a private recipe, one with a plan, which is said.

    Raises:
        UserError: see `private_plan`; or the student has a layer that the loss makes use of by itself.
    """
    if not recipe.is_private:
        return DistillationTrainer
    assert isinstance(blocks, BlockDataset)  # `check_recipe`
    if hasattr(student, PROJECTION):
        raise UserError(
            "privacy.epsilon and loss.hidden are set, but student and teacher differ in width, and the layer between "
            "them has no rule by which the gradient of a single document could be clipped; set loss.hidden to 0"
        )
    plan = private_plan(recipe, arguments, student, blocks)
    if not recipe.federation.clients:  # whose clients would say it in every round
        say_plan(plan, blocks)
    if recipe.privacy.secure:
        return partial(PrivateTrainer, plan=plan, draws=Draws(None))
    key = training_key(recipe, plan, blocks.tokens_hash)
    return partial(PrivateTrainer, plan=plan, draws=Draws(recipe.seed, key))


def _collator(recipe: Recipe, blocks: BlockDataset | BlockStream, groups: int, plan: Callable[..., Plan]) -> Collator:
    # The rows of the cache have their full length.
    trim = blocks.one_document and not recipe.teacher.cache_hidden_states
    groups = groups if recipe.trains_on_views else 1
    pairs = recipe.loss.pairing > 0
    return Collator(groups, recipe.target.augment, trim, plan, by_document=clips_head(recipe), pairs=pairs)


def _padding_rows(student: PreTrainedModel, vocab: int) -> dict[str, Tensor]:
    """Name -> rows of the student's head and embedding that stand for no token: training leaves them as they were.

    They get no gradient, but an optimizer's weight decay would shrink them.
    """
    output = student.get_output_embeddings()
    padded = [student.get_input_embeddings().weight, output.weight, getattr(output, "bias", None)]
    return {
        name: parameter.detach()[vocab:].clone()
        for name, parameter in student.named_parameters(remove_duplicate=False)
        if len(parameter) > vocab and any(parameter is tensor for tensor in padded)
    }


def _project(recipe: Recipe, student: PreTrainedModel, teacher: PreTrainedModel | None) -> None:
    """Give the student a projection to its teacher's width, where the loss compares them and they differ."""
    if not recipe.loss.hidden or teacher is None:
        return
    ours, theirs = head(student)[0].shape[1], head(teacher)[0].shape[1]
    if ours != theirs:
        setattr(student, PROJECTION, nn.Linear(ours, theirs, bias=False))


def _remove_directions(trainer: DistillationTrainer, count: int, groups: int) -> None:
    """Take the directions that tell the groups apart out of what the trained student's head sees, on all processes."""
    blocks = trainer.train_dataset
    assert isinstance(blocks, BlockDataset)  # `check_recipe`: not of a stream
    edited = np.flatnonzero(blocks.views() > 1)[:_FITTED_BLOCKS].tolist()
    collate = Collator(groups, augment=True)

    def batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for start in range(0, len(edited), trainer.args.per_device_train_batch_size):
            batch = collate(blocks.__getitems__(edited[start : start + trainer.args.per_device_train_batch_size]))
            pairs = pairs_of(Positions.of_first_rows(batch["labels"], batch["partner"]))
            device = trainer.args.device
            yield batch["input_ids"].to(device), batch["position_ids"].to(device), pairs.to(device)

    student = trainer.accelerator.unwrap_model(trainer.model)
    project_out(student, group_directions(student, batches(), count))
    trainer.training_log.gather()  # it is part of what the student took


def _open_cache(trainer: DistillationTrainer, recipe: Recipe, folder: Path) -> None:
    """Let the trainer keep the teacher's hidden states in a folder, if the recipe says so."""
    if not recipe.teacher.cache_hidden_states:
        return
    blocks = trainer.train_dataset
    assert isinstance(blocks, BlockDataset)  # `check_recipe`: a stream has no cache
    with together(main_first=True):  # the main process makes the files
        trainer.teacher_cache = open_teacher_cache(
            folder, trainer.teacher, blocks, recipe, trainer.accelerator.mixed_precision
        )


def _train(trainer: DistillationTrainer, checkpoints: Path, signals: Sequence[int]) -> None:
    """Train to the end, from the newest whole checkpoint on.

    Raises:
        UserError: see `train_student`.
        Stopped: one of the signals came in a step.
    """
    blocks = trainer.train_dataset
    resume: Any = [None]
    if trainer.is_world_process_zero():
        checkpoint_folder.clear_partial(checkpoints)
        resume = [checkpoint_folder.newest_whole(checkpoints)]
    resume = broadcast_object_list(resume)[0]
    if isinstance(blocks, BlockStream):
        blocks.start(trainer.args, resume)
        trainer.args.ignore_data_skip = True  # a stream goes on where it was by itself
    with _trackers_of_its_own(trainer):
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if trainer.stopped:
        raise Stopped(signals[0] if signals else signal.SIGTERM)
    if trainer.skipped_steps:
        say(f"{trainer.skipped_steps} steps were left out of training, because they were not finite")
    trainer.require_finite_weights()
    trainer.training_log.gather()
    if trainer.teacher_cache is not None:
        trainer.teacher_cache.close()
    if isinstance(blocks, BlockStream):
        blocks.finish()


@contextmanager
def _trackers_of_its_own(trainer: DistillationTrainer) -> Iterator[None]:
    """Keep the students of a run apart in trackers that would go on with what the student before has begun."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is not None:  # the user's
            callback.logging_dir = os.path.join(callback.logging_dir, trainer.args.run_name)
    wandb: Any = sys.modules.get("wandb") if "wandb" in trainer.args.report_to else None
    begins = wandb is not None and wandb.run is None  # or it is a notebook's, which goes on
    done = False
    try:
        yield
        done = not trainer.stopped
    finally:
        if begins and wandb.run is not None:
            with suppress(Exception):  # a network that is gone is no reason to lose the student, or what went wrong
                wandb.finish(exit_code=int(not done))


def write_student(recipe: Recipe, models: Models, state: dict[str, Tensor], destination: Path) -> None:
    """Put a trained student and its tokenizer, whole, at `destination`.

    Args:
        recipe: Number format of its file, and whether an adapter is merged.
        models: The trained student among them.
        state: Its weights, gathered from all processes.
        destination: Its folder.
    """
    student = models.student
    student.config.use_cache = True  # Trainer switches it off for training
    # The training state lies in the checkpoints; what is published may be smaller.
    dtype = getattr(torch, recipe.student.save_dtype)

    def save(folder: Path) -> None:
        if has_adapter(student):
            save_adapter(student, folder, dtype, recipe.student.lora.merge, left_out=PROJECTION)
        else:
            _save_whole(student, folder, dtype, state, models.padding)
        models.tokenizer.save_pretrained(folder)

    write_folder(destination, save)


def _save_whole(
    student: PreTrainedModel,
    folder: Path,
    dtype: torch.dtype,
    state: dict[str, Tensor],
    padding: Mapping[str, Tensor],
) -> None:
    # What was gathered from several processes holds a tied weight under each of its names.
    left_out = (PROJECTION, *student.all_tied_weights_keys)
    state = {k: v for k, v in state.items() if not k.startswith(left_out)}
    for name in padding.keys() & state.keys():
        state[name][-len(padding[name]) :] = padding[name]
    student = student.to(dtype)
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    student.save_pretrained(folder, state_dict=state)
