"""The fused loss against the reference, the reference against hand-made values, and what the fused one must not do."""

import gc
import importlib
import math
import warnings
import weakref
from functools import partial, wraps
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from live_bytes import LiveBytes
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from distill.objective import chunks, kd_loss
from distill.objective.chunks import Positions, chunk_sizes, plan_chunks
from distill.objective.divergences import DIVERGENCES
from distill.objective.kd_loss import LossParts, ModelView, tied_embedding
from distill.objective.listed_tokens import ListedTokens
from distill.objective.logit_ops import RoleMap
from distill.objective.operations import OPERATIONS
from distill.objective.settings import LossSettings

V = 23
ROLE_MAPS = {
    2: [RoleMap([(1, 2), (1, 3), (2, 1), (3, 1), (4, 5), (5, 4)], V)],
    3: [RoleMap([(1, 0), (2, 1), (0, 2)], V), RoleMap([(2, 0), (0, 1), (1, 2)], V)],
}
LISTED = {groups: ListedTokens.of(role_maps) for groups, role_maps in ROLE_MAPS.items()}


def of_tensors(loss):
    """A loss as a function of the nine tensors of `Inputs` and what follows them."""

    @wraps(loss)
    def call(
        hidden, weight, bias, teacher_hidden, teacher_weight, teacher_bias, own, partner, labels, *rest, **options
    ):
        student = ModelView(hidden, weight, bias)
        teacher = None if teacher_hidden is None else ModelView(teacher_hidden, teacher_weight, teacher_bias)
        return loss(student, teacher, Positions(labels, own, partner), *rest, **options)

    return call


fused_loss, reference_loss = of_tensors(kd_loss.fused_loss), of_tensors(kd_loss.reference_loss)


class Inputs(NamedTuple):
    """The tensors of a loss, by name."""

    student_hidden: torch.Tensor
    student_weight: torch.Tensor
    student_bias: torch.Tensor | None
    teacher_hidden: torch.Tensor | None
    teacher_weight: torch.Tensor | None
    teacher_bias: torch.Tensor | None
    own: torch.Tensor | None
    partner: torch.Tensor | None
    labels: torch.Tensor


def make_inputs(seed=0, n=30, v=V, groups=2, student_width=6, teacher_width=8, dtype=torch.float32, valid=0.7):
    """N tokens of texts and counterfactuals; some tokens do not count, some have not all partners."""
    generator = torch.Generator().manual_seed(seed)
    normal = partial(torch.randn, generator=generator, dtype=dtype)
    own = torch.randperm(2 * n, generator=generator)[:n]
    partner = torch.randint(-n // 2, 2 * n, (groups - 1, n), generator=generator).clamp(min=-1)
    labels = torch.randint(v, (n,), generator=generator)
    labels[torch.rand(n, generator=generator) >= valid] = -100
    return Inputs(
        normal(n, student_width),
        normal(v, student_width),
        normal(v),
        normal(2 * n, teacher_width),
        normal(v, teacher_width),
        normal(v),
        own,
        partner,
        labels,
    )


def run(loss, inputs, settings, role_maps=None, projection=None, scale=1.0, **options):
    """The parts of a loss, and the gradients of scale * total for hidden states, weight, bias and projection."""
    leaves = [x if x is None else x.clone().requires_grad_() for x in (*inputs[:3], projection)]
    parts = loss(*leaves[:3], *inputs[3:], settings, role_maps, leaves[3], **options)
    (scale * parts.total).backward()
    return LossParts(*(part.detach() for part in parts)), [x if x is None else x.grad for x in leaves]


assert_same = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


def _rounded_once(builder, x, y, z):
    """x * y + z of float32 numbers, as a GPU's instruction has it; float64 holds their product whole."""
    with np.errstate(all="ignore"):
        found = (x.data.astype(np.float64) * y.data + z.data).astype(np.float32)
    return type(z)(found, z.dtype.scalar)


@pytest.fixture
def on_gpu_pass(monkeypatch):
    """The pass of a GPU, where there is none in Triton's interpreter, which takes its time: few tokens do there.

    The interpreter's maximum hands on what is not a number; a GPU's gives the other number, and so does it here. That
    of a row of no numbers at all is none, of which numpy warns. Nor does the interpreter round a product and a sum at
    once: what is left of a large number less itself is 0 there, and on a GPU what the product's rounding was.
    """
    pytest.importorskip("triton", reason="needs triton, which is there on Linux alone")
    builder = importlib.import_module("triton.runtime.interpreter").InterpreterBuilder
    monkeypatch.setattr(builder, "create_maxnumf", lambda self, a, b: self.binary_op(a, b, np.fmax))
    monkeypatch.setattr(builder, "create_fma", _rounded_once)
    warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)  # pytest forgets it after the test
    # Of V tokens, one piece that is full of them, and a part of another.
    monkeypatch.setattr(importlib.import_module("distill.objective.kernels"), "_COLUMNS", 16)
    monkeypatch.setattr(kd_loss, "_takes_kernel", lambda device, dtype, clips_head: not clips_head)


