"""A private step beside the same step without privacy, and beside Opacus: processor time and resident memory.

A GPT-2 teacher with random weights, a student of every second of its layers; a step of 32 documents in two views, each
a row of its own of 128 tokens, read 8 at a time: the teacher's pass, forward, backward, clipping, noise and AdamW.

    python tests/benchmarks/private.py            a table
    python tests/benchmarks/private.py --json     JSON; `ratios` are private over not private, medians of --repeats runs

`body` trains all but the head, `all` the head too. Opacus trains all, by its hooks for per-document gradients of every
weight; it does not see the gradient that the fused loss makes of the head, and so gets the loss with all logits.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from step import make_models
from torch import Tensor

from distill.data.batches import Collator
from distill.data.blocks import PairBlock
from distill.models.architecture import hidden_states, view_of
from distill.objective.divergences import DIVERGENCES
from distill.objective.kd_loss import ModelView, naive_logits
from distill.objective.logit_ops import teacher_target
from distill.objective.settings import LossSettings
from distill.privacy.accountant import Plan
from distill.privacy.draws import Draws
from distill.recipe import Recipe
from distill.training.arguments import training_arguments
from distill.training.private_trainer import PrivateTrainer
from distill.training.student_loss import attach_loss
from distill.training.trainer import DistillationTrainer

SETTINGS = LossSettings(op="expmean")
CLIP, NOISE = 1.0, 1.0


class Blocks(list):
    """Blocks in memory, as `BlockDataset` gives them."""

    def __getitems__(self, indices: list[int]) -> list[PairBlock]:
        return [self[index] for index in indices]

    def first_pieces(self) -> np.ndarray:
        return np.arange(len(self))

    def lengths(self) -> np.ndarray:
        return np.array([block.input_ids.shape[1] for block in self])


def make_blocks(shape: argparse.Namespace) -> Blocks:
    """Random documents whose counterfactuals differ in every ninth token."""
    rng = np.random.default_rng(0)
    positions = np.broadcast_to(np.arange(shape.tokens), (2, shape.tokens)).astype(np.int32)
    blocks = Blocks()
    for number in range(shape.documents):
        text = rng.integers(shape.vocabulary, size=shape.tokens + 1)
        views = np.stack([text, text])
        views[1, 5::9] = rng.integers(shape.vocabulary, size=views[1, 5::9].shape)
        ids, labels = views[:, :-1].astype(np.int32), views[:, 1:].astype(np.int32)
        blocks.append(PairBlock(ids, labels, positions, positions, number))
    return blocks


def make_trainer(name: str, shape: argparse.Namespace, folder: Path) -> Any:
    """The product's trainer, private or not."""
    teacher, student = make_models(shape.vocabulary, shape.width, shape.layers, shape.tokens)
    attach_loss(student)
    recipe = Recipe(trainer={"use_cpu": True, "max_steps": 1, "per_device_train_batch_size": shape.rows})
    blocks = make_blocks(shape)
    common_keys = {
        "model": student, "args": training_arguments(recipe, folder), "train_dataset": blocks, "teacher": teacher,
        "data_collator": Collator(2, augment=True), "settings": SETTINGS, "role_maps": None,
    }  # fmt: skip
    if name == "plain":
        return DistillationTrainer(**common_keys)
    if name == "body":
        for module in (student.get_input_embeddings(), student.get_output_embeddings()):
            module.requires_grad_(False)
    weights = sum(weight.numel() for weight in student.parameters() if weight.requires_grad)
    plan = Plan(8.0, 1e-3, NOISE, CLIP, len(blocks), len(blocks), 1, weights)
    return PrivateTrainer(plan=plan, draws=Draws(0), **common_keys)


def product_step(name: str, shape: argparse.Namespace, folder: Path) -> Callable[[], common.Record]:
    """A step of the product."""
    trainer = make_trainer(name, shape, folder)
    optimizer = trainer.create_optimizer()
    student, blocks = trainer.model, trainer.train_dataset
    micro_batches = range(0, len(blocks), shape.rows)

    def step() -> common.Record:
        if name == "plain":
            count, loss = torch.tensor(2 * len(blocks) * shape.tokens), torch.zeros(())
            for start in micro_batches:
                batch = trainer.data_collator(blocks[start : start + shape.rows])
                share = trainer.compute_loss(student, batch, num_items_in_batch=count)
                share.backward()
                loss += share.detach()
        else:
            loss = trainer.training_step(student, {"documents": torch.arange(len(blocks))})
        trainer._step.clear()
        torch.nn.utils.clip_grad_norm_([w for w in student.parameters() if w.grad is not None], 1.0)
        optimizer.step()
        student.zero_grad()
        return {"loss": float(loss)}

    return step


