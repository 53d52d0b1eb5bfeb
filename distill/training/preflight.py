"""What a first run is told before it begins to train: a sentence each, and what to do. Warnings, not mistakes.

    slow_processor     no GPU is there, and the work is one for it
    little_memory      training will not fit into what is free
    split_words        the tokenizer splits most of the listed words, so that their roles cannot be reversed

Estimates are bounds from below: what they leave out (data, saving, scores) comes on top.
"""

import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil
import torch
from accelerate import PartialState
from transformers import PreTrainedModel, TrainingArguments

from distill.base.console import duration, warn
from distill.base.cores import control_groups
from distill.data.blocks import BlockDataset
from distill.data.counts import PackingCounts
from distill.data.stream import BlockStream
from distill.models.architecture import parameter_count, vocab_rows
from distill.privacy.clipping import check_layers, layers_of
from distill.recipe import Recipe
from distill.text.counterfactual import Swapper
from distill.text.role_map import TokenRoles
from distill.training.arguments import chunks_of_loss, takes_models_apart, training_arguments
from distill.training.checkpoints import refuse_other_processes
from distill.training.hub import hub_repository
from distill.training.private_trainer import freeze_what_is_not_trained, private_plan

_LONG = 3 * 3600  # seconds of training for which nobody should wait unwarned
_DOCUMENTS = 500  # held-out documents in which listed words are counted
_GIB = 2**30


def warn_of(
    recipe: Recipe,
    students: int,
    teacher: PreTrainedModel | None,
    student: PreTrainedModel,
    counts: PackingCounts,
    roles: TokenRoles,
    swapper: Swapper,
    documents: Sequence[str],
) -> None:
    """Print every warning that applies.

    Args:
        recipe: Settings of target and trainer.
        students: How many are still to be trained.
        teacher: The teacher or None.
        student: One of the students, not yet trained.
        counts: What packing saw.
        roles: The word list in tokens.
        swapper: The word list's swapper.
        documents: Held-out text.
    """
    arguments = training_arguments(recipe, Path(recipe.output_dir))
    for warning in (
        slow_processor(recipe, arguments, students, teacher, student, counts),
        little_memory(recipe, arguments, teacher, student),
        split_words(recipe, roles, swapper, documents),
    ):
        if warning:
            warn(warning)


def check_start(recipe: Recipe, folder: Path, missing: Iterable[str], processes: int) -> None:
    """What only the run's folder and the hub know, before any text is made.

    Args:
        recipe: Of the run.
        folder: Its folder.
        missing: Names of the students that are still to be trained.
        processes: How many there are.

    Raises:
        UserError: see `refuse_other_processes` and `hub_repository`.
    """
    for name in missing:
        refuse_other_processes(folder / "checkpoints" / name, processes)
    arguments = training_arguments(recipe, folder)
    if arguments.push_to_hub and PartialState().is_main_process:  # who may not push shall know now
        hub_repository(arguments)


def check_privacy(recipe: Recipe, student: PreTrainedModel, blocks: BlockDataset | BlockStream) -> None:
    """What a private training would find out, now: that its noise drowns everything, that a layer has no rule.

    Freezes what `privacy.weights` leaves out of it.

    Raises:
        UserError: see `private_plan`, `layers_of` and `check_layers`.
    """
    if recipe.is_private:
        assert isinstance(blocks, BlockDataset)  # `check_recipe`
        freeze_what_is_not_trained(recipe, student)
        private_plan(recipe, training_arguments(recipe, Path(recipe.output_dir)), student, blocks)
        check_layers(student, layers_of(student, left_out=[student.get_output_embeddings()]))


# ------------------------------------------------------------------------------------------------------------- time


def slow_processor(
    recipe: Recipe,
    arguments: TrainingArguments,
    students: int,
    teacher: PreTrainedModel | None,
    student: PreTrainedModel,
    counts: PackingCounts,
) -> str | None:
    """How long training takes at least without a GPU, if that is long.

    A forward pass takes two floating-point operations a parameter and token, a backward pass four (Kaplan et al. 2020,
    arXiv 2001.08361, section 2.1), two where the parameter is not trained; this machine's pace is that
    of its matrix products.
    """
    if torch.device(arguments.device).type != "cpu":
        return None
    blocks = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    if recipe.is_private:
        blocks = math.ceil(recipe.privacy.batch_size / arguments.world_size)
    steps = recipe.federation.steps if recipe.federation.clients else arguments.max_steps
    if steps < 0:  # 0 is no step at all
        steps = math.ceil(arguments.num_train_epochs * counts.blocks / (blocks * arguments.world_size))
    views = 1 + counts.edited_blocks / max(1, counts.blocks)  # blocks of more than two groups have more
    of_teacher = 2 * parameter_count(teacher) * views if teacher is not None else 0
    trained = student.num_parameters(only_trainable=True)
    of_student = (4 * parameter_count(student) + 2 * trained) * (views if recipe.target.augment else 1)
    operations = blocks * recipe.block_length * (of_teacher + of_student)
    seconds = operations / operations_per_second()
    if seconds * steps * students < _LONG:
        return None
    return (
        f"no GPU is used, and at the pace of this processor {students} x {steps:,} steps take "
        f"{duration(seconds * steps * students)} or more; use a machine with a GPU, or lower trainer.max_steps or "
        "block_length, or take a smaller teacher"
    )