@pytest.fixture(params=["the pass of a CPU", "the pass of a GPU"])
def each_pass(request):
    """Both ways to go through the chunks; every setting of the GPU's has a test of its own, below."""
    if "GPU" in request.param:
        request.getfixturevalue("on_gpu_pass")


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("reverse_roles", [False, True])
@pytest.mark.parametrize("groups", [2, 3])
def test_fused_equals_reference(op, divergence, temperature, reverse_roles, groups):
    role_maps = ROLE_MAPS[groups] if reverse_roles else None
    projection = torch.arange(48.0).view(6, 8).cos()
    for valid, weights, strength in (
        (1.0, (1.0, 0.0, 0.0), 1.0),
        (0.7, (0.7, 0.4, 0.3), 0.6),
        (0.0, (1.0, 1.0, 1.0), 1.0),  # all masked
    ):
        settings = LossSettings(*weights, temperature, divergence, 0.3, op, strength, chunk_tokens=12)
        inputs = make_inputs(1, groups=groups, valid=valid)
        arguments = (inputs, settings, role_maps, projection if settings.hidden else None)
        assert_same(run(fused_loss, *arguments), run(reference_loss, *arguments))


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("reverse_roles", [False, True])
@pytest.mark.parametrize("groups", [2, 3])
def test_the_part_on_listed_tokens_equals_the_reference(op, temperature, reverse_roles, groups):
    """With and without the other parts; some positions have no partner, most tokens no counterpart, heads padding."""
    role_maps = ROLE_MAPS[groups] if reverse_roles else None
    projection = torch.arange(48.0).view(6, 8).cos()
    for divergence, (kd, ce, hidden), shape in (
        ("forward_kl", (0.0, 0.0, 0.0), {}),
        ("reverse_kl", (0.0, 0.4, 0.0), {"cap": 1.5}),
        ("jsd", (0.7, 0.4, 0.3), {"scale": 3.0, "cap": 4.0}),
    ):
        settings = LossSettings(kd, ce, hidden, temperature, divergence, 0.3, op, 0.6, chunk_tokens=12, listed=0.9)
        inputs = make_inputs(27, v=V + 5, groups=groups)
        inputs.labels.clamp_(max=V - 1)
        losses = (shaped(loss, shape, {}, vocab=V) for loss in (kd_loss.fused_loss, kd_loss.reference_loss))
        arguments = (inputs, settings, role_maps, projection if hidden else None)
        ours, theirs = (run(loss, *arguments, listed=LISTED[groups]) for loss in losses)
        assert_same(ours, theirs)
        parts, _ = ours
        assert parts.listed > 0 and (parts.kd > 0) == bool(kd)
        assert_same(parts.total, kd * parts.kd + ce * parts.ce + hidden * parts.hidden + 0.9 * parts.listed)


@pytest.mark.usefixtures("each_pass")
def test_the_part_on_listed_tokens_reads_0_without_weight_tokens_or_teacher():
    inputs = make_inputs(28)
    alone = inputs._replace(teacher_hidden=None, teacher_weight=None, teacher_bias=None, own=None, partner=None)
    for loss in (fused_loss, reference_loss):
        for given, weight, listed in ((inputs, 0.0, LISTED[2]), (inputs, 1.0, None), (alone, 1.0, LISTED[2])):
            expected = run(loss, given, LossSettings(ce=0.5), ROLE_MAPS[2])
            parts, gradients = run(loss, given, LossSettings(ce=0.5, listed=weight), ROLE_MAPS[2], listed=listed)
            assert parts.listed == 0 and torch.equal(parts.total, expected[0].total)
            assert all(torch.equal(*pair) for pair in zip(gradients[:3], expected[1][:3], strict=True))


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("with_bias", [True, False])
def test_closed_form_gradients_pass_gradcheck(divergence, temperature, with_bias):
    inputs = make_inputs(2, n=6, v=7, student_width=3, teacher_width=4, dtype=torch.float64)
    settings = LossSettings(0.7, 0.4, 0.3, temperature, divergence, 0.3, "expmean", 0.8, chunk_tokens=4, listed=0.9)

    def total(hidden, weight, bias, projection):
        arguments = (hidden, weight, bias, *inputs[3:], settings, ROLE_MAPS[2], projection)
        return fused_loss(*arguments, listed=LISTED[2]).total

    projection = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    leaves = [x.requires_grad_() for x in (*inputs[:3], projection)]
    if not with_bias:
        leaves[2] = None
    assert torch.autograd.gradcheck(total, leaves)


SHAPES = {"scaled": {"scale": 0.25}, "capped": {"cap": 1.5}, "both": {"scale": 3.0, "cap": 4.0}}


def shaped(loss, student_shape, teacher_shape, vocab=None):
    """A loss of tensors, with heads that scale and cap their logits, and rows that stand for no token."""

    def call(
        hidden, weight, bias, teacher_hidden, teacher_weight, teacher_bias, own, partner, labels, *rest, **options
    ):
        student = ModelView(hidden, weight, bias, vocab=vocab, **student_shape)
        teacher = ModelView(teacher_hidden, teacher_weight, teacher_bias, vocab=vocab, **teacher_shape)
        return loss(student, teacher, Positions(labels, own, partner), *rest, **options)

    return call


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("student", SHAPES)
@pytest.mark.parametrize("teacher", SHAPES)
def test_fused_equals_reference_for_scaled_and_capped_logits(monkeypatch, divergence, temperature, student, teacher):
    """At such a size that the caps show: most of the products lie beyond them."""
    monkeypatch.setattr(chunks, "_CACHED_LOGITS", 3 * V)
    monkeypatch.setattr(kd_loss, "_TILE", 5)
    settings = LossSettings(0.7, 0.4, 0.0, temperature, divergence, 0.3, "expmean", 0.6, chunk_tokens=12)
    losses = (shaped(loss, SHAPES[student], SHAPES[teacher]) for loss in (kd_loss.fused_loss, kd_loss.reference_loss))
    assert_same(*(run(loss, make_inputs(5), settings, ROLE_MAPS[2]) for loss in losses))


