"""Train a toy student in this process or in one of several; run by test_trainer.py with `torch.distributed.run`.

Usage: train_toy.py OUTPUT MICRO_BATCH ACCUMULATION
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from conftest import TOY_ARCHITECTURES, TOY_TEXT
from safetensors.torch import save_file
from transformers import set_seed

from distill.corpus import Corpus
from distill.counterfactual import Swapper
from distill.logit_ops import build_role_maps
from distill.models import make_student, train_tokenizer
from distill.packing import packed_blocks
from distill.recipe import LossConfig, Recipe, StudentConfig, TargetConfig
from distill.role_map import token_roles
from distill.trainer import train_student
from distill.wordlist import load_wordlist


def toy_documents() -> list[str]:
    """Documents of very different lengths, edited and unedited, so that token counts differ from step to step."""
    sentences = [s.strip() + "." for s in TOY_TEXT.split(".") if s.strip()]
    return [" ".join(sentences[i % len(sentences)] for i in range(n, n + 1 + n % 5)) for n in range(60)]


def main(
    output: str,
    micro_batch: int,
    accumulation: int,
    steps: int = 5,
    dropout: float = 0.0,
    optim: str = "sgd",  # Adam would turn rounding of near-zero gradients into whole steps, and a comparison into noise
    on_nonfinite: str = "stop",
    **trainer,
) -> None:
    folder = Path(output)
    tokenizer = train_tokenizer([TOY_TEXT] * 4, 400)
    wordlist = load_wordlist("english_gender")
    recipe = Recipe(
        seed=3,
        on_nonfinite=on_nonfinite,
        block_length=48,
        target=TargetConfig(op="expmean", reverse_roles=True, augment=True),
        loss=LossConfig(kd=1.0, ce=0.5, hidden=0.1),
        trainer={
            "max_steps": steps,
            "per_device_train_batch_size": micro_batch,
            "gradient_accumulation_steps": accumulation,
            "optim": optim,
            "learning_rate": 0.1 if optim == "sgd" else 1e-3,
            "use_cpu": True,
            "disable_tqdm": True,
            **trainer,
        },
    )
    drop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    config = StudentConfig(init="config", config={"model_type": "gpt2", **TOY_ARCHITECTURES["gpt2"], **drop})
    set_seed(0)
    teacher = make_student(config, None, tokenizer, None).eval().requires_grad_(False)
    student = make_student(StudentConfig(), teacher, tokenizer, "toy")
    rank = os.environ.get("RANK", "0")
    folder.mkdir(parents=True, exist_ok=True)
    if rank == "0":
        save_file({k: v.clone() for k, v in student.state_dict().items()}, folder / "untrained.safetensors")
    blocks, _ = packed_blocks(
        Corpus("toy", toy_documents), tokenizer, Swapper(wordlist), recipe.block_length, folder / f"cache-{rank}"
    )
    roles = token_roles(wordlist, tokenizer, len(tokenizer))
    train_student(
        replace(recipe, output_dir=output),
        student=student,
        teacher=teacher,
        tokenizer=tokenizer,
        blocks=blocks,
        num_groups=2,
        role_maps=build_role_maps(roles.edges, roles.vocab_size),
        checkpoints=folder / "checkpoints",
        destination=folder / "student",
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
