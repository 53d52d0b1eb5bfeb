"""A full training step, ours beside its peers: processor time and resident memory.

A GPT-2 124M teacher with random weights, a student of every second of its layers, 2 texts of 512 tokens, one view, no
counterfactuals: forward, backward, clipping and fused AdamW, in each contender's own trainer. Every run checks that the
losses of all steps agree, and so the updates between them. `ours_two_view_augment` has no peer: the teacher reads each
text and a counterfactual, roles are reversed, and the student learns from both.

    python tests/benchmarks/step.py            a table
    python tests/benchmarks/step.py --json     JSON; `ratios` are ours over theirs, medians of --repeats runs each

Memory is the highest resident set while stepping above that before the models were made: weights, gradients, optimizer
and activations count, the libraries' code does not.

All steps of a run are one epoch of the same few texts in the same order: at an epoch's end trainers wait, and start
their loader's processes anew, which is no part of a step.

On a GPU (the tests run the same code on a CPU) all in one process, with and without --compile; `gpu.sh` does so:

    python tests/benchmarks/step.py --device cuda --dtype bfloat16 --rows 8 --tokens 1024 --steps 32 --together
"""

import argparse
import copy
import itertools
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PrinterCallback, Trainer, TrainerCallback

from distill.data.batches import Collator
from distill.data.blocks import PairBlock
from distill.models.student import student_from_layers, train_tokenizer
from distill.objective.chunks import IGNORED
from distill.objective.logit_ops import RoleMap
from distill.objective.transfer import copied_to
from distill.recipe import LossConfig, Recipe, TargetConfig
from distill.training.arguments import loss_settings, training_arguments
from distill.training.run import loss_planner, read_by_steps
from distill.training.student_loss import attach_loss
from distill.training.trainer import DistillationTrainer

#: Steps before those that count: the optimizer's state is made in the first; on a GPU kernels are compiled meanwhile,
#: and the loader's processes get ahead.
WARM_UP = {"cpu": 2, "cuda": 6}

#: The same for all trainers: they differ in their defaults.
TRAINER: dict[str, Any] = {
    "learning_rate": 1e-4,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 1.0,
    "optim": "adamw_torch_fused",
    "train_sampling_strategy": "sequential",
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "logging_steps": 20,
}

SHAPE = ("steps", "rows", "tokens", "vocabulary", "width", "layers")


def make_models(vocabulary: int, width: int, layers: int, tokens: int) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Teacher and student, the same in every process; without dropout, which would make the losses differ."""
    torch.manual_seed(0)
    off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    special = {"bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=width,
        n_head=width // 64,
        n_layer=layers,
        n_positions=tokens,
        initializer_range=0.05,  # so that predictions are not almost uniform
        **off,
        **special,
    )
    teacher = GPT2LMHeadModel(config).eval().requires_grad_(False)
    return teacher, student_from_layers(teacher, list(range(0, layers, 2)))


def make_ids(vocabulary: int, rows: int, tokens: int) -> Tensor:
    """(rows, tokens) random token ids: one batch, which is every step's."""
    return torch.randint(vocabulary, (rows, tokens), generator=torch.Generator().manual_seed(1))


