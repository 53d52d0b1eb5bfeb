"""The distillation loss alone, ours beside its peers: processor time and peak memory.

Each contender goes from the last hidden states of student and teacher and the weights of both heads to the gradients
of the student's hidden states and head, on the same random numbers in the shapes of GPT-2 124M. Who wants logits makes
them. On a CPU ours plans its chunks in each call, which in training is done with the batch; on a GPU, which would be
waited for, once. Every run checks that the losses and the gradients of the contenders agree.

    python tests/benchmarks/loss.py            a table
    python tests/benchmarks/loss.py --json     JSON; `ratios` are ours over theirs, medians of --repeats runs each

Our loss is measured with its default settings, TRL's with what its trainers give it, and Liger's compiled, as it comes,
but in chunks of 128 tokens, which need far less memory than its 1,024. `--contenders` has more: Liger in its own chunks
and uncompiled, TRL's chunked Jensen-Shannon divergence, and ours on texts and counterfactuals at once.

On a GPU (the tests run the same code on a CPU; `gpu.sh` does so) all in one process, whose start takes longer than
what is measured, and whose memory torch counts to the byte. `card` in the JSON is what a card needs for 4,096 tokens in
our kernel, in products with the heads, and in all else. CORE.md has the kernel's time on one; the loss beside its peers
was not measured there so far:

    python tests/benchmarks/loss.py --device cuda --dtype bfloat16 --rows 8 --tokens 1024 --together
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import common
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import DeviceType

from distill.objective import kd_loss
from distill.objective.chunks import Plan, Positions, plan_chunks
from distill.objective.kd_loss import ModelView, fused_loss, reference_loss
from distill.objective.logit_ops import RoleMap
from distill.objective.settings import LossSettings

KD, CE = 0.7, 0.3  # weights where the cross-entropy takes part


class Inputs(NamedTuple):
    """N tokens, V entries, width D. Rows 0..N-1 of the teacher see the text, rows N..2N-1 its counterfactual."""

    hidden: Tensor  # (N, D), wants a gradient
    weight: Tensor  # (V, D), wants a gradient
    teacher_hidden: Tensor  # (2N, D)
    teacher_weight: Tensor  # (V, D)
    labels: Tensor  # (N,)
    partner: Tensor  # (1, N), -1 for one position in twenty
    role_map: RoleMap


SHAPE = ("rows", "tokens", "vocabulary", "width")


def make_inputs(tokens: int, vocabulary: int, width: int, device: str = "cpu") -> Inputs:
    """The same random numbers in every process. Logits have a standard deviation of about 3, as a language model's."""
    normal = torch.Generator().manual_seed(0)
    hidden, teacher_hidden = (torch.randn(n, width, generator=normal) for n in (tokens, 2 * tokens))
    weight, teacher_weight = (torch.randn(vocabulary, width, generator=normal) * 3 / width**0.5 for _ in range(2))
    labels = torch.randint(vocabulary, (tokens,), generator=normal)
    partner = torch.arange(tokens, 2 * tokens).unsqueeze(0)
    partner[0, torch.rand(tokens, generator=normal) < 0.05] = -1
    # Listed words as in a list of some hundred rows, with one that has two counterparts (her: his, him).
    pairs = [(2 * i, 2 * i + 1) for i in range(2, min(200, vocabulary // 4))]
    one_way = [(0, 1), (0, 2), *pairs]
    role_map = RoleMap([*one_way, *((there, here) for here, there in one_way)], vocabulary).to(device)
    tensors = (x.to(device) for x in (hidden, weight, teacher_hidden, teacher_weight, labels, partner))
    x = Inputs(*tensors, role_map)
    x.hidden.requires_grad_(), x.weight.requires_grad_()
    return x


def ours(x: Inputs, settings: LossSettings, loss: Callable = fused_loss, two_views: bool = False) -> Tensor:
    """The fused loss, or the reference loss."""
    own = torch.arange(len(x.hidden), device=x.hidden.device)
    return loss(
        ModelView(x.hidden, x.weight),
        ModelView(x.teacher_hidden, x.teacher_weight),
        Positions(x.labels, own, x.partner if two_views else None),
        settings,
        [x.role_map] if two_views else None,
    ).total / len(x.hidden)


def ours_augmented(x: Inputs) -> Tensor:
    """The student sees half of the tokens as text and half as their counterfactual: the pair shares its teacher."""
    half = len(x.hidden) // 2
    there = torch.arange(2 * half, device=x.hidden.device).roll(half)
    partner = torch.where(torch.cat([x.partner[0, :half]] * 2) >= 0, there, -1).unsqueeze(0)
    rows = slice(2 * half)
    return fused_loss(
        ModelView(x.hidden[rows], x.weight),
        ModelView(x.teacher_hidden[rows], x.teacher_weight),
        Positions(x.labels[rows], there.roll(half), partner),
        LossSettings(op="expmean"),
        [x.role_map],
    ).total / (2 * half)


def logits(x: Inputs) -> tuple[Tensor, Tensor]:
    """(1, N, V) logits of student and teacher, as a model with a head returns them."""
    with torch.no_grad():
        teacher = F.linear(x.teacher_hidden[: len(x.hidden)], x.teacher_weight)
    return F.linear(x.hidden, x.weight).unsqueeze(0), teacher.unsqueeze(0)


def naive(x: Inputs) -> Tensor:
    """Forward KL and cross-entropy as one writes them down."""
    student, teacher = (z.squeeze(0) for z in logits(x))
    kd = F.kl_div(F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1), reduction="sum", log_target=True)
    return KD * kd / len(student) + CE * F.cross_entropy(student, x.labels)


def gkd(x: Inputs, beta: float) -> Tensor:
    """TRL's GKDTrainer."""
    from trl.experimental.gkd import GKDTrainer

    student, teacher = logits(x)
    labels = x.labels.unsqueeze(0)
    return GKDTrainer.generalized_jsd_loss(student, teacher, labels=labels, beta=beta)


def trl_chunked(x: Inputs, beta: float) -> Tensor:
    """The chunked divergence of TRL's DistillationTrainer."""
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    mask = torch.ones(1, len(x.hidden), dtype=torch.int64, device=x.hidden.device)
    teacher_hidden = x.teacher_hidden[: len(x.hidden)].unsqueeze(0)
    hidden = x.hidden.unsqueeze(0)
    return _chunked_divergence_loss(hidden, teacher_hidden, x.weight, x.teacher_weight, mask, beta)[0]


def liger(x: Inputs, chunk_tokens: int, compiled: bool = True) -> Tensor:
    """Liger's chunked Jensen-Shannon divergence."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(0.0, 1.0, beta=0.5, compiled=compiled, chunk_size=chunk_tokens)
    teacher_hidden = x.teacher_hidden[: len(x.hidden)]
    return loss(x.hidden, x.weight, teacher_hidden, x.teacher_weight, x.labels)


@dataclass(frozen=True)
class Contender:
    """A way to compute a loss.

    computes: Contenders with the same entry must agree.
    package: What it needs.
    views: How many rows of the teacher are read for each token.
    compiles: Whether it compiles itself, for longer than all others run.
    """

    loss: Callable[[Inputs], Tensor]
    computes: str
    package: str | None = None
    views: int = 1
    compiles: bool = False


_SMALL = 128  # tokens in a chunk: Liger's default, 1,024, needs several times the memory

CONTENDERS: dict[str, Contender] = {
    "ours": Contender(lambda x: ours(x, LossSettings(kd=KD, ce=CE, op="none")), "forward KL + CE"),
    "naive": Contender(naive, "forward KL + CE"),
    "ours_forward_kl": Contender(lambda x: ours(x, LossSettings(op="none")), "forward KL"),
    "gkd_forward_kl": Contender(lambda x: gkd(x, 0.0), "forward KL", "trl"),
    "trl_chunked": Contender(lambda x: trl_chunked(x, 0.0), "forward KL", "trl"),
    "ours_jsd": Contender(lambda x: ours(x, LossSettings(op="none", divergence="jsd")), "JSD"),
    "gkd_jsd": Contender(lambda x: gkd(x, 0.5), "JSD", "trl"),
    "trl_chunked_jsd": Contender(lambda x: trl_chunked(x, 0.5), "JSD", "trl"),
    "liger": Contender(lambda x: liger(x, _SMALL), "JSD", "liger_kernel", compiles=True),
    "liger_own_chunks": Contender(lambda x: liger(x, 1024), "JSD", "liger_kernel", compiles=True),
    "liger_uncompiled": Contender(lambda x: liger(x, _SMALL, compiled=False), "JSD", "liger_kernel"),
    "ours_two_view": Contender(lambda x: ours(x, LossSettings(), two_views=True), "two views", views=2),
    "naive_two_view": Contender(
        lambda x: ours(x, LossSettings(), reference_loss, two_views=True), "two views", views=2
    ),
    "ours_augmented": Contender(ours_augmented, "augmented"),
}

#: What `ratios` compares: peer -> (our contender, the peer's).
RATIOS = {
    "naive": ("ours", "naive"),
    "gkd_forward_kl": ("ours_forward_kl", "gkd_forward_kl"),
    "gkd_jsd": ("ours_jsd", "gkd_jsd"),
    "trl_chunked": ("ours_forward_kl", "trl_chunked"),
    "liger": ("ours_jsd", "liger"),
}

COMPARED = list(
    dict.fromkeys([*(name for pair in RATIOS.values() for name in pair), "ours_two_view", "naive_two_view"])
)


def backward(x: Inputs, contender: Contender, dtype: str = "float32", compiled: bool = False) -> Tensor:
    """Forward and backward of the mean loss, which is returned; the gradients are those of the leaves of ``x``."""
    x.hidden.grad = x.weight.grad = None  # of a contender that failed
    compute = torch.compile(contender.loss) if compiled else contender.loss
    with common.autocast(x.hidden.device.type, dtype):
        loss = compute(x)
    loss.backward()
    return loss.detach()


def outcome(x: Inputs, loss: Tensor) -> common.Record:
    """The loss, and norms and some entries of the gradients, which are let go of; see `backward`."""
    found = {"loss": float(loss)}
    for name, leaf in (("hidden", x.hidden), ("weight", x.weight)):
        flat = leaf.grad.flatten()
        some = torch.linspace(0, len(flat) - 1, 50, dtype=torch.float64).long()
        found[f"{name}_norm"] = float(flat.norm())
        found[f"{name}_entries"] = flat[some].tolist()
    x.hidden.grad = x.weight.grad = None
    return found


def run(x: Inputs, contender: Contender, dtype: str = "float32", compiled: bool = False) -> common.Record:
    """What contenders must agree on, see `outcome`."""
    return outcome(x, backward(x, contender, dtype, compiled))


@contextmanager
def planned_once(device: str) -> Iterator[None]:
    """On a GPU, all calls of one of ours go by the plan of the first: in training it comes with the batch.

    On a CPU each call plans, as there it is work of the same processor, in whichever process.
    """
    made: list[Plan] = []

    def plan(*given: Any) -> Plan:
        if not made:
            made.append(plan_chunks(*given))
        return made[0]

    with mock.patch.object(kd_loss, "plan_chunks", plan) if device == "cuda" else nullcontext():
        yield


_PRODUCT = re.compile("gemm|nvjet|cutlass|cublas", re.IGNORECASE)  # in names of kernels of NVIDIA's libraries


def card_times(events: Iterable[Any], tokens: int, own: Container[str]) -> common.Record:
    """Milliseconds of the card for 4,096 tokens: in our own kernels, in products of matrices, in all else.

    Args:
        events: Of a profile, see `torch.profiler.profile.events`.
        tokens: That the loss read while it was taken.
        own: Names of our kernels.
    """
    times = {"kernel": 0.0, "products": 0.0, "rest": 0.0}
    for event in events:
        if event.device_type != DeviceType.CUDA or event.is_user_annotation:
            continue
        kind = "kernel" if event.name in own else "products" if _PRODUCT.search(event.name) else "rest"
        times[kind] += event.time_range.elapsed_us() / 1000 * 4096 / tokens
    return times


def on_card(x: Inputs, names: Iterable[str], options: argparse.Namespace, calls: int = 5) -> common.Record:
    """Our own contenders -> `card_times`, from a few calls, none of which is the first."""
    from distill.objective import kernels  # needs Triton

    found = {}
    for name in names:
        with planned_once(options.device):
            backward(x, CONTENDERS[name], options.dtype, options.compile)
            with common.profiler(options.device) as profile:
                for _ in range(calls):
                    backward(x, CONTENDERS[name], options.dtype, options.compile)
        found[name] = card_times(profile.events(), calls * len(x.hidden), vars(kernels))
    return found


def check_agreement(records: dict[str, list[common.Record]], dtype: str = "float32") -> None:
    """Contenders that compute the same give the same loss and the same gradients in every run.

    Half precision is given leave to differ as it rounds: the naive losses keep some tensors of V entries in it.

    Raises:
        RuntimeError: two of them do not; with their names and the figures.
    """
    tolerance = 1e-4 if dtype == "float32" else 2e-2
    first: dict[str, str] = {}
    for name, runs in records.items():
        reference = first.setdefault(CONTENDERS[name].computes, name)
        want = records[reference][0]
        for got in runs:
            for field in ("loss", "hidden_norm", "weight_norm"):
                if not math.isclose(got[field], want[field], rel_tol=tolerance):
                    raise RuntimeError(f"{name} and {reference} disagree: {field} {got[field]} and {want[field]}")
            for field in ("hidden", "weight"):
                pairs = zip(got[f"{field}_entries"], want[f"{field}_entries"], strict=True)
                error = max(abs(a - b) for a, b in pairs)
                if error > 10 * tolerance * max(map(abs, want[f"{field}_entries"])):
                    raise RuntimeError(f"{name} and {reference} disagree: gradients of {field} differ by {error}")


def report(records: dict[str, list[common.Record]]) -> common.Record:
    """The figures of `--json`, without the description of the machine."""

    def ratios(field: str) -> dict[str, float | None]:
        return {peer: common.ratio(records, mine, theirs, field) for peer, (mine, theirs) in RATIOS.items()}

    two_view = {
        "memory": common.ratio(records, "ours_two_view", "ours_forward_kl", "bytes"),
        "time": common.ratio(records, "ours_two_view", "naive_two_view", "seconds"),
    }
    return {
        "ratios": {"memory": ratios("bytes"), "time": ratios("seconds"), "two_view": two_view},
        "contenders": common.summary(records),
    }


def figures_of(
    records: dict[str, list[common.Record]], options: argparse.Namespace, card: common.Record | None = None
) -> common.Record:
    """All that `--json` tells: the report, with rates, and where it comes from; ``card`` is what `on_card` found."""
    figures = report(records) | ({"card": card} if card else {})
    for name, record in figures["contenders"].items():
        # The teacher's head forward, the student's forward and twice that backward; 2 operations for each weight.
        flops = (2 * CONTENDERS[name].views + 6) * options.vocabulary * options.width
        common.add_rates({name: record}, options.rows * options.tokens, flops, options.peak_tflops)
    shape = {name: getattr(options, name) for name in (*SHAPE, *common.HOW)}
    shape["matrix_rate_tflops"] = options.peak_tflops
    return {**figures, "setting": {**shape, "threads": options.threads, **common.machine(options.device)}}


def print_tables(figures: common.Record) -> None:
    """What each took, and ours over theirs."""
    common.print_contenders(figures)
    common.print_ratios(figures["ratios"])
    two_view = figures["ratios"]["two_view"]
    if None not in two_view.values():
        print(f"two views: time {two_view['time']:.3f} of naive, peak memory {two_view['memory']:.3f} of one view")


def measure(name: str, options: argparse.Namespace, x: Inputs) -> common.Record:
    """The record of a contender; with `--profile` its table is written too."""
    x.hidden.grad = x.weight.grad = None  # left by a profile, or by a contender that failed
    kd_loss._PADDED_HEADS.clear()  # what ours keeps of the teacher's head is memory of each of its runs
    given = (x, CONTENDERS[name], options.dtype, options.compile)
    with planned_once(options.device):
        record = common.measure(partial(backward, *given), options.device, partial(outcome, x))
        if options.profile:
            with common.profiler(options.device) as profile:
                run(*given)
            common.write_profile(profile, options.profile, name, options.device)
    return record


def compare(options: argparse.Namespace) -> int:
    """All contenders by turns; returns the exit code."""
    names = options.contenders or COMPARED
    names = common.available({name: CONTENDERS[name].package for name in names})
    if options.together:
        x = inputs_of(options)
        run = partial(measure, options=options, x=x)
    else:
        given = common.as_options({name: getattr(options, name) for name in (*SHAPE, *common.HOW, "profile")})
        run = partial(common.run_alone, __file__, options=given, threads=options.threads)
    card: common.Record = {}
    asked = set[str]()

    def keep(found: dict[str, list[common.Record]]) -> None:
        common.save(options.save, figures_of(found, options, card))
        left = [name for name in found if name.startswith("ours") and name not in asked]
        if left and options.together and options.device == "cuda":  # at once: the part may be stopped
            asked.update(left)
            try:
                card.update(on_card(x, left, options))
            except Exception as error:  # of whatever kind a profiler raises: all else that is measured needs none
                print(f"no profile of {', '.join(left)}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            common.save(options.save, figures_of(found, options, card))

    # In one process, which may be stopped, nobody waits for a compiler; processes go by turns, as the machine changes.
    last = [name for name in names if CONTENDERS[name].compiles] if options.together else []
    records = common.by_turns(names, options.repeats, run, keep, last)
    figures = figures_of(records, options, card)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        print_tables(figures)
    check_agreement(records, options.dtype)  # last: who disagrees is wrong, but what was measured is told
    return common.exit_code(names, options.repeats, records)


def inputs_of(options: argparse.Namespace) -> Inputs:
    """Those of the shape that was asked for."""
    return make_inputs(options.rows * options.tokens, options.vocabulary, options.width, options.device)


def main() -> int:
    """All contenders by turns, or one of them in the process that measures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    common.add_options(parser, list(CONTENDERS))
    parser.add_argument("--rows", type=int, default=1, help="texts; the loss sees rows times tokens")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--width", type=int, default=768)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only:
        print(json.dumps(measure(options.only, options, inputs_of(options))))
        return 0
    common.find_peak(options)
    return compare(options)


if __name__ == "__main__":
    sys.exit(main())