def test_logits_are_scaled_then_capped_by_hand():
    """hidden @ weight + bias = 3 and 1; times 2 and capped at 4: 4 tanh(6 / 4) and 4 tanh(2 / 4)."""
    view = ModelView(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.5], [1.0, 0.0]]), torch.tensor([1.0, 0.0]), 2, 4)
    expected = torch.tensor([[4 * math.tanh(1.5), 4 * math.tanh(0.5)]])
    assert_same(kd_loss.naive_logits(view, torch.tensor([0])), expected)
    loss = kd_loss.fused_loss(view, None, Positions(torch.tensor([1])), LossSettings(kd=0.0, ce=1.0))
    assert_same(loss.ce, -expected.log_softmax(-1)[0, 1])


@pytest.mark.parametrize("student", [{}, *SHAPES.values()])
def test_gradients_through_scale_and_cap_pass_gradcheck(student):
    inputs = make_inputs(2, n=6, v=7, student_width=3, teacher_width=4, dtype=torch.float64)
    loss = shaped(kd_loss.fused_loss, student, {"cap": 2.0}, vocab=6)
    inputs.labels[inputs.labels == 6] = 0  # no token
    settings = LossSettings(0.7, 0.4, 0.0, 2.0, op="expmean", chunk_tokens=4)
    leaves = [x.requires_grad_() for x in inputs[:3]]
    assert torch.autograd.gradcheck(lambda *x: loss(*x, *inputs[3:], settings, ROLE_MAPS[2]).total, leaves)


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("loss", [kd_loss.fused_loss, kd_loss.reference_loss])
def test_rows_behind_the_tokens_change_nothing_and_get_no_gradient(op, loss):
    """Student and teacher are padded with other numbers of rows, among them such as every token would lose against."""
    settings = LossSettings(0.7, 0.4, 0.0, 2.0, op=op, chunk_tokens=12)
    inputs = make_inputs(6)
    expected, gradients = run(shaped(loss, {}, {}), inputs, settings, ROLE_MAPS[2])
    generator = torch.Generator().manual_seed(0)

    def padded(tensor, rows):
        return torch.cat([tensor, 50 * torch.randn(rows, *tensor.shape[1:], generator=generator)])

    wide = inputs._replace(
        student_weight=padded(inputs.student_weight, 3),
        student_bias=padded(inputs.student_bias, 3),
        teacher_weight=padded(inputs.teacher_weight, 8),
        teacher_bias=padded(inputs.teacher_bias, 8),
    )
    parts, (d_hidden, d_weight, d_bias, _) = run(shaped(loss, {}, {}, vocab=V), wide, settings, ROLE_MAPS[2])
    assert_same(parts, expected)
    assert_same([d_hidden, d_weight[:V], d_bias[:V]], gradients[:3])
    assert not d_weight[V:].any() and not d_bias[V:].any()


@pytest.mark.usefixtures("each_pass")
@pytest.mark.parametrize("chunk_tokens", [1, 7, 20, 1000])
def test_chunk_size_does_not_matter(chunk_tokens):
    inputs = make_inputs(3, groups=3)
    settings = partial(LossSettings, 1.0, 0.5, op="mean")
    expected = run(reference_loss, inputs, settings(), ROLE_MAPS[3])
    assert_same(run(fused_loss, inputs, settings(chunk_tokens=chunk_tokens), ROLE_MAPS[3]), expected)


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("groups", [2, 3])
def test_blocks_of_a_few_tokens_and_tiles_of_the_vocabulary_do_not_matter(monkeypatch, op, divergence, groups):
    """What a toy vocabulary never needs: several blocks a chunk, and several tiles, the last one smaller."""
    monkeypatch.setattr(chunks, "_CACHED_LOGITS", 3 * V)
    monkeypatch.setattr(kd_loss, "_TILE", 5)
    inputs = make_inputs(20, groups=groups)
    settings = LossSettings(0.7, 0.4, 0.3, 2.0, divergence, 0.3, op, 0.6, chunk_tokens=12)
    arguments = (inputs, settings, ROLE_MAPS[groups], torch.arange(48.0).view(6, 8).sin())
    assert_same(run(fused_loss, *arguments), run(reference_loss, *arguments))


