"""Train a toy student in this process or in one of several; run by the tests with `torch.distributed.run`.

Usage: train_toy.py OUTPUT MICRO_BATCH ACCUMULATION [OPTIONS of main, as JSON]
"""

import functools
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from shared import TOY_ARCHITECTURES, TOY_TEXT
from transformers import PreTrainedTokenizerBase, set_seed, training_args

from distill.data.corpus import Corpus
from distill.data.stream import training_blocks
from distill.models.architecture import decoder_layers
from distill.models.student import make_student, train_tokenizer
from distill.objective.logit_ops import build_role_maps
from distill.recipe import (
    CorpusConfig,
    LoraConfig,
    LossConfig,
    PrivacyConfig,
    Recipe,
    ScoreConfig,
    StudentConfig,
    TargetConfig,
    TeacherConfig,
)
from distill.text.counterfactual import Swapper
from distill.text.role_map import TokenRoles, token_roles
from distill.text.wordlist import load_wordlist
from distill.training.probing import Probe
from distill.training.run import train_student


def toy_documents() -> list[str]:
    """Documents of very different lengths, so that token counts differ from step to step; the last are unedited."""
    sentences = [s.strip() + "." for s in TOY_TEXT.split(".") if s.strip()]
    edited = [" ".join(sentences[i % len(sentences)] for i in range(n, n + 1 + n % 5)) for n in range(60)]
    return edited + [" ".join(sentences[-1:] * (1 + n % 5)) for n in range(60)]


@functools.cache
def language() -> tuple[PreTrainedTokenizerBase, Swapper, TokenRoles]:
    """A tokenizer, a swapper of the bundled list, and the roles of its tokens, made once a process: to find them takes
    longer than to train."""
    tokenizer, wordlist = train_tokenizer([TOY_TEXT] * 4, 400), load_wordlist("english_gender")
    return tokenizer, Swapper(wordlist), token_roles(wordlist, tokenizer, len(tokenizer))


def _student_config(keys: dict) -> StudentConfig:
    return StudentConfig(**{**keys, "lora": LoraConfig(**keys.get("lora", {}))})


def shard_on_a_cpu() -> None:
    """Let accelerate take this CPU for a GPU, whose processes talk through gloo.

    It shards (FSDP2, DeepSpeed) on GPUs alone, and leaves its settings for that out on a CPU, where torch itself can.
    """
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
    training_args.is_torch_bf16_gpu_available = lambda: True
    torch.accelerator.is_available = lambda: True


def main(
    output: str,
    micro_batch: int,
    accumulation: int,
    steps: int = 5,
    dropout: float = 0.0,
    segment: int | None = None,  # pack while training, in segments of so many documents
    optim: str = "sgd",  # Adam would turn rounding of near-zero gradients into whole steps, and a comparison into noise
    architecture: str = "gpt2",
    student: dict | None = None,  # keys in which a student of random weights differs from the teacher
    teacher_keys: dict | None = None,  # of the recipe
    student_keys: dict | None = None,  # of the recipe
    on_nonfinite: str = "stop",
    privacy: dict | None = None,  # keys of the recipe
    probe: Probe | None = None,
    scores: dict | None = None,  # keys of the recipe
    **trainer,
) -> None:
    folder = Path(output)
    tokenizer, swapper, roles = language()
    stream = {"pack": "while_training", "shuffle_buffer": segment} if segment else {}
    recipe = Recipe(
        output_dir=output,
        seed=3,
        corpus=CorpusConfig(**stream),
        on_nonfinite=on_nonfinite,
        block_length=48,
        teacher=TeacherConfig(**teacher_keys or {}),
        student=_student_config(student_keys or {}),
        target=TargetConfig(op="expmean", reverse_roles=True, augment=True),
        loss=LossConfig(kd=1.0, ce=0.5, hidden=0.1),
        privacy=PrivacyConfig(**privacy or {}),
        scores=ScoreConfig(**scores or {}),
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
    keys = {"model_type": architecture, **TOY_ARCHITECTURES[architecture]}
    if architecture == "gpt2":
        keys |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    set_seed(0)
    config = StudentConfig(init="config", config=keys, attention=recipe.teacher.attention)
    teacher = make_student(config, None, tokenizer, None).eval().requires_grad_(False)
    if recipe.student.lora.r:  # an adapter is loaded with its base
        teacher.config._name_or_path = str(folder / "teacher")
        if os.environ.get("RANK", "0") == "0":
            teacher.save_pretrained(folder / "teacher")
    config = recipe.student
    if student is not None:
        config = replace(config, init="config", config={**keys, **student})
    student = make_student(config, teacher, tokenizer, "toy")
    rank = os.environ.get("RANK", "0")
    folder.mkdir(parents=True, exist_ok=True)
    if rank == "0":
        save_file({k: v.clone() for k, v in student.state_dict().items()}, folder / "untrained.safetensors")
    corpus = Corpus("toy", toy_documents)
    cache = folder / f"cache-{rank}"
    blocks, _ = training_blocks(recipe, corpus, tokenizer, swapper, cache, one_document=recipe.is_private)
    train_student(
        recipe,
        student=student,
        teacher=teacher,
        tokenizer=tokenizer,
        blocks=blocks,
        role_maps=build_role_maps(roles.edges, roles.vocab_size),
        checkpoints=folder / "checkpoints",
        destination=folder / "student",
        probe=probe,
    )
    if recipe.teacher.shard:
        weights = list(decoder_layers(teacher)[1].parameters())
        assert sum(w.to_local().numel() for w in weights) < 0.6 * sum(w.numel() for w in weights)


if __name__ == "__main__":
    torch.set_num_threads(1)
    options = json.loads(sys.argv[4]) if sys.argv[4:] else {}
    if not options.get("use_cpu", True):
        shard_on_a_cpu()
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), **options)
    PartialState().destroy_process_group()  # as a run does: left to the interpreter's end, its threads may abort it
