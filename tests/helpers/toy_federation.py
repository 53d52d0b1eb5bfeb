"""A federation of toy clients, trained in this process, and the plain training that it is set beside."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import train_toy
from safetensors.torch import load_file
from shared import TOY_ARCHITECTURES
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from distill.data.corpus import Corpus
from distill.data.stream import training_blocks
from distill.federation import rounds
from distill.federation.clients import client_blocks
from distill.models.student import make_student
from distill.objective.logit_ops import build_role_maps
from distill.recipe import (
    FederationConfig,
    LossConfig,
    PartitionConfig,
    PrivacyConfig,
    Recipe,
    ScoreConfig,
    ServerConfig,
    StudentConfig,
    TargetConfig,
)
from distill.training.run import train_student

TOKENIZER, SWAPPER, ROLES = train_toy.language()
NOT_PRIVATE = PrivacyConfig()


def toy_recipe(
    folder: Path,
    steps: int = 3,
    trainer: dict[str, Any] | None = None,
    privacy: PrivacyConfig = NOT_PRIVATE,
    **federation: Any,
) -> Recipe:
    """A recipe with two views, role reversal and augmentation; plain gradient descent at a constant rate.

    Args:
        folder: Of the run.
        steps: `local_steps`.
        trainer: Keys over its own.
        privacy: Of the updates.
        federation: Keys of the federation; `server` and `partition` as mappings.
    """
    sections = {"server": ServerConfig, "partition": PartitionConfig}
    given = {key: sections[key](**value) if key in sections else value for key, value in federation.items()}
    return Recipe(
        output_dir=str(folder),
        seed=3,
        block_length=48,
        target=TargetConfig(op="expmean", reverse_roles=True, augment=True),
        loss=LossConfig(kd=1.0, ce=0.5),
        trainer={
            "per_device_train_batch_size": 500,  # all text in a step
            "optim": "sgd",
            "learning_rate": 0.1,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0,
            "use_cpu": True,
            "disable_tqdm": True,
            **(trainer or {}),
        },
        scores=ScoreConfig(bootstrap=10),
        privacy=privacy,
        federation=FederationConfig(**{"local_steps": steps, "watch": [], **given}),
    )


def _given(recipe: Recipe) -> dict[str, Any]:
    keys = {"model_type": "gpt2", **TOY_ARCHITECTURES["gpt2"], "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    set_seed(0)
    teacher = make_student(StudentConfig(init="config", config=keys), None, TOKENIZER, None)
    folder = Path(recipe.output_dir)
    return {
        "teacher": teacher.eval().requires_grad_(False),
        "student": make_student(recipe.student, teacher, TOKENIZER, "toy"),
        "tokenizer": TOKENIZER,
        "role_maps": build_role_maps(ROLES.edges, ROLES.vocab_size),
        "checkpoints": folder / "checkpoints" / "student",
        "destination": folder / "student",
    }


def text_of(recipe: Recipe, documents: list[str] | None = None) -> Any:
    """The clients' text, or all of it as blocks where there are no clients."""
    make = client_blocks if recipe.federation.clients else training_blocks
    corpus = Corpus("toy", lambda: iter(documents or train_toy.toy_documents()[40:80]))
    cache = Path(recipe.output_dir, "cache")
    return make(recipe, corpus, TOKENIZER, SWAPPER, cache, one_document=recipe.is_private)[0]


def federated(recipe: Recipe, documents: list[str] | None = None) -> dict[str, Tensor]:
    """The student's weights after all rounds."""
    rounds.train_federated(recipe, blocks=text_of(recipe, documents), **_given(recipe))
    return load_file(Path(recipe.output_dir, "student", "model.safetensors"))


def plain(recipe: Recipe, steps: int, documents: list[str] | None = None) -> dict[str, Tensor]:
    """The student's weights after that many steps of one training on all text."""
    recipe = replace(recipe, trainer={**recipe.trainer, "max_steps": steps}, federation=FederationConfig())
    train_student(recipe, blocks=text_of(recipe, documents), **_given(recipe))
    return load_file(Path(recipe.output_dir, "student", "model.safetensors"))


def student_of(recipe: Recipe) -> PreTrainedModel:
    """The student before any step."""
    return _given(recipe)["student"]


def untrained(recipe: Recipe) -> dict[str, Tensor]:
    """Its weights before any step."""
    return {name: weight.detach().clone() for name, weight in student_of(recipe).named_parameters()}
