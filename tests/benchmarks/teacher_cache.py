"""What the teacher's cache saves: processor time of a training step in the second epoch, with and without it.

A GPT-2 124M teacher with random weights, a student of every second of its layers, random texts and counterfactuals of
512 tokens, all of them edited: forward, backward, clipping and fused AdamW, in the package's own trainer. Three
targets: the plain teacher on one view; both views combined and roles reversed, where the student reads the text alone;
the same with augmentation. Every run checks that the losses of all steps agree within 1e-3.

    python tests/benchmarks/teacher_cache.py            a table
    python tests/benchmarks/teacher_cache.py --json     JSON; `speed` is tokens/s with the cache over those without, in
                                                        the second epoch (`later`) and in the first, which fills it
"""

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import common
import numpy as np
import step
import torch

from distill.data.batches import Collator
from distill.data.blocks import PairBlock
from distill.objective.chunks import IGNORED
from distill.objective.logit_ops import RoleMap
from distill.objective.settings import LossSettings
from distill.recipe import Recipe
from distill.training.arguments import training_arguments
from distill.training.student_loss import attach_loss
from distill.training.teacher_cache import TeacherCache
from distill.training.trainer import DistillationTrainer

ROWS = 2  # texts in a step

#: Target -> operation, number of views, and whether the student reads the counterfactuals too.
TARGETS = {"one view": ("none", 1, False), "two views": ("expmean", 2, False), "augmented": ("expmean", 2, True)}
CONTENDERS = [f"{target}, {cache}" for target in TARGETS for cache in ("no cache", "cache")]


def make_blocks(shape: argparse.Namespace) -> list[PairBlock]:
    """Random texts, of which every twentieth token is another one in the counterfactual."""
    random = np.random.default_rng(0)
    blocks = []
    for index in range(ROWS * shape.steps):
        ids = np.tile(random.integers(shape.vocabulary, size=shape.tokens, dtype=np.int32), (2, 1))
        edited = random.random(shape.tokens) < 0.05
        ids[1, edited] = random.integers(shape.vocabulary, size=edited.sum())
        labels = np.pad(ids[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORED)
        positions = np.tile(np.arange(shape.tokens, dtype=np.int32), (2, 1))
        blocks.append(PairBlock(ids, labels, np.where(edited, -1, positions), positions, index))
    return blocks


def role_map(vocabulary: int) -> RoleMap:
    """As of a word list of some hundred rows."""
    pairs = [(2 * i, 2 * i + 1) for i in range(min(200, vocabulary // 4))]
    return RoleMap([*pairs, *((there, here) for here, there in pairs)], vocabulary)


def measure(name: str, shape: argparse.Namespace) -> common.Record:
    """Mean processor seconds of the steps of both epochs, bytes on disk, and the loss of every step."""
    target, cache = name.split(", ")
    op, views, augment = TARGETS[target]
    teacher, student = step.make_models(shape.vocabulary, shape.width, shape.layers, shape.tokens)
    attach_loss(student)
    own = {"per_device_train_batch_size": ROWS, "num_train_epochs": 2, "logging_steps": 1, "use_cpu": True}
    with tempfile.TemporaryDirectory() as folder:
        trainer = DistillationTrainer(
            model=student,
            args=training_arguments(Recipe(trainer=step.TRAINER | own), Path(folder)),
            train_dataset=make_blocks(shape),
            data_collator=Collator(views, augment),
            teacher=teacher,
            settings=LossSettings(op=op),
            role_maps=[role_map(shape.vocabulary)] if views > 1 else None,
        )
        if cache == "cache":
            block_views = np.full(ROWS * shape.steps, 2)
            row = (shape.tokens, shape.width)
            trainer.teacher_cache = TeacherCache(Path(folder, "hidden"), {}, block_views, row, torch.float32)
        clock = step.Clock("cpu")
        trainer.add_callback(clock)
        trainer.train()
        on_disk = sum(file.stat().st_blocks * 512 for file in Path(folder).rglob("*.bin"))
    # The first step of the first epoch makes the optimizer's state.
    first, later = clock.seconds[1 : shape.steps], clock.seconds[shape.steps :]
    return {
        "seconds": sum(later) / len(later),
        "first": sum(first) / len(first),
        "bytes": on_disk,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }


def check_agreement(records: dict[str, list[common.Record]]) -> None:
    """With and without the cache, the losses of all steps are the same.

    Raises:
        RuntimeError: they are not; with the target and the losses.
    """
    for target in TARGETS:
        runs = [run["losses"] for name, of_name in records.items() if name.startswith(f"{target}, ") for run in of_name]
        if any(np.abs(np.subtract(run, runs[0])).max() > 1e-3 for run in runs):
            raise RuntimeError(f"{target}: losses disagree: {runs}")


def report(records: dict[str, list[common.Record]]) -> common.Record:
    """The figures of `--json`, without the description of the machine."""
    speed = {
        target: {
            epoch: common.ratio(records, f"{target}, no cache", f"{target}, cache", field)
            for epoch, field in (("later", "seconds"), ("first", "first"))
        }
        for target in TARGETS
    }
    return {"speed": speed, "contenders": common.summary(records)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    common.add_options(parser, CONTENDERS)
    parser.add_argument("--steps", type=int, default=4, help="steps of an epoch")
    parser.add_argument("--tokens", type=int, default=512, help="length of each of the two texts of a step")
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12, help="layers of the teacher; the student has half of them")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    if options.only:
        print(json.dumps(measure(options.only, options)))
        return 0

    shape = {name: getattr(options, name) for name in ("steps", "tokens", "vocabulary", "width", "layers")}
    names = options.contenders or CONTENDERS
    setting = {**shape, "rows": ROWS, "threads": options.threads, **common.machine()}
    run = partial(common.run_alone, __file__, options=common.as_options(shape), threads=options.threads)
    records = common.by_turns(
        names, options.repeats, run, lambda found: common.save(options.save, {**report(found), "setting": setting})
    )
    check_agreement(records)
    figures = {**report(records), "setting": setting}
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        rows = [
            [target, *("-" if speed[epoch] is None else f"{speed[epoch]:.2f}" for epoch in ("first", "later"))]
            for target, speed in figures["speed"].items()
        ]
        common.print_table(("tokens/s, cache over no cache", "first epoch", "later epochs"), rows)
    return common.exit_code(names, options.repeats, records)


if __name__ == "__main__":
    sys.exit(main())