def pair_block(row: np.ndarray, views: int, vocabulary: int) -> PairBlock:
    """A text of (T,) tokens and its counterfactual, in which 3 tokens of 100 are others; all positions are aligned."""
    rng = np.random.default_rng(int(row[0]))
    texts = np.stack([row] * views)
    edited = rng.random(len(row)) < 0.03
    texts[1:, edited] = rng.integers(vocabulary, size=int(edited.sum()))
    # The last token is followed by nothing, as in the peers' batches.
    labels = np.pad(texts[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORED)
    positions = np.stack([np.arange(len(row), dtype=np.int32)] * views)
    return PairBlock(texts, labels, positions, positions)


def role_map(vocabulary: int) -> RoleMap:
    """As many edges as the bundled list has with GPT-2's tokenizer: 800, some of which share a token (her)."""
    tokens = range(0, min(800, vocabulary - 3), 2)
    edges = [edge for token in tokens for edge in ((token, token + 1), (token + 1, token))]
    return RoleMap([*edges, (0, 3), (3, 0)] if vocabulary > 4 else edges, vocabulary)


def our_trainer(divergence: str, views: int = 1) -> Callable[..., Trainer]:
    """Makes a `DistillationTrainer`; with two views augmented and with the roles reversed, as the recipes have it."""

    def make(teacher: PreTrainedModel, student: PreTrainedModel, ids: Tensor, settings: dict, folder: Path) -> Trainer:
        vocabulary = student.config.vocab_size
        blocks = [pair_block(row, views, vocabulary) for row in ids.numpy().astype(np.int32)]
        attach_loss(student)
        target = TargetConfig(op="expmean" if views > 1 else "none", augment=views > 1, reverse_roles=views > 1)
        recipe = Recipe(trainer=settings, target=target, loss=LossConfig(divergence=divergence))
        arguments = training_arguments(recipe, folder)
        return DistillationTrainer(
            model=student,
            args=arguments,
            train_dataset=blocks,
            data_collator=Collator(views, views > 1, plan=loss_planner(arguments, recipe, True, vocabulary)),
            teacher=read_by_steps(recipe.teacher, teacher, arguments),
            settings=loss_settings(recipe),
            role_maps=[role_map(vocabulary)] if views > 1 else None,
        )

    return make


def _tokenizer() -> Any:
    """The peers ask for one, but are given token ids."""
    tokenizer = train_tokenizer(["a text"], 300)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def for_trl(settings: dict[str, Any]) -> dict[str, Any]:
    """With what would make another step of TRL's than of ours: activations computed twice, and waits for a card."""
    given = settings | {"gradient_checkpointing": False, "logging_nan_inf_filter": False}
    if settings["use_cpu"]:
        return given
    loader = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}
    return given | loader | {"accelerator_config": {"non_blocking": True}}


