"""A toy model with an adapter beside it, both on disk."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from distill.models.adapters import save_adapter, trainable_state
from distill.models.loading import load_model
from distill.models.student import make_student
from distill.recipe import LoraConfig, StudentConfig


def saved_adapter(model: Any, tokenizer: Any, folder: Path) -> Path:
    """Save a model as `base`, and an adapter of it that says something as `adapter`; the adapter's folder."""
    base = folder / "base"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    config = replace(StudentConfig(), init="teacher", lora=LoraConfig(r=3))
    student = make_student(config, load_model(str(base)).requires_grad_(False), tokenizer, str(base))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in trainable_state(student).values():  # as it is made, one of its two matrices is zero
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    save_adapter(student, folder / "adapter", torch.float32, merge=False)
    tokenizer.save_pretrained(folder / "adapter")
    return folder / "adapter"