def opacus_step(shape: argparse.Namespace) -> Callable[[], common.Record]:
    """A step of Opacus' hooks: gradients of every row and weight, summed over a document's rows, clipped, summed."""
    from opacus import GradSampleModule

    teacher, student = make_models(shape.vocabulary, shape.width, shape.layers, shape.tokens)
    student.train()
    hooked = GradSampleModule(student, batch_first=True, loss_reduction="sum", strict=False)
    weights = list(student.parameters())
    optimizer = torch.optim.AdamW(weights, lr=5e-5)
    blocks, collate = make_blocks(shape), Collator(2, augment=True)

    def step() -> common.Record:
        sums: list[Tensor] = [torch.zeros_like(weight) for weight in weights]
        total_loss = 0.0
        for start in range(0, len(blocks), shape.rows):
            batch = collate(blocks[start : start + shape.rows])
            with torch.no_grad():
                seen = hidden_states(teacher, batch["input_ids"], batch["position_ids"])
            logits = hooked(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
            loss = dense_loss(logits, view_of(teacher, seen), batch)
            loss.backward()
            total_loss += float(loss) / (2 * len(blocks) * shape.tokens)
            documents = torch.arange(len(batch["input_ids"])) % shape.rows
            squared = torch.zeros(shape.rows)
            for weight in weights:
                of_rows = weight.grad_sample
                weight.grad_sample = of_rows.new_zeros(shape.rows, *weight.shape).index_add_(0, documents, of_rows)
                squared += weight.grad_sample.flatten(1).square().sum(dim=1)
            factors = (CLIP / squared.sqrt().clamp(min=1e-12)).clamp(max=1)
            for total, weight in zip(sums, weights, strict=True):
                total += torch.tensordot(factors, weight.grad_sample, dims=1)
                weight.grad_sample = None
        for total, weight in zip(sums, weights, strict=True):
            weight.grad = total.add_(torch.randn_like(total), alpha=NOISE * CLIP).div_(len(blocks))
        optimizer.step()
        hooked.zero_grad()
        return {"loss": total_loss}

    return step


def dense_loss(logits: Tensor, teacher: ModelView, batch: dict[str, Tensor]) -> Tensor:
    """The same loss from whole logits, as its definition reads (no role is reversed here)."""
    own = naive_logits(teacher, torch.arange(len(teacher.hidden)))
    partner = batch["partner"].flatten(1)
    target = teacher_target(own, own[partner.clamp(min=0)], partner >= 0, SETTINGS.op, 1.0, None, 1.0)
    log_q = torch.log_softmax(logits.flatten(0, 1), dim=-1)
    return DIVERGENCES["forward_kl"](target, log_q, 0.5).sum()


CONTENDERS = ("plain", "body", "all", "opacus")


def measure(name: str, shape: argparse.Namespace) -> common.Record:
    """The second step of a contender."""
    with tempfile.TemporaryDirectory() as folder:
        step = opacus_step(shape) if name == "opacus" else product_step(name, shape, Path(folder))
        return common.measure(step)


def report(records: dict[str, list[common.Record]]) -> common.Record:
    """The figures of `--json`, without the description of the machine."""
    return {
        "ratios": {
            kind: {name: common.ratio(records, name, "plain", field) for name in CONTENDERS[1:]}
            for kind, field in (("time", "seconds"), ("memory", "bytes"))
        },
        "contenders": common.summary(records),
    }


def main() -> int:
    """All contenders by turns, or one of them in the process that measures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each contender; medians are compared")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--documents", type=int, default=32, help="documents of a step")
    parser.add_argument("--rows", type=int, default=8, help="documents that are read at a time")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8, help="layers of the teacher; the student has half of them")
    parser.add_argument("--only", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only:
        print(json.dumps(measure(options.only, options)))
        return 0
    names = common.available({name: "opacus" if name == "opacus" else None for name in CONTENDERS})
    fields = ("documents", "rows", "tokens", "vocabulary", "width", "layers")
    shape = {name: getattr(options, name) for name in fields}
    given = common.as_options(shape)
    run = partial(common.run_alone, __file__, options=given, threads=options.threads)
    records = common.by_turns(names, options.repeats, run)
    figures = {**report(records), "setting": {**shape, "threads": options.threads, **common.machine()}}
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        for record in figures["contenders"].values():
            record["tokens_per_second"] = 2 * options.documents * options.tokens / record["seconds"]
        common.print_contenders(figures)
        common.print_ratios(figures["ratios"])
    return common.exit_code(names, options.repeats, records)


if __name__ == "__main__":
    sys.exit(main())