def operations_per_second(device: str = "cpu") -> float:
    """Of float32 matrix products on the threads that torch uses, or on a GPU; the best of three."""
    size = 768
    matrix = torch.ones(size, size, device=device)
    best = math.inf
    for _ in range(3):
        begun = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for a GPU
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


# ----------------------------------------------------------------------------------------------------------- memory


def little_memory(
    recipe: Recipe, arguments: TrainingArguments, teacher: PreTrainedModel | None, student: PreTrainedModel
) -> str | None:
    """What training needs at least, in float32, beside what is taken already, if that is more than is free."""
    if takes_models_apart(arguments):
        return None
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else _free_memory()
    # The teacher is not yet on the GPU; a processor has it, and needs the memory of one more student.
    to_come = (teacher, student) if on_gpu else (student,)
    parameters = {id(p): p for model in to_come if model is not None for p in model.parameters()}
    if teacher is not None and not on_gpu:  # what the two share is there
        parameters = {i: p for i, p in parameters.items() if i not in {id(q) for q in teacher.parameters()}}
    weights = sum(p.numel() * p.element_size() for p in parameters.values())
    moments = 2 if "adam" in arguments.optim else 0
    trained = student.num_parameters(only_trainable=True)
    training = 4 * (1 + moments) * trained  # gradients, and the optimizer's moments
    text_config = student.config.get_text_config()
    tokens = arguments.per_device_train_batch_size * recipe.block_length * (2 if recipe.target.augment else 1)
    # Of a layer, the backward pass wants at least its input and what goes in and out of attention and the two parts of
    # the feed-forward part: 16 numbers a token and unit; with checkpointing, the input alone.
    kept = 1 if arguments.gradient_checkpointing else 16
    activations = 4 * kept * tokens * text_config.num_hidden_layers * text_config.hidden_size
    vocab = vocab_rows(student)
    half = on_gpu and (arguments.bf16 or arguments.fp16)
    chunk = chunks_of_loss(arguments, recipe, vocab).chunk
    logits = (2 if half else 4) * 2 * min(tokens, chunk) * vocab
    needed = weights + training + activations + logits
    if needed <= free:
        return None
    return (
        f"training needs at least {needed / _GIB:.1f} GiB of memory (weights, gradients and optimizer "
        f"{(weights + training) / _GIB:.1f}, activations {(activations + logits) / _GIB:.1f}), but {free / _GIB:.1f} "
        f"are free{' on the GPU' if on_gpu else ''}; lower trainer.per_device_train_batch_size (and raise "
        "trainer.gradient_accumulation_steps), block_length or student.num_layers, or set "
        "trainer.gradient_checkpointing true"
    )


def _free_memory(groups: Iterable[tuple[Path, int]] | None = None) -> int:
    """Bytes that this process may still take, of the machine or of its container or job.

    Args:
        groups: See `control_groups`; those of this process by default. What version 1 of them bounds is not read.
    """
    groups = control_groups("memory") if groups is None else groups
    left = (_left_of(group) for group, version in groups if version == 2)
    return min([psutil.virtual_memory().available, *(free for free in left if free is not None)])


def _left_of(group: Path) -> int | None:
    """Bytes that all of a control group may still take together; None where nothing bounds them."""
    try:
        limit, used = ((group / f"memory.{name}").read_text(encoding="ascii").strip() for name in ("max", "current"))
    except OSError:  # the machine's own, which has none, or another container's
        return None
    return int(limit) - int(used) + _cached(group) if limit != "max" else None


def _cached(group: Path) -> int:
    """Bytes of files that a control group has read and holds on to until somebody needs their room."""
    try:
        rows = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(row.split()[1]) for row in rows if row.startswith("inactive_file ")), 0)


# ------------------------------------------------------------------------------------------------------------ words


def split_words(recipe: Recipe, roles: TokenRoles, swapper: Swapper, documents: Sequence[str]) -> str | None:
    """Whether most of the listed words in the text have no token of their own, so that roles are rarely reversed."""
    if not recipe.target.reverse_roles:
        return None
    unmovable = set(roles.unmovable)
    words = [match.word for document in documents[:_DOCUMENTS] for match in swapper.matches(document)]
    words = words or list(swapper.wordlist.words)
    split = sum(word in unmovable for word in words)
    if split <= len(words) / 2:
        return None
    return (
        f"the tokenizer splits {split / len(words):.0%} of the listed words in the text so that their probability "
        "cannot be moved, and target.reverse_roles does little; see which: distill wordlist check "
        f"'{recipe.wordlist}' --tokenizer '{recipe.teacher.path or recipe.student.tokenizer}'"
    )
