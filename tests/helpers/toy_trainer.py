"""A trainer of toy models, and a batch for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import train_toy

from distill.data.batches import Collator
from distill.data.blocks import PairBlock
from distill.data.counts import PackingCounts
from distill.data.packing import pack
from distill.objective.listed_tokens import ListedTokens
from distill.objective.logit_ops import RoleMap
from distill.recipe import LossConfig, Recipe, TargetConfig
from distill.training.arguments import loss_settings, training_arguments
from distill.training.student_loss import attach_loss
from distill.training.trainer import DistillationTrainer


def toy_batch(tokenizer: Any) -> tuple[dict[str, torch.Tensor], list[PairBlock]]:
    """Blocks of the toy documents, edited ones among them, and the batch of them all."""
    _, swapper, _ = train_toy.language()
    blocks = list(pack(train_toy.toy_documents()[:20], tokenizer, swapper, 48, PackingCounts()))
    return Collator(2, augment=True)(blocks), blocks


def make_trainer(
    tmp_path: Path,
    student: Any,
    teacher: Any,
    blocks: Sequence[PairBlock],
    target: TargetConfig,
    loss: LossConfig,
    role_maps: Sequence[RoleMap] | None = None,
    listed: ListedTokens | None = None,
    **keys: Any,
) -> DistillationTrainer:
    """The trainer of a recipe with this target and loss and these keys of its trainer, for one step."""
    recipe = Recipe(target=target, loss=loss, trainer={"use_cpu": True, "max_steps": 1, **keys})
    attach_loss(student)
    return DistillationTrainer(
        model=student,
        args=training_arguments(recipe, tmp_path),
        train_dataset=blocks,
        data_collator=Collator(2, target.augment),
        teacher=teacher,
        settings=loss_settings(recipe),
        role_maps=role_maps,
        listed=listed,
    )