def gkd_trainer(beta: float) -> Callable[..., Trainer]:
    """Makes TRL's GKDTrainer, off-policy."""

    def make(teacher: PreTrainedModel, student: PreTrainedModel, ids: Tensor, settings: dict, folder: Path) -> Trainer:
        from datasets import Dataset
        from trl.experimental.gkd import GKDConfig, GKDTrainer

        def collate(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
            batch = torch.tensor([row["input_ids"] for row in rows])
            labels = batch.clone()
            labels[:, 0] = IGNORED  # nothing predicts the first token; it must not be counted either
            return {"input_ids": batch, "attention_mask": torch.ones_like(batch), "labels": labels}

        arguments = GKDConfig(str(folder), lmbda=0.0, beta=beta, seq_kd=False, **for_trl(settings))
        dataset = Dataset.from_dict({"input_ids": ids.tolist()})
        return GKDTrainer(student, teacher, arguments, collate, train_dataset=dataset, processing_class=_tokenizer())

    return make


def trl_chunked_trainer(beta: float) -> Callable[..., Trainer]:
    """Makes TRL's DistillationTrainer, whose loss is chunked, on given texts instead of those that it would sample."""

    def make(teacher: PreTrainedModel, student: PreTrainedModel, ids: Tensor, settings: dict, folder: Path) -> Trainer:
        from datasets import Dataset
        from trl import DistillationConfig
        from trl import DistillationTrainer as Chunked

        class OnGivenTexts(Chunked):
            def _prepare_inputs(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
                batch = copied_to(ids[[row["row"] for row in rows]], self.accelerator.device)
                mask = torch.ones_like(batch)
                return {
                    "prompt_ids": batch[:, :1],
                    "prompt_mask": mask[:, :1],
                    "completion_ids": batch[:, 1:],
                    "completion_mask": mask[:, 1:],
                }

        # A row says which one it is, where TRL's own hold a prompt: a thousand numbers would be looked at one by one,
        # to be pinned, sent and made a tensor, by the thread that starts the card's kernels.
        dataset = Dataset.from_dict({"prompt": [""] * len(ids), "row": list(range(len(ids)))})
        # Its sampler is its own, and asks for no strategy.
        arguments = DistillationConfig(str(folder), beta=beta, shuffle_dataset=False, **for_trl(settings))
        return OnGivenTexts(student, teacher, arguments, dataset, processing_class=_tokenizer())

    return make


@dataclass(frozen=True)
class Contender:
    """A trainer. `computes`: contenders with the same entry must agree. `package`: what it needs.

    `views`: how often the teacher and the student read a text. `mode`: torch.compile's, where it is not its default.
    """

    trainer: Callable[..., Trainer]
    computes: str
    package: str | None = None
    views: int = 1
    mode: str | None = None


CONTENDERS: dict[str, Contender] = {
    "ours_forward_kl": Contender(our_trainer("forward_kl"), "forward KL"),
    "gkd_forward_kl": Contender(gkd_trainer(0.0), "forward KL", "trl"),
    "trl_chunked": Contender(trl_chunked_trainer(0.0), "forward KL", "trl"),
    "ours_jsd": Contender(our_trainer("jsd"), "JSD"),
    "gkd_jsd": Contender(gkd_trainer(0.5), "JSD", "trl"),
    "ours_two_view_augment": Contender(our_trainer("forward_kl", views=2), "two views, roles reversed", views=2),
}
#: With --compile, where they are asked for: both models run as CUDA graphs.
CONTENDERS |= {
    f"{name}_graphs": replace(CONTENDERS[name], mode="reduce-overhead")
    for name in ("ours_forward_kl", "ours_two_view_augment")
}

#: What `ratios` compares: peer -> (our contender, the peer's).
RATIOS = {
    "gkd_forward_kl": ("ours_forward_kl", "gkd_forward_kl"),
    "gkd_jsd": ("ours_jsd", "gkd_jsd"),
    "trl_chunked": ("ours_forward_kl", "trl_chunked"),
}


class Clock(TrainerCallback):
    """Time of each step, from before its forward pass to after the optimizer's step.

    On cuda from the end of one step to that of the next, as the card comes to it, of those after the warm-up: to wait
    for the card after every step would keep the processor from preparing the next one meanwhile.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: list[float] = []
        self._ends: list[torch.cuda.Event] = []

    def _mark(self) -> None:
        self._ends.append(torch.cuda.Event(enable_timing=True))
        self._ends[-1].record()

    def on_step_begin(self, arguments: Any, state: Any, *_: Any, **__: Any) -> None:
        first = state.global_step == WARM_UP[self.device]
        if first:
            common.settle_memory(self.device)
        if self.device == "cpu":
            self._start = common.seconds(self.device)
        elif first:
            self._mark()

    def on_step_end(self, arguments: Any, state: Any, *_: Any, **__: Any) -> None:
        if self.device == "cpu":
            self.seconds.append(common.seconds(self.device) - self._start)
        elif self._ends:
            self._mark()
            if state.global_step == state.max_steps:
                torch.cuda.synchronize()
                self.seconds = [a.elapsed_time(b) / 1000 for a, b in itertools.pairwise(self._ends)]


class Profile(TrainerCallback):
    """Records the first step after the warm-up."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.profile = common.profiler(device)

    def on_step_begin(self, arguments: Any, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step == WARM_UP[self.device]:
            self.profile.start()

    def on_step_end(self, arguments: Any, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step == WARM_UP[self.device] + 1:
            self.profile.stop()


@lru_cache(maxsize=1)
def _shared_models(*shape: int) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Those of `make_models`, which takes seconds, for all contenders of a process to copy."""
    return make_models(*shape)


def end_readers(trainer: Trainer) -> None:
    """End the processes of a trainer's loader, which TRL leaves to the garbage collector.

    That takes their queues apart first, and then waits for each of them for five seconds: in the next contender's time.
    """
    if (staying := getattr(trainer.callback_handler.train_dataloader, "_iterator", None)) is not None:
        staying._shutdown_workers()


def train(contender: Contender, shape: argparse.Namespace, *callbacks: TrainerCallback) -> tuple[Clock, list[float]]:
    """Train for some steps, which are one epoch; returns the time of each step and the loss of each step."""
    sizes = (shape.vocabulary, shape.width, shape.layers, shape.tokens)
    teacher, student = copy.deepcopy(_shared_models(*sizes)) if shape.together else make_models(*sizes)
    steps = WARM_UP[shape.device] + shape.steps
    ids = make_ids(shape.vocabulary, shape.rows, shape.tokens).repeat(steps, 1)
    settings = {
        **TRAINER,
        "per_device_train_batch_size": shape.rows,
        "max_steps": steps,
        "use_cpu": shape.device == "cpu",
        "dataloader_pin_memory": shape.device == "cuda",
        "bf16": shape.dtype == "bfloat16",
        "torch_compile": shape.compile,
        "torch_compile_mode": contender.mode,
    }
    with tempfile.TemporaryDirectory() as folder:
        trainer = contender.trainer(teacher, student, ids, settings, Path(folder))
        clock, losses, training_step = Clock(shape.device), list[Tensor](), trainer.training_step

        def recorded(*args: Any, **kwargs: Any) -> Tensor:
            loss = training_step(*args, **kwargs)
            losses.append(loss.detach())  # a number only later: it would have to be waited for
            return loss

        trainer.training_step = recorded
        trainer.remove_callback(PrinterCallback)  # whose lines are not ours to read
        for callback in (clock, *callbacks):
            trainer.add_callback(callback)
        try:
            trainer.train()
        finally:
            end_readers(trainer)
    return clock, [float(loss) for loss in losses]


def measure(contender: Contender, shape: argparse.Namespace) -> common.Record:
    """Seconds of a step, how they differ, peak memory, and the loss of every step.

    Seconds are the median of the measured steps; on a GPU their mean, in which all that it waited for counts.
    """
    # A toy first: what is loaded on the way is no part of a step. None before a step that is compiled: torch would
    # remember the toy's shapes, and compile the real one for any. Together, a GPU's memory is counted without the code.
    if not (shape.compile or shape.together):
        toy = {"vocabulary": 64, "width": 64, "layers": 2, "tokens": 8, "steps": 1}
        train(contender, argparse.Namespace(**{**vars(shape), **toy}))
    if shape.compile:
        torch._dynamo.reset()  # nor another contender's, of the same process
    before = common.settle_memory(shape.device)
    clock, losses = train(contender, shape)
    seconds = clock.seconds[-shape.steps :]
    return {
        "seconds": statistics.median(seconds) if shape.device == "cpu" else statistics.mean(seconds),
        "each_step": {"least": min(seconds), "median": statistics.median(seconds), "most": max(seconds)},
        "bytes": common.peak_memory(shape.device) - before,
        "losses": losses,
    }


def forward_flops(vocabulary: int, width: int, layers: int, tokens: int) -> float:
    """Of the products of matrices, for one token: 2 for each weight of layers and head, and causal attention."""
    return 2 * (12 * layers * width**2 + vocabulary * width) + 2 * layers * tokens * width


def check_agreement(records: dict[str, list[common.Record]], dtype: str = "float32") -> None:
    """Contenders that compute the same have the same loss in every step of every run, but for rounding.

    Raises:
        RuntimeError: two of them do not; with their names and the losses.
    """
    tolerance = 1e-3 if dtype == "float32" else 5e-2
    first: dict[str, str] = {}
    for name, runs in records.items():
        reference = first.setdefault(CONTENDERS[name].computes, name)
        want = records[reference][0]["losses"]
        for got in runs:
            if not all(math.isclose(a, b, rel_tol=tolerance) for a, b in zip(got["losses"], want, strict=True)):
                raise RuntimeError(f"{name} and {reference} disagree: losses {got['losses']} and {want}")


def report(records: dict[str, list[common.Record]]) -> common.Record:
    """The figures of `--json`, without the description of the machine."""
    ratios = {
        kind: {peer: common.ratio(records, mine, theirs, field) for peer, (mine, theirs) in RATIOS.items()}
        for kind, field in (("memory", "bytes"), ("time", "seconds"))
    }
    return {"ratios": ratios, "contenders": common.summary(records)}


def figures_of(records: dict[str, list[common.Record]], options: argparse.Namespace) -> common.Record:
    """All that `--json` tells: the report, with rates, what others are compared by, and where it comes from."""
    figures = report(records)
    # The teacher's forward pass, the student's, and twice that for the student's backward pass.
    teacher, student = (
        forward_flops(options.vocabulary, options.width, layers, options.tokens)
        for layers in (options.layers, (options.layers + 1) // 2)
    )
    for name, record in figures["contenders"].items():
        rows = options.rows * CONTENDERS[name].views
        common.add_rates({name: record}, rows * options.tokens, teacher + 3 * student, options.peak_tflops)
        first = records[name][0]
        record |= {"computes": CONTENDERS[name].computes, "steps": options.steps}
        record |= {field: first[field] for field in ("each_step", "losses") if field in first}
    shape = {name: getattr(options, name) for name in (*SHAPE, *common.HOW)}
    shape["matrix_rate_tflops"] = options.peak_tflops
    return {**figures, "setting": {**shape, "threads": options.threads, **common.machine(options.device)}}


def add_own_options(parser: argparse.ArgumentParser) -> None:
    """Those that say what a step is."""
    parser.add_argument("--steps", type=int, default=3, help="measured steps of each run")
    parser.add_argument("--rows", type=int, default=2, help="texts in a step")
    parser.add_argument("--tokens", type=int, default=512, help="length of each text")
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12, help="layers of the teacher; the student has half of them")


def write_profile(name: str, options: argparse.Namespace) -> None:
    """The table of where a contender's step spends its time, where it was asked for."""
    if options.profile:
        profile = Profile(options.device)
        train(CONTENDERS[name], argparse.Namespace(**{**vars(options), "steps": 1}), profile)
        common.write_profile(profile.profile, options.profile, name, options.device)


def main() -> int:
    """All contenders by turns, or one of them in the process that measures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    common.add_options(parser, list(CONTENDERS))
    add_own_options(parser)
    options = parser.parse_args()
    names = options.contenders or [name for name, contender in CONTENDERS.items() if contender.mode is None]
    if not options.compile and any(CONTENDERS[name].mode for name in names):
        parser.error("CUDA graphs need --compile")
    torch.set_num_threads(options.threads)
    if options.only:
        record = measure(CONTENDERS[options.only], options)
        write_profile(options.only, options)
        print(json.dumps(record))
        return 0
    common.find_peak(options)
    names = common.available({name: CONTENDERS[name].package for name in names})
    run: Callable[[str], common.Record]
    if options.together:
        run = lambda name: measure(CONTENDERS[name], options)  # noqa: E731
    else:
        given = {name: getattr(options, name) for name in (*SHAPE, *common.HOW, "profile")}
        run = partial(common.run_alone, __file__, options=common.as_options(given), threads=options.threads)
    records = common.by_turns(
        names, options.repeats, run, lambda found: common.save(options.save, figures_of(found, options))
    )
    figures = figures_of(records, options)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        common.print_contenders(figures)
        common.print_ratios(figures["ratios"])
    try:
        for name in records if options.together else ():
            if name.startswith("ours"):
                write_profile(name, options)
    finally:  # last: who disagrees is wrong, but what was measured is told
        check_agreement(records, options.dtype)
    return common.exit_code(names, options.repeats, records)


if __name__ == "__main__":
    sys.exit(main())