def test_aligned_pairs_share_their_teacher_positions():
    """The student sees a text and its counterfactual: no teacher position is projected twice, but at a chunk's edge."""
    half = 32
    own = torch.arange(2 * half)
    inputs = make_inputs(4, n=2 * half, valid=1.0)._replace(own=own, partner=own.roll(half).unsqueeze(0))
    projected = []

    class CountTeacherRows(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "mm" in str(function) and any(x.shape == (8, V) for x in args if isinstance(x, torch.Tensor)):
                projected.extend(len(x) for x in args if isinstance(x, torch.Tensor) and x.shape[1:] == (8,))
            return function(*args, **(kwargs or {}))

    with CountTeacherRows():
        fused_loss(*inputs, LossSettings(chunk_tokens=16))
    assert sum(projected) == 2 * half


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(made, torch.Tensor):
                self.numel = max(self.numel, made.numel())
        return result


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("groups", [2, 3])
def test_fused_never_holds_all_logits(op, divergence, groups):
    n, v, chunk_tokens = 64, 512, 4
    inputs = make_inputs(5, n=n, v=v, groups=groups, student_width=4, teacher_width=4, valid=1.0)
    settings = LossSettings(1.0, 0.5, 0.1, 2.0, divergence, op=op, chunk_tokens=chunk_tokens)
    role_maps = [RoleMap([(1, 2), (1, 3), (2, 1), (3, 1)], v)] * (groups - 1)
    largest = {}
    for loss in (fused_loss, reference_loss):
        with LargestTensor() as recorder:
            run(loss, inputs, settings, role_maps)
        largest[loss] = recorder.numel
    assert largest[reference_loss] >= n * v
    # Student and teacher together; with more views, a chunk has fewer tokens.
    assert largest[fused_loss] <= 2 * chunk_tokens * v


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("groups", [2, 3])
def test_a_gpu_without_the_kernel_holds_what_its_chunks_may_take(monkeypatch, op, divergence, groups):
    """Chunks as for a card without Triton, gone through here: logits in fp32 under autocast, and what is made of them.

    Every token has all partners, so that a chunk is one block.
    """
    v, budget = 2048, 9 * 64 * 2048 * 4
    monkeypatch.setattr(chunks, "_GPU_BYTES", budget)
    monkeypatch.setattr(kd_loss, "_has_triton", lambda device: False)
    inputs = make_inputs(31, n=128, v=v, groups=groups, student_width=2, teacher_width=2, valid=1.0)
    inputs = inputs._replace(partner=inputs.partner.abs())
    settings = LossSettings(0.7, 0.4, 0.0, 2.0, divergence, op=op, strength=0.6, listed=0.5)
    sizes = kd_loss.sizes_of_chunks(settings, torch.device("cuda"), v, torch.bfloat16)
    plan = plan_chunks(Positions(inputs.labels, inputs.own, inputs.partner), settings, sizes)
    role_maps = [RoleMap(role_map.edges, v) for role_map in ROLE_MAPS[groups]]
    loss = shaped(partial(kd_loss.fused_loss, plan=plan, listed=LISTED[groups]), SHAPES["both"], {})
    with torch.autocast("cpu", dtype=torch.bfloat16), LiveBytes() as live:
        run(loss, inputs, settings, role_maps)
    assert budget / 2 < live.peak <= budget


def test_chunks_go_by_the_pass_that_is_taken(monkeypatch):
    """In private training of all weights the kernel is not, nor where Triton builds none."""
    gpu, half = torch.device("cuda"), torch.bfloat16
    monkeypatch.setattr(kd_loss, "_has_triton", lambda device: True)
    sizes = partial(kd_loss.sizes_of_chunks, LossSettings(), gpu, 50257)
    of_kernel, clipped, double = sizes(half), sizes(half, clips_head=True), sizes(torch.float64)
    monkeypatch.setattr(kd_loss, "_has_triton", lambda device: False)
    assert of_kernel == chunk_sizes(LossSettings(), gpu, 50257, half)
    assert clipped == sizes(half) == sizes(torch.float32) and 8 * clipped.chunk < of_kernel.chunk
    assert double == sizes(torch.float64) and double.chunk < clipped.chunk


class MadeTensors(TorchDispatchMode):
    """Collects the addresses of the tensors of one shape that operations return."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.addresses = shape, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.shape == self.shape:
            self.addresses.add(result.data_ptr())
        return result


def test_the_gradient_of_the_head_is_made_once_and_scaled_in_place():
    """It is the largest tensor of the loss. Copied in the backward pass, it would be there twice."""
    inputs = make_inputs(5, n=64, v=512, student_width=7, teacher_width=5, valid=1.0)
    weight = inputs.student_weight.clone().requires_grad_()
    with MadeTensors(weight.shape) as made:
        parts = fused_loss(inputs.student_hidden, weight, *inputs[2:], LossSettings(chunk_tokens=16))
        (parts.total / 7).backward()
    assert len(made.addresses - {weight.data_ptr()}) == 1
    _, expected = run(reference_loss, inputs, LossSettings(), scale=1 / 7)
    torch.testing.assert_close(weight.grad, expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("each_pass")
def test_without_valid_tokens_the_graph_is_whole_and_the_gradient_zero():
    inputs = make_inputs(6, valid=0.0)
    for settings in (LossSettings(), LossSettings(0.0, 1.0), LossSettings(1.0, 1.0, 1.0)):
        parts, gradients = run(fused_loss, inputs, settings, projection=torch.ones(6, 8))
        assert parts.count == 0 and all(float(part) == 0 for part in parts)
        assert all(g is not None and not g.any() for g in gradients[: 4 if settings.hidden else 3])


@pytest.mark.usefixtures("each_pass")
def test_no_teacher_leaves_plain_cross_entropy():
    inputs = make_inputs(7)
    alone = inputs._replace(teacher_hidden=None, teacher_weight=None, teacher_bias=None, own=None, partner=None)
    expected = F.cross_entropy(F.linear(*inputs[:3]), inputs.labels, reduction="sum")
    for loss in (fused_loss, reference_loss):
        for given, settings in ((alone, LossSettings(1.0, 2.0, 1.0)), (inputs, LossSettings(0.0, 2.0))):
            parts, _ = run(loss, given, settings)
            torch.testing.assert_close(parts.ce, expected)
            torch.testing.assert_close(parts.total, 2 * expected)
            assert parts.kd == parts.hidden == 0
    assert_same(run(fused_loss, alone, LossSettings(0.0, 2.0)), run(reference_loss, alone, LossSettings(0.0, 2.0)))


@pytest.mark.usefixtures("each_pass")
def test_plain_distillation_needs_no_partners():
    inputs = make_inputs(8)
    settings = LossSettings(1.0, 0.5, temperature=2.0, op="none")
    logits = [F.linear(*inputs[:3]), F.linear(*inputs[3:6])[inputs.own]]
    student, teacher = ((x[inputs.labels >= 0] / 2).log_softmax(dim=-1) for x in logits)
    for loss in (fused_loss, reference_loss):
        parts, _ = run(loss, inputs._replace(partner=None), settings)
        torch.testing.assert_close(parts.kd, 4 * F.kl_div(student, teacher, reduction="sum", log_target=True))
        assert_same(parts, run(loss, inputs, settings)[0])


@pytest.mark.usefixtures("each_pass")
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_frozen_parameters_get_no_gradient(frozen):
    inputs = make_inputs(9)
    leaves = [x.clone().requires_grad_(i != frozen) for i, x in enumerate(inputs[:3])]
    _, expected = run(reference_loss, inputs, LossSettings(1.0, 0.5))
    fused_loss(*leaves, *inputs[3:], LossSettings(1.0, 0.5)).total.backward()
    for i, leaf in enumerate(leaves):
        if i == frozen:
            assert leaf.grad is None
        else:
            torch.testing.assert_close(leaf.grad, expected[i], rtol=1e-5, atol=1e-5)


def test_without_grad_mode_there_is_a_value_and_no_graph():
    inputs = make_inputs(10)
    with torch.no_grad():
        parts = fused_loss(inputs[0].requires_grad_(), *inputs[1:], LossSettings())
        expected = reference_loss(*inputs, LossSettings())
    assert not parts.total.requires_grad
    torch.testing.assert_close(parts, expected)


def test_only_the_total_is_differentiable_and_the_backward_scales():
    inputs = make_inputs(11)
    settings = LossSettings(1.0, 0.5, 0.2)
    projection = torch.eye(6, 8)
    _, gradients = run(fused_loss, inputs, settings, projection=projection)
    _, scaled = run(fused_loss, inputs, settings, projection=projection, scale=-3.0)
    for one, other in zip(scaled, gradients, strict=True):
        torch.testing.assert_close(one, -3 * other)

    hidden = inputs.student_hidden.clone().requires_grad_()
    total, *rest = fused_loss(hidden, *inputs[1:], LossSettings(1.0, 0.5, 0.2), projection=projection)
    assert total.requires_grad and not any(part.requires_grad for part in rest)
    first, second = (torch.autograd.grad(total, hidden, retain_graph=True)[0] for _ in range(2))
    third = torch.autograd.grad(2 * total, hidden)[0]
    assert torch.equal(first, second)
    torch.testing.assert_close(third, 2 * first)


@pytest.mark.usefixtures("each_pass")
def test_a_tied_head_gets_both_gradients():
    """GPT-2's head is its embedding: the loss adds its own gradient to the one that comes through the hidden states."""
    inputs = make_inputs(12, n=20, valid=1.0)
    grads = []
    for loss in (fused_loss, reference_loss):
        embedding = inputs.student_weight.clone().requires_grad_()
        hidden = torch.tanh(embedding[inputs.labels])
        loss(hidden, embedding, None, *inputs[3:], LossSettings()).total.backward()
        grads.append(embedding.grad)
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("passes", [1, 2])
def test_a_tied_head_and_its_embedding_share_one_gradient(dtype, passes):
    """What two lookups of autograd give, without its second (V, Ds) tensor; twice (retain_graph), and in bf16."""
    inputs = make_inputs(12, n=40, v=64, student_width=7, teacher_width=5, valid=1.0)
    teacher = [x.to(dtype) if x is not None and x.is_floating_point() else x for x in inputs[3:]]
    expected, got = (inputs.student_weight.clone().to(dtype).requires_grad_() for _ in range(2))
    total = fused_loss(F.embedding(inputs.labels, expected).tanh(), expected, None, *teacher, LossSettings()).total
    for again in range(passes, 0, -1):
        (total / 7).backward(retain_graph=again > 1)
    with MadeTensors(got.shape) as made:
        waiting = []
        hidden = tied_embedding(inputs.labels, got, waiting).tanh()
        total = fused_loss(hidden, got, None, *teacher, LossSettings(), head_gradient=waiting).total
        for again in range(passes, 0, -1):
            (total / 7).backward(retain_graph=again > 1)
    assert not waiting
    torch.testing.assert_close(got.grad, expected.grad)
    if passes == 1 and dtype == torch.float32:
        assert len(made.addresses - {got.data_ptr()}) == 1


# In the interpreter, which takes its time, all operations with the teacher's NaN, and one of them with all numbers.
NOT_FINITE = [
    (each, op, number, whose)
    for each in ("the pass of a CPU", "the pass of a GPU")
    for op, number, whose in product(OPERATIONS, (math.nan, math.inf), ("teacher_hidden", "student_hidden"))
    if "CPU" in each or op == "expmean" or (math.isnan(number) and whose == "teacher_hidden")
]


@pytest.mark.parametrize(("each_pass", "op", "number", "whose"), NOT_FINITE, indirect=["each_pass"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_what_is_not_finite_makes_a_loss_that_is_not(each_pass, op, divergence, number, whose):
    """A loss and gradients that are finite would be trained on, and no one would hear of it."""
    inputs = make_inputs(3, n=6, valid=1.0)
    getattr(inputs, whose)[:] = number
    parts, gradients = run(fused_loss, inputs, LossSettings(divergence=divergence, op=op, chunk_tokens=12))
    assert not parts.kd.isfinite() and not parts.total.isfinite()
    assert not gradients[0].isfinite().all()


@pytest.mark.usefixtures("each_pass")
@pytest.mark.parametrize("op", OPERATIONS)
def test_one_view_that_is_not_finite_is_enough(op):
    """The operation is not to choose the other: max of a number and of none is none."""
    inputs = make_inputs(3, n=6, valid=1.0)
    rows = set(inputs.partner[inputs.partner >= 0].tolist()) - set(inputs.own.tolist())
    inputs.teacher_hidden[sorted(rows)] = math.nan
    parts, _ = run(fused_loss, inputs, LossSettings(op=op, chunk_tokens=12))
    assert bool(parts.kd.isfinite()) == (op == "none")


@pytest.mark.usefixtures("each_pass")
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_extreme_logits_stay_finite(divergence):
    inputs = make_inputs(13, dtype=torch.float64)
    inputs = inputs._replace(student_weight=inputs.student_weight * 1e4, teacher_weight=inputs.teacher_weight * 1e4)
    settings = LossSettings(1.0, 0.5, 0.0, 1.0, divergence, chunk_tokens=8)
    ours, theirs = run(fused_loss, inputs, settings, ROLE_MAPS[2]), run(reference_loss, inputs, settings, ROLE_MAPS[2])
    assert all(part.isfinite() for part in ours[0]) and all(g.isfinite().all() for g in ours[1][:3])
    torch.testing.assert_close(ours[0].total, theirs[0].total)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("op", OPERATIONS)
def test_tokens_that_both_models_exclude_do_no_harm(divergence, op):
    """A padded vocabulary: bias -inf at entries that no label names. They must be as if they were not there."""
    settings = LossSettings(1.0, 0.5, 0.0, 2.0, divergence, op=op, chunk_tokens=8)
    inputs = make_inputs(14)
    pad = partial(F.pad, pad=(0, 0, 0, 3))
    padded = inputs._replace(
        student_weight=pad(inputs.student_weight),
        student_bias=F.pad(inputs.student_bias, (0, 3), value=-math.inf),
        teacher_weight=pad(inputs.teacher_weight),
        teacher_bias=F.pad(inputs.teacher_bias, (0, 3), value=-math.inf),
    )
    expected, expected_gradients = run(fused_loss, inputs, settings)
    for loss in (fused_loss, reference_loss):
        parts, gradients = run(loss, padded, settings)
        torch.testing.assert_close(parts.total, expected.total, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradients[0], expected_gradients[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradients[1], pad(expected_gradients[1]), rtol=1e-5, atol=1e-5)


def test_half_precision_is_reduced_and_summed_in_full():
    inputs = make_inputs(15, n=400, valid=1.0)
    half = Inputs(*(x.bfloat16() if x.is_floating_point() else x for x in inputs))
    exact = Inputs(*(x.float() if x.is_floating_point() else x for x in half))
    settings = partial(LossSettings, 1.0, 0.5)
    expected, expected_gradients = run(reference_loss, exact, settings(), ROLE_MAPS[2])
    for chunk_tokens in (1, 400):  # a sum of 400 chunks in bf16 would be off by far more
        parts, gradients = run(fused_loss, half, settings(chunk_tokens=chunk_tokens), ROLE_MAPS[2])
        assert parts.total.dtype == torch.float32
        torch.testing.assert_close(parts.total, expected.total, rtol=5e-3, atol=0)
        for gradient, exact_gradient in zip(gradients[:3], expected_gradients[:3], strict=True):
            assert gradient.dtype == torch.bfloat16
            error = (gradient.float() - exact_gradient).norm() / exact_gradient.norm()
            assert error < 0.01


@pytest.mark.usefixtures("each_pass")
def test_autocast_computes_products_in_half_and_returns_full_gradients():
    inputs = make_inputs(16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts, gradients = run(fused_loss, inputs, LossSettings(1.0, 0.5, chunk_tokens=8), ROLE_MAPS[2])
        expected, expected_gradients = run(reference_loss, inputs, LossSettings(1.0, 0.5), ROLE_MAPS[2])
    exact, _ = run(reference_loss, inputs, LossSettings(1.0, 0.5), ROLE_MAPS[2])
    assert parts.total != exact.total
    torch.testing.assert_close(parts.total, expected.total, rtol=1e-3, atol=0)
    for gradient, other in zip(gradients[:3], expected_gradients[:3], strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - other).norm() / other.norm() < 0.02


def test_a_compiled_caller_leaves_the_loss_as_it_is():
    inputs = make_inputs(21)

    def forward(hidden, *rest):
        return fused_loss(hidden * 2, *rest).total * 3

    compiled = torch.compile(forward, backend="eager")
    hidden = inputs.student_hidden.clone().requires_grad_()
    results = []
    for function in (forward, compiled):
        total = function(hidden, *inputs[1:], LossSettings(ce=0.3), ROLE_MAPS[2])
        results.append((total.detach(), *torch.autograd.grad(total, hidden)))
    torch.testing.assert_close(*results)


class Student(nn.Module):
    """A model with a tied head whose forward ends in the loss, as the trainer has it."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(V, 6)

    def forward(self, loss, inputs, settings):
        hidden = self.embedding(inputs.labels.clamp(min=0)).tanh()
        return loss(hidden, self.embedding.weight, None, *inputs[3:], settings).total


def test_the_loss_runs_inside_a_ddp_forward():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        for valid in (0.7, 0.0):
            inputs = make_inputs(17, valid=valid)
            torch.manual_seed(0)
            plain = Student()
            wrapped = DistributedDataParallel(plain)
            wrapped(fused_loss, inputs, LossSettings()).backward()
            ours, plain.embedding.weight.grad = plain.embedding.weight.grad, None
            plain(reference_loss, inputs, LossSettings()).backward()
            torch.testing.assert_close(ours, plain.embedding.weight.grad, rtol=1e-5, atol=1e-5)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("loss", [fused_loss, reference_loss])
def test_hidden_loss_by_hand(loss):
    student = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [9.0, 9.0]])
    teacher = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])  # row 0 is nobody's
    inputs = make_inputs(18, n=4, student_width=2, teacher_width=2)._replace(
        student_hidden=student,
        teacher_hidden=teacher,
        own=torch.tensor([1, 2, 3, 0]),
        labels=torch.tensor([1, 2, 3, -100]),
    )
    parts, _ = run(loss, inputs, LossSettings(0.0, 0.0, 0.5))
    assert float(parts.hidden) == pytest.approx(0 + 1 + 2)  # parallel, orthogonal, opposite
    assert float(parts.total) == pytest.approx(1.5)
    turned, _ = run(loss, inputs, LossSettings(0.0, 0.0, 0.5), projection=torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert float(turned.hidden) == pytest.approx(1 + 0 + 1)


def test_the_hidden_loss_of_chunks_has_the_gradient_of_whole_tensors_and_sorts_no_tokens():
    inputs, settings = make_inputs(29), LossSettings(0.0, 0.0, 0.5, chunk_tokens=4)
    projection = torch.arange(48.0).view(6, 8).cos()
    asked = []

    class Asked(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            asked.append(str(function))
            return function(*args, **(kwargs or {}))

    with Asked():
        _, (d_hidden, _, _, d_projection) = run(fused_loss, inputs, settings, projection=projection)
    hidden, projection = inputs.student_hidden.clone().requires_grad_(), projection.requires_grad_()
    valid = inputs.labels != -100
    cosine = F.cosine_similarity(hidden @ projection, inputs.teacher_hidden[inputs.own], dim=-1)
    (0.5 * (1 - cosine)[valid].sum()).backward()
    torch.testing.assert_close([d_hidden, d_projection], [hidden.grad, projection.grad])
    assert "aten.index_add.default" in asked and not any("index_put" in name for name in asked)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_student_like_its_target_has_nothing_to_learn(divergence):
    inputs = make_inputs(19, teacher_width=6)
    student = Inputs(inputs.teacher_hidden[inputs.own], *inputs[4:6], *inputs[3:])
    settings = LossSettings(temperature=2.0, divergence=divergence, op="none")
    parts, gradients = run(fused_loss, student, settings)
    assert float(parts.total) == pytest.approx(0, abs=1e-4)
    assert max(float(g.abs().max()) for g in gradients[:3]) < 1e-5


# -------------------------------------------------------------------------------------------------------- GPU


@pytest.mark.usefixtures("on_gpu_pass")
@pytest.mark.parametrize("v", [1, 61, 64, 127, 130])
@pytest.mark.parametrize("with_bias", [True, False])
def test_heads_are_padded_for_the_products_alone(v, with_bias):
    """Vocabularies that are odd, prime and aligned; what comes back has their size."""
    inputs = make_inputs(22, n=8, v=v)
    if not with_bias:
        inputs = inputs._replace(student_bias=None, teacher_bias=None)
    settings = LossSettings(0.7, 0.4, 0.0, 2.0, chunk_tokens=12)
    parts, gradients = run(fused_loss, inputs, settings)
    expected, expected_gradients = run(reference_loss, inputs, settings)
    assert_same(parts, expected)
    for gradient, other in zip(gradients[:3], expected_gradients[:3], strict=True):
        assert (gradient is None) == (other is None)
        if gradient is not None:
            assert_same(gradient, other)
    products = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "mm" in str(function):
                products.append([size for factor in args[-2:] for size in factor.shape if size > 30])
            return function(*args, **(kwargs or {}))

    with Products():
        fused_loss(*inputs, settings)
    assert products and all(sizes and not any(size % 64 for size in sizes) for sizes in products)


@pytest.mark.usefixtures("on_gpu_pass")
@pytest.mark.parametrize("v", [61, 64])
def test_the_students_head_is_cast_as_it_is_padded(v):
    """Its copy in the products' format is the largest tensor that a step makes on the way: one is enough."""
    inputs = make_inputs(30, n=8, v=v, valid=1.0)
    weight = inputs.student_weight.requires_grad_()
    made = {}

    class Made(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            product = "mm" in str(function)  # of the head's gradient, which a GPU adds up within the product
            half = isinstance(result, torch.Tensor) and result.dtype == torch.bfloat16
            tensors = [result] if half and not product else []
            for whole in (x for x in tensors if x.shape[1:] == (6,) and len(x) >= v):
                made[whole.untyped_storage().data_ptr()] = whole  # kept, or its place would be taken again
            return result

    with torch.autocast("cpu", dtype=torch.bfloat16), Made():
        fused_loss(inputs.student_hidden, weight, *inputs[2:], LossSettings(0.7, 0.4, chunk_tokens=12))
    assert [tensor.untyped_storage().nbytes() for tensor in made.values()] == [64 * 6 * 2]
    padded, bias = kd_loss.padded(weight, inputs.student_bias, torch.bfloat16)
    expected = F.pad(weight.bfloat16(), (0, 0, 0, 64 - v)), F.pad(inputs.student_bias.bfloat16(), (0, 64 - v))
    assert torch.equal(padded, expected[0]) and torch.equal(bias, expected[1])


@pytest.mark.usefixtures("on_gpu_pass")
def test_a_frozen_head_is_padded_once_and_again_when_it_changes():
    inputs = make_inputs(23)
    settings = LossSettings(1.0, 0.0, chunk_tokens=12)
    for _ in range(2):
        assert_same(run(fused_loss, inputs, settings), run(reference_loss, inputs, settings))
    once = kd_loss._padded_once(ModelView(inputs.teacher_hidden, inputs.teacher_weight), torch.float32)
    again = kd_loss._padded_once(ModelView(inputs.teacher_hidden, inputs.teacher_weight), torch.float32)
    assert once[0] is again[0] and len(once[0]) == 64
    inputs.teacher_weight.mul_(2)
    assert_same(run(fused_loss, inputs, settings), run(reference_loss, inputs, settings))
    half = kd_loss._padded_once(ModelView(inputs.teacher_hidden, inputs.teacher_weight), torch.bfloat16)
    assert half[0].dtype == torch.bfloat16


def test_a_frozen_head_is_forgotten_with_its_model():
    gc.collect()
    weight = torch.randn(V, 4)
    kd_loss._padded_once(ModelView(torch.randn(1, 4), weight), torch.float32)
    assert weight in kd_loss._PADDED_HEADS
    before = len(kd_loss._PADDED_HEADS)
    del weight
    gc.collect()
    assert len(kd_loss._PADDED_HEADS) == before - 1


def test_a_head_that_needs_no_padding_is_forgotten_with_its_model_too():
    """What is made of it then is a part of itself."""
    weight = torch.randn(64, 4)
    made, _ = kd_loss._padded_once(ModelView(torch.randn(1, 4), weight), torch.float32)
    assert made.data_ptr() == weight.data_ptr()
    gone = weakref.ref(weight)
    del weight, made
    gc.collect()
    assert gone() is None


def test_chunks_that_were_planned_before_are_those_that_would_be_planned():
    inputs = make_inputs(24, groups=3)
    for settings in (LossSettings(), LossSettings(op="none"), LossSettings(0.0, 1.0), LossSettings(strength=0.0)):
        positions = Positions(inputs.labels, inputs.own, inputs.partner)
        sizes = chunk_sizes(settings, torch.device("cpu"), V, torch.float32)
        plan = plan_chunks(positions, settings, sizes)
        given = run(partial(fused_loss, plan=plan), inputs, settings, ROLE_MAPS[3])
        torch.testing.assert_close(given, run(fused_loss, inputs, settings, ROLE_MAPS[3]), rtol=0, atol=0)


# Temperature, groups, roles reversed, shape of the student's logits.
CASES = [(2.0, 2, True, "capped"), (1.0, 3, True, "both"), (2.0, 3, False, "scaled")]


def assert_kernel_equals_reference(op, divergence, case, inputs, device="cpu"):
    """In fp32 within 1e-5, sums a token; in bf16 within its rounding: the logits themselves have 8 bits.

    Some tokens are excluded by both models, and two rows of the heads stand for none.
    """
    temperature, groups, reverse_roles, shape = case
    settings = LossSettings(0.7, 0.4, 0.0, temperature, divergence, 0.3, op, 0.6, chunk_tokens=12, listed=0.9)
    vocab = inputs.student_weight.shape[0] - 5
    inputs.labels.clamp_(max=vocab - 3)
    if "cap" not in SHAPES[shape] and op == "expmean":
        inputs.student_bias[vocab - 2 : vocab] = inputs.teacher_bias[vocab - 2 : vocab] = -math.inf
    inputs = Inputs(*(x.to(device) for x in inputs))
    role_maps = [RoleMap(role_map.edges, vocab).to(device) for role_map in ROLE_MAPS[groups]] if reverse_roles else None
    run_listed = partial(run, listed=LISTED[groups].to(device))
    fused, reference = (
        shaped(loss, SHAPES[shape], SHAPES["scaled"], vocab=vocab)
        for loss in (kd_loss.fused_loss, kd_loss.reference_loss)
    )
    (sums, ours), (expected_sums, others) = (
        run_listed(loss, inputs, settings, role_maps) for loss in (fused, reference)
    )
    assert_same(sums, expected_sums, atol=1e-5 * len(inputs.labels))
    assert_same(ours, others)
    half = Inputs(*(x.bfloat16() if x.is_floating_point() else x for x in inputs))
    exact = Inputs(*(x.float() if x.is_floating_point() else x for x in half))
    parts, gradients = run_listed(fused, half, settings, role_maps)
    expected, expected_gradients = run_listed(reference, exact, settings, role_maps)
    torch.testing.assert_close(parts.total, expected.total, rtol=1e-2, atol=1e-2)
    for gradient, other in zip(gradients[:3], expected_gradients[:3], strict=True):
        assert (gradient.float() - other).norm() < 0.02 * other.norm()


@pytest.mark.usefixtures("on_gpu_pass")
@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("case", CASES)
def test_the_kernel_equals_the_reference(op, divergence, case):
    """Rows are gone through in several pieces, of which the last is in part, or whole as well."""
    for vocab in (V, 32) if case == CASES[0] else (V,):
        assert_kernel_equals_reference(op, divergence, case, make_inputs(25, n=6, v=vocab + 5, groups=case[1]))


@pytest.mark.usefixtures("on_gpu_pass")
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("error", [-(2.0**-22), 2.0**-22])
def test_what_the_logarithm_of_a_card_may_be_off_by_does_no_harm(monkeypatch, divergence, error):
    """As far as PTX ISA allows `lg2.approx` to be off between 1 and 2, on one side for all."""
    builder = importlib.import_module("triton.runtime.interpreter").InterpreterBuilder
    exact, took = builder.create_log2, []

    def off(self, x):
        found = exact(self, x)
        took.append(((x.data >= 1) & (x.data <= 2)).sum())
        found.data[(x.data >= 1) & (x.data <= 2)] += np.float32(error)
        return found

    monkeypatch.setattr(builder, "create_log2", off)
    assert_kernel_equals_reference("expmean", divergence, CASES[0], make_inputs(25, n=6, v=V + 5, groups=2))
    assert sum(took) > 1000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu_the_kernel_equals_the_reference(op, divergence, case):
    """A row takes five pieces of the size that is used there, the last one in part; four whole ones; or half of one."""
    for v in (5003, 4101, 517):
        assert_kernel_equals_reference(op, divergence, case, make_inputs(26, n=200, v=v, groups=case[1]), "cuda")


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_product_is_added_in_the_way_that_the_device_has(narrow, device):
    """A CPU cannot add it within the product, nor can torch 2.9, nor a T4 in bfloat16."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    total, a, b = (torch.randn(shape) for shape in ((4, 5), (4, 3), (3, 5)))
    want = total + a.to(narrow).float() @ b.to(narrow).float()
    total, a, b = total.to(device), a.to(device, narrow), b.to(device, narrow)
    kd_loss.add_product_(total, a, b)
    assert torch.allclose(total.cpu(), want, atol=0.05)
    if device == "cpu":
        assert not kd_loss._adds_wide(narrow, torch.float32, total.device)
