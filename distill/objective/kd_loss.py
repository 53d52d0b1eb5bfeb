"""The distillation loss: a naive reference, and the fused one that training uses. Tensors only.

    total = kd * T^2 * D(target || student) + ce * cross-entropy(labels) + hidden * (1 - cos(h_student, h_teacher))
            + listed * T^2 * D_listed(target || student)

summed over the valid tokens; the trainer alone divides. The target comes from `logit_ops.teacher_target`; target and
student are both taken at temperature T in D and in D_listed, which is `listed_tokens.listed_divergence`.

`reference_loss` says what is computed, in a few lines and with all logits in memory. `fused_loss` computes the same in
one pass over chunks of tokens: project to the vocabulary, combine the teacher's rows, reduce to a value, turn the
logits into their gradient by the closed forms below and multiply it back into the gradients of the hidden states and
of the head. A (N, V) tensor never exists. On a CPU, a chunk is large enough for the products with the heads, and is
gone through in blocks of a few tokens, whose logits stay in the cache from one operation to the next. On a GPU, what
is done to the logits is a kernel of kernels.py, and the heads are padded to a size that its products are fast at. A GPU
goes the way of a CPU where Triton is not there, where numbers have more than 32 bits, and in private training of all
weights, which wants the gradient of the head document by document.

Shapes: N tokens, M teacher positions, V vocabulary, Ds and Dt hidden sizes of student and teacher, K groups (so K - 1
counterfactuals); inside a chunk n tokens and u distinct teacher positions.

Gradients with respect to the student's logits, with q = softmax(logits / T) and p the target:

    T^2 * KL(p || q)             T * (q - p)
    T^2 * KL(q || p)             T * q * (log(q / p) - KL(q || p))
    T^2 * JSD_b(p, q)            T * (1 - b) * q * (log(q / m) - KL(q || m)),   m = b * p + (1 - b) * q
    cross-entropy                softmax(logits) - onehot(label)

Logits that are scaled and soft-capped, logits = c tanh(s (W h + b) / c), hand their gradient on times
s (1 - (logits / c)^2).
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

from distill.objective.chunks import (
    ALIGNED,
    IGNORED,
    Block,
    Chunk,
    ChunkSizes,
    Plan,
    Positions,
    chunk_sizes,
    plan_by_document,
    plan_chunks,
)
from distill.objective.clipped_head import ClippedHead
from distill.objective.divergences import DIVERGENCES
from distill.objective.listed_tokens import ListedTokens, listed_divergence, listed_gradient
from distill.objective.logit_ops import LOG_ZERO, RoleMap, log_probabilities_, mix, teacher_target
from distill.objective.operations import OPERATIONS
from distill.objective.settings import LossSettings

_TILE = 1024  # vocabulary entries that are projected at once on a CPU


@dataclass(frozen=True)
class ModelView:
    """What the loss needs of a model: what its head saw, and the head. N tokens, D hidden size, V vocabulary.

    The logits are cap * tanh(scale * (hidden @ weight.T + bias) / cap), without a cap scale * (...).

    Attributes:
        hidden: (N, D) last hidden states, the input of the head.
        weight: (R, D) the head, of R >= V rows.
        bias: (R,) or None.
        scale: What the logits are multiplied by (Cohere, Granite).
        cap: The value that no logit exceeds (Gemma 2); None for no such bound.
        vocab: V, how many rows stand for tokens; those behind them are padding, which gets no probability and no
            gradient. None: all of them.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None
    vocab: int | None = None

    @property
    def tokens(self) -> tuple[Tensor, Tensor | None]:
        """The rows that stand for tokens: weight (V, D) and bias (V,) or None."""
        return self.weight[: self.vocab], None if self.bias is None else self.bias[: self.vocab]

    def to(self, dtype: torch.dtype) -> "ModelView":
        """The same in another number format."""
        bias = None if self.bias is None else self.bias.to(dtype)
        return replace(self, hidden=self.hidden.to(dtype), weight=self.weight.to(dtype), bias=bias)

    def shape_(self, logits: Tensor) -> Tensor:
        """Scale and cap (n, V) products of hidden states and head, in place."""
        if self.scale != 1:
            logits.mul_(self.scale)
        return logits if self.cap is None else logits.div_(self.cap).tanh_().mul_(self.cap)

    def slope(self, logits: Tensor) -> Tensor | float:
        """What `shape_` multiplies a gradient by, from the (n, V) logits that it gave."""
        return self.scale if self.cap is None else (logits / self.cap).square_().neg_().add_(1).mul_(self.scale)


class LossParts(NamedTuple):
    """Sums over the valid tokens, () each; total is the sum of the others, times the weights of those names.

    `pairing` is not of this file: see pairing.py, and `training.student_loss`, which adds it to the total.
    """

    total: Tensor  # the only one with a gradient
    kd: Tensor  # T^2 * divergence
    ce: Tensor
    hidden: Tensor
    listed: Tensor  # T^2 * divergence on the listed tokens
    count: Tensor  # type: ignore[assignment]  # the number of valid tokens, int64; it hides tuple.count
    pairing: Tensor  # 0 here


def hidden_cosine(student: Tensor, teacher: Tensor, projection: Tensor | None) -> Tensor:
    """Sum of 1 - cos over tokens, (): ``student`` (n, Ds), ``teacher`` (n, Dt), ``projection`` (Ds, Dt) or None."""
    student = student.float() if student.dtype.itemsize < 4 else student
    if projection is not None:
        student = student @ projection.to(student.dtype)
    return (1 - F.cosine_similarity(student, teacher.to(student.dtype), dim=-1)).sum()


def naive_logits(view: ModelView, rows: Tensor) -> Tensor:
    """The (..., V) logits of some rows of a view, in fp32 at least, as is all that follows; differentiable."""
    logits = F.linear(view.hidden[rows], *view.tokens)
    logits = (logits.float() if logits.dtype.itemsize < 4 else logits) * view.scale
    return logits if view.cap is None else view.cap * torch.tanh(logits / view.cap)


def reference_loss(
    student: ModelView,
    teacher: ModelView | None,
    positions: Positions,
    settings: LossSettings,
    role_maps: Sequence[RoleMap] | None = None,
    projection: Tensor | None = None,
    listed: ListedTokens | None = None,
) -> LossParts:
    """The loss as its definition reads, with (N, V) logits in memory: the truth that `fused_loss` is tested against.

    Args:
        student: Of N tokens.
        teacher: Of M positions in the texts and their counterfactuals, with a hidden size of its own; None: no teacher,
            so that only the cross-entropy is left.
        positions: What each of the N tokens is compared with.
        settings: weights, divergence, operation.
        role_maps: K - 1 role maps, or None for no role reversal.
        projection: (Ds, Dt), takes the student's hidden states to the teacher's width in the hidden loss.
        listed: The sets of counterparts of the listed part; None: it reads 0.

    Returns:
        Sums over the valid tokens.
    """
    valid = positions.labels != IGNORED
    hidden, labels = student.hidden[valid], positions.labels[valid]
    logits = naive_logits(student, valid)
    kd = ce = cosine = on_listed = hidden.sum() * 0  # keeps the graph connected
    if settings.ce:
        ce = F.cross_entropy(logits, labels, reduction="sum")
    if teacher is not None:
        assert positions.own is not None
        own = positions.own[valid]
        partner = own.new_zeros(0, len(own)) if positions.partner is None else positions.partner[:, valid]
        if settings.needs_target:
            target = teacher_target(
                naive_logits(teacher, own),
                naive_logits(teacher, partner.clamp(min=0)),
                partner >= 0,
                settings.op,
                settings.strength,
                role_maps,
                settings.temperature,
            )
            log_q = torch.log_softmax(logits / settings.temperature, dim=-1).clamp(min=LOG_ZERO)
            if settings.kd:
                divergence = DIVERGENCES[settings.divergence](target, log_q, settings.jsd_beta)
                kd = settings.temperature**2 * divergence.sum()
            if settings.listed and listed is not None:
                on_listed = settings.temperature**2 * listed_divergence(target, log_q, listed).sum()
        if settings.hidden:
            cosine = hidden_cosine(hidden, teacher.hidden[own], projection)
    total = settings.kd * kd + settings.ce * ce + settings.hidden * cosine + settings.listed * on_listed
    kd, ce, cosine, on_listed = (part.detach() for part in (kd, ce, cosine, on_listed))
    return LossParts(total, kd, ce, cosine, on_listed, valid.sum(), torch.zeros_like(kd))


def _forward_kl_gradient(z: Tensor, q: Tensor, log_norm: Tensor, log_p: Tensor, beta: float) -> Tensor:
    p = log_p.exp()
    value = log_p.sub_(z).mul_(p).sum(dim=-1) + log_norm.squeeze(1)
    torch.sub(q, p, out=z)
    return value


def _reverse_kl_gradient(z: Tensor, q: Tensor, log_norm: Tensor, log_p: Tensor, beta: float) -> Tensor:
    log_ratio = z.sub_(log_norm).sub_(log_p)
    value = torch.mul(log_ratio, q, out=log_p).sum(dim=-1)
    log_ratio.sub_(value.unsqueeze(1)).mul_(q)
    return value


def _jsd_gradient(z: Tensor, q: Tensor, log_norm: Tensor, log_p: Tensor, beta: float) -> Tensor:
    p = log_p.exp()
    log_m = torch.lerp(q, p, beta).log_().clamp_(min=LOG_ZERO)
    from_target = log_p.sub_(log_m).mul_(p).sum(dim=-1)
    log_ratio = z.sub_(log_norm).sub_(log_m)
    from_student = torch.mul(log_ratio, q, out=p).sum(dim=-1)
    log_ratio.sub_(from_student.unsqueeze(1)).mul_(q).mul_(1 - beta)
    return beta * from_target + (1 - beta) * from_student


#: The closed forms of `DIVERGENCES`. They take the student's shifted logits z (n, V), its probabilities q (n, V), the
#: normaliser (n, 1) with log q = z - normaliser, the log target (n, V) and ``jsd_beta``, and return the value (n,). On
#: the way they turn z into the gradient with respect to z, and use up the log target.
_GRADIENTS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]] = {
    "forward_kl": _forward_kl_gradient,
    "reverse_kl": _reverse_kl_gradient,
    "jsd": _jsd_gradient,
}


class _Work(NamedTuple):
    """What the fused loss does beside multiplying: no tensor in it takes a gradient."""

    chunks: tuple[Chunk, ...]
    block_tokens: int
    student: ModelView  # only for how its logits are shaped; what it is made of comes by itself
    labels: Tensor
    settings: LossSettings
    role_maps: Sequence[RoleMap] | None
    listed: ListedTokens | None
    with_gradient: bool
    head_gradient: list[Tensor] | None
    clipped_head: ClippedHead | None


_Sums = tuple[Tensor, Tensor, Tensor, Tensor]  # the weighted total, kd, ce, listed


class _FusedLoss(torch.autograd.Function):
    """See `fused_loss`. Returns sums (weighted total, kd, ce, listed); the gradients are made in the forward pass."""

    @staticmethod
    def forward(
        ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None, teacher: ModelView | None, work: _Work
    ) -> _Sums:
        ctx.head_gradient = work.head_gradient
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, bias)]
        needed = [work.with_gradient and needs for needs in ctx.needs_input_grad[:3]]
        device = hidden.device.type
        student = replace(work.student, hidden=hidden, weight=weight, bias=bias)
        by_kernel = _takes_kernel(hidden.device, format_of_products(hidden), work.clipped_head is not None)
        passed = _pass_on_gpu if by_kernel else _pass_over_chunks
        if torch.is_autocast_enabled(device):
            # Cast once: autocast would cast the heads in every chunk, and does not cover products that add in place.
            dtype = torch.get_autocast_dtype(device)
            if by_kernel:  # which casts the heads as it pads them, the teacher's once and for all
                student = replace(student, hidden=hidden.to(dtype))
            else:
                student, teacher = student.to(dtype), None if teacher is None else teacher.to(dtype)
        with torch.autocast(device, enabled=False):
            sums, gradients = passed(student, teacher, work, needed)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(*sums[1:])
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx, d_total: Tensor, *_unused: Tensor) -> tuple[Tensor | None, ...]:
        # The gradient of the head is the largest tensor of all: scaled in place, unless (retain_graph) it is wanted
        # again. Only a private function tells; without it, copy.
        wanted_again = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)()
        scale = torch.mul if wanted_again else Tensor.mul_
        gradients = [
            None if gradient is None else scale(gradient, d_total).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        if ctx.head_gradient is not None:
            ctx.head_gradient.append(gradients[1])
            gradients[1] = None
        return *gradients, None, None


class _TiedEmbedding(torch.autograd.Function):
    """See `tied_embedding`."""

    @staticmethod
    def forward(ctx, ids: Tensor, weight: Tensor, head_gradient: list[Tensor]) -> Tensor:
        ctx.ids, ctx.head_gradient = ids, head_gradient
        return F.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_embedded: Tensor) -> tuple[None, Tensor, None]:
        gradient = ctx.head_gradient.pop()
        gradient.index_add_(0, ctx.ids.flatten(), d_embedded.flatten(0, -2).to(gradient.dtype))
        return None, gradient, None


def tied_embedding(ids: Tensor, weight: Tensor, head_gradient: list[Tensor]) -> Tensor:
    """``F.embedding`` for a weight that is the output head too: both gradients are summed in one (V, Ds) tensor.

    Autograd would make a second one for the embedding, most of it zeros. Give the same list to the `fused_loss` of what
    is computed from the result: its backward pass, which comes first, leaves the head's gradient there.

    Args:
        ids: (...) int64 token ids.
        weight: (V, Ds), wants a gradient.
        head_gradient: an empty list.

    Returns:
        (..., Ds).
    """
    return _TiedEmbedding.apply(ids, weight, head_gradient)


def _pass_over_chunks(
    student: ModelView, teacher: ModelView | None, work: _Work, needed: list[bool]
) -> tuple[_Sums, list[Tensor | None]]:
    """The sums, and the gradients of their total: hidden states, weight, bias, None for one not `needed`."""
    settings = work.settings
    # Half-precision gradients of the head are summed over the chunks in fp32.
    wide = torch.promote_types(student.hidden.dtype, torch.float32)
    d_hidden = torch.zeros_like(student.hidden) if needed[0] else None
    d_weight = torch.zeros_like(student.weight, dtype=wide) if needed[1] else None
    d_bias = torch.zeros_like(student.bias, dtype=wide) if needed[2] and student.bias is not None else None
    kd, ce, on_listed = (student.hidden.new_zeros((), dtype=wide) for _ in range(3))
    # The logits of all chunks are written to the same place: new memory costs time.
    rows = max((len(chunk.tokens) + len(chunk.teacher) for chunk in work.chunks), default=0)
    weight, _ = student.tokens
    logits = student.hidden.new_empty(rows, len(weight), dtype=wide)

    for chunk in work.chunks:
        n = len(chunk.tokens)
        hidden = student.hidden.index_select(0, chunk.tokens)
        z = _project(hidden, student, logits[:n])
        log_t = None
        if teacher is not None:
            log_t = logits[n : n + len(chunk.teacher)]
            _project(teacher.hidden.index_select(0, chunk.teacher), teacher, log_t)
            for start in range(0, len(log_t), work.block_tokens):
                log_probabilities_(log_t[start : start + work.block_tokens], settings.temperature)
        label = work.labels.index_select(0, chunk.tokens).unsqueeze(1)
        for block in chunk.blocks:
            part = slice(block.start, block.end)
            target = None if log_t is None else _block_target(log_t, chunk, block, settings, work.role_maps)
            slope = student.slope(z[part])
            block_kd, block_ce, block_listed = _block_loss(z[part], label[part], target, settings, work.listed)
            if isinstance(slope, Tensor) or slope != 1:
                z[part].mul_(slope)
            kd += block_kd
            ce += block_ce
            on_listed += block_listed

        if work.clipped_head is not None:
            work.clipped_head.add(chunk.document, z, hidden, student.bias is not None, chunk.last)
        if d_bias is not None:
            d_bias[: student.vocab] += z.sum(dim=0)
        z = z.to(weight.dtype)
        if d_hidden is not None:
            d_hidden.index_copy_(0, chunk.tokens, z @ weight)
        if d_weight is not None:
            if d_weight.dtype == z.dtype:
                d_weight[: student.vocab].addmm_(z.t(), hidden)
            else:
                d_weight[: student.vocab] += z.t() @ hidden

    return _weighted(kd, ce, on_listed, settings), [d_hidden, d_weight, d_bias]


def _weighted(kd: Tensor, ce: Tensor, on_listed: Tensor, settings: LossSettings) -> _Sums:
    """The total, and the parts at the temperature's scale, from sums over all blocks."""
    kd, on_listed = kd * settings.temperature**2, on_listed * settings.temperature**2
    return settings.kd * kd + settings.ce * ce + settings.listed * on_listed, kd, ce, on_listed


# ----------------------------------------------------------------------------------------------------------- GPU


def _pass_on_gpu(
    student: ModelView, teacher: ModelView | None, work: _Work, needed: list[bool]
) -> tuple[_Sums, list[Tensor | None]]:
    """As `_pass_over_chunks`, where the memory's speed decides: one kernel for all that is done to the logits, which
    have the format of the heads, and heads whose number of rows suits the products. Rows that pad them count nowhere.
    """
    from distill.objective import kernels  # needs Triton

    settings, vocab = work.settings, len(student.tokens[0])
    wide = torch.promote_types(student.hidden.dtype, torch.float32)
    weight, bias = padded(*student.tokens, student.hidden.dtype)
    of_teacher = None if teacher is None else _padded_once(teacher, student.hidden.dtype)
    d_hidden = torch.zeros_like(student.hidden) if needed[0] else None
    rows = max(len(student.weight), len(weight))
    d_weight = student.weight.new_zeros(rows, weight.shape[1], dtype=wide) if needed[1] else None
    d_bias = student.weight.new_zeros(rows, dtype=wide) if needed[2] and student.bias is not None else None
    kd, ce, on_listed = (student.hidden.new_zeros((), dtype=wide) for _ in range(3))
    most = max((len(chunk.tokens) for chunk in work.chunks), default=0)
    most_of_teacher = max((len(chunk.teacher) for chunk in work.chunks), default=0)
    logits = student.hidden.new_empty(most, len(weight))
    of_views = None if of_teacher is None else student.hidden.new_empty(most_of_teacher, len(of_teacher[0]))
    found = None
    if of_teacher is not None:
        found = kernels.touched(tuple(work.role_maps or ()), work.listed, len(of_teacher[0]), weight.device)

    for chunk in work.chunks:
        hidden = student.hidden.index_select(0, chunk.tokens)
        z = _products(hidden, weight, bias, logits[: len(hidden)])
        views = None
        if teacher is not None and of_teacher is not None and of_views is not None:
            read = teacher.hidden.index_select(0, chunk.teacher).to(of_views.dtype)
            views = teacher.shape_(_products(read, *of_teacher, of_views[: len(read)]))
        label = work.labels.index_select(0, chunk.tokens)
        for block in chunk.blocks:
            part = slice(block.start, block.end)
            own, shifts = chunk.own[part], block.counterfactuals if settings.op != "none" else ()
            others = torch.stack([chunk.partner[k, part] for k in shifts]) if shifts else own
            said = None if views is None else kernels.Views(views, own, others, shifts)
            shape = (student.scale, student.cap)
            block_kd, block_ce, block_listed = kernels.block_loss(
                z[part], label[part], said, found, settings, vocab, *shape
            )
            kd += block_kd
            ce += block_ce
            on_listed += block_listed

        if d_bias is not None:
            d_bias[: len(weight)] += z.sum(dim=0, dtype=wide)
        if d_hidden is not None:
            d_hidden.index_copy_(0, chunk.tokens, z @ weight)
        if d_weight is not None:
            add_product_(d_weight[: len(weight)], z.t(), hidden)

    of_head = [None if whole is None else whole[: len(student.weight)] for whole in (d_weight, d_bias)]
    return _weighted(kd, ce, on_listed, settings), [d_hidden, *of_head]


def _products(hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """hidden @ weight.T + bias, written to ``out`` (n, P) and rounded once."""
    return torch.mm(hidden, weight.t(), out=out) if bias is None else torch.addmm(bias, hidden, weight.t(), out=out)


def add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, on a GPU summed in the format of ``total`` and added within the product."""
    if a.is_cuda and a.dtype == total.dtype:
        total.addmm_(a, b)
    elif a.is_cuda and _adds_wide(a.dtype, total.dtype, a.device):
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total += a @ b


@lru_cache
def _adds_wide(narrow: torch.dtype, wide: torch.dtype, device: torch.device) -> bool:
    """Whether a product in one format can be added to a sum in another: not by torch 2.9, nor in bfloat16 by a T4."""
    total, a = torch.zeros(16, 16, dtype=wide, device=device), torch.zeros(16, 16, dtype=narrow, device=device)
    try:
        torch.addmm(total, a, a, out_dtype=wide, out=total)
    except (RuntimeError, TypeError):
        return False
    return True


def padded(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """A head's weight (P, D) and bias (P,) or None: zeros behind the V rows fill up to a multiple of `ALIGNED`.

    Both in ``dtype``, to which they are cast on the way: the weight is written once.
    """
    padding = -len(weight) % ALIGNED
    if not padding:
        return weight.to(dtype), None if bias is None else bias.to(dtype)
    whole = weight.new_empty(len(weight) + padding, weight.shape[1], dtype=dtype)
    whole[: len(weight)] = weight
    whole[len(weight) :] = 0
    return whole, None if bias is None else F.pad(bias.to(dtype), (0, padding))


#: Of a frozen weight: its version, and what `padded` made of it.
_PADDED_HEADS = WeakTensorKeyDictionary()


def _padded_once(view: ModelView, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """As `padded`, for the rows of tokens of a head that no training changes, in ``dtype``."""
    state = (view.weight._version, view.vocab, dtype)
    if view.weight in _PADDED_HEADS and _PADDED_HEADS[view.weight][0] == state:
        made: tuple[Tensor, Tensor | None] = _PADDED_HEADS[view.weight][1]
        return made
    made = padded(*view.tokens, dtype)
    if made[0].data_ptr() != view.weight.data_ptr():  # a part of the weight itself would never let go of it
        _PADDED_HEADS[view.weight] = state, made
    return made


@lru_cache
def _has_triton(device: torch.device) -> bool:
    if importlib.util.find_spec("triton") is None:
        return False
    from distill.objective.kernels import works

    return works(device)


def format_of_products(hidden: Tensor) -> torch.dtype:
    """That of products with such a tensor, those with the heads among them: autocast's, or its own."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _takes_kernel(device: torch.device, dtype: torch.dtype, clips_head: bool) -> bool:
    """Whether the loss goes by `_pass_on_gpu`, where the products with the heads are in ``dtype``.

    By `_pass_over_chunks` go CPUs, a GPU that Triton cannot build a kernel for, numbers of more than 32 bits, and
    private training with `privacy.weights: all` (``clips_head``), where `ClippedHead` wants a document's gradient whole
    and in fp32.
    """
    return not clips_head and device.type == "cuda" and dtype.itemsize <= 4 and _has_triton(device)


#: How many (n, V) tensors `_pass_over_chunks` holds at once for a chunk of n tokens that is one block, as on a GPU.
_ROWS_OVER_CHUNKS = 9


def sizes_of_chunks(
    settings: LossSettings, device: torch.device, vocab: int, dtype: torch.dtype, clips_head: bool = False
) -> ChunkSizes:
    """What `chunk_sizes` says of the pass that `fused_loss` takes.

    Args:
        settings, device, vocab: As there.
        dtype: The format of the products with the heads.
        clips_head: Whether the head's gradient will be clipped document by document.
    """
    if _takes_kernel(device, dtype, clips_head):
        return chunk_sizes(settings, device, vocab, dtype)
    return chunk_sizes(settings, device, vocab, torch.promote_types(dtype, torch.float32), _ROWS_OVER_CHUNKS)


# -------------------------------------------------------------------------------------------------------- products


def _project(hidden: Tensor, view: ModelView, out: Tensor) -> Tensor:
    """Write the logits of (n, D) hidden states to ``out`` (n, V) and return it."""
    weight, bias = view.tokens
    # MKL rearranges the whole of a transposed matrix before it multiplies. A tile of it stays in the cache meanwhile.
    tile = _TILE if hidden.device.type == "cpu" else len(weight)
    for start in range(0, len(weight), tile):
        there = slice(start, start + tile)
        out[:, there] = F.linear(hidden, weight[there], None if bias is None else bias[there])
    return view.shape_(out)


def _block_loss(
    z: Tensor, label: Tensor, target: Tensor | None, settings: LossSettings, listed: ListedTokens | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over a block of divergence / T^2, of cross-entropy, and of the divergence on the listed tokens / T^2.

    Turns its logits z (n, V) into their gradient, and uses up the log target.
    """
    temperature = settings.temperature
    z.sub_(z.amax(dim=-1, keepdim=True)).clamp_(min=LOG_ZERO)
    at_label = z.gather(1, label)
    kd = ce = on_listed = z.new_zeros(())
    if target is None:
        q, log_norm = _softmax(z)
        gradient = z.zero_()
    else:
        gradient = z if temperature == 1 else z / temperature  # logits at first
        q, log_norm = _softmax(gradient)
        if settings.listed and listed is not None:
            values, of_listed = listed_gradient(gradient, target, listed)
            on_listed = values.sum()
        if settings.kd:
            kd = _GRADIENTS[settings.divergence](gradient, q, log_norm, target, settings.jsd_beta).sum()
            gradient.mul_(settings.kd * temperature)
        else:
            gradient = gradient.zero_() if gradient is not z else torch.zeros_like(z)
        if settings.listed and listed is not None:
            gradient.index_add_(1, listed.columns, of_listed, alpha=settings.listed * temperature)
        if temperature != 1 and settings.ce:
            q, log_norm = _softmax(z)
    if settings.ce:
        ce = (log_norm - at_label).sum()
        gradient.add_(q, alpha=settings.ce)
        gradient.scatter_add_(1, label, torch.full_like(at_label, -settings.ce))
    if gradient is not z:
        z.copy_(gradient)
    return kd, ce, on_listed


def _softmax(z: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (n, V) and log-normaliser (n, 1) of logits whose largest is 0."""
    q = torch.softmax(z, dim=-1)
    return q, -q.amax(dim=-1, keepdim=True).log_()


def _block_target(
    rows: Tensor, chunk: Chunk, block: Block, settings: LossSettings, role_maps: Sequence[RoleMap] | None
) -> Tensor:
    """The log target (end - start, V) of a block of tokens from the log-probabilities (u, V) of a chunk."""
    own = rows.index_select(0, chunk.own[block.start : block.end])
    if settings.op == "none" or not block.counterfactuals:
        return own
    # One by one: for a list of them, as an index, a GPU would be waited for.
    partner = torch.stack([chunk.partner[k, block.start : block.end] for k in block.counterfactuals])
    others = rows.index_select(0, partner.flatten()).unflatten(0, partner.shape)
    if role_maps is not None:
        for k, other in zip(block.counterfactuals, others, strict=True):
            role_maps[k].reverse_(own, other)
    return mix(own, OPERATIONS[settings.op](own, others), settings.strength)


@torch.compiler.disable  # the plan depends on the data, and the gradients are made by hand
def fused_loss(
    student: ModelView,
    teacher: ModelView | None,
    positions: Positions,
    settings: LossSettings,
    role_maps: Sequence[RoleMap] | None = None,
    projection: Tensor | None = None,
    head_gradient: list[Tensor] | None = None,
    plan: Plan | None = None,
    clipped_head: ClippedHead | None = None,
    listed: ListedTokens | None = None,
) -> LossParts:
    """As `reference_loss`, in chunks of ``settings.chunk_tokens`` tokens and with the gradients made on the way.

    Memory: the logits of 2 * chunk_tokens positions and one (V, Ds) gradient. Call it inside the (wrapped) model's
    forward, as the head's weight must be whole and must be seen by the gradient hooks there. Differentiable once.

    With a list ``head_gradient``, the backward pass puts the gradient of the student's head there and leaves it to
    `tied_embedding` to hand it on. ``plan`` is what `plan_chunks`, with a `ClippedHead` `plan_by_document`, made of the
    same positions and settings; without it the chunks are planned here, for which a GPU is waited for.

    With a `ClippedHead`, each document has chunks of its own, of which that makes the clipped gradient of the student's
    head as the loss is computed, for a backward pass from `total` itself; the head must want no gradient then.
    """
    asked = teacher if settings.needs_target else None
    vocab, dtype = len(student.tokens[0]), format_of_products(student.hidden)
    sizes = sizes_of_chunks(settings, student.weight.device, vocab, dtype, clipped_head is not None)
    looked_at = positions if asked is not None else Positions(positions.labels)
    if plan is None and clipped_head is not None:
        plan = plan_by_document(looked_at, settings, sizes, clipped_head.documents)
    elif plan is None:
        plan = plan_chunks(looked_at, settings, sizes)
    work = _Work(
        plan.chunks,
        sizes.block,
        student,
        positions.labels,
        settings,
        role_maps,
        listed,
        torch.is_grad_enabled(),
        head_gradient,
        clipped_head,
    )
    total, kd, ce, on_listed = _FusedLoss.apply(student.hidden, student.weight, student.bias, asked, work)
    cosine = torch.zeros_like(kd)
    if teacher is not None and positions.own is not None and settings.hidden:
        tokens = torch.cat([positions.labels.new_zeros(0), *(chunk.tokens for chunk in work.chunks)])
        # Not indexed by a tensor, whose backward pass sorts the tokens.
        of_student = student.hidden.index_select(0, tokens)
        cosine = hidden_cosine(of_student, teacher.hidden[positions.own[tokens]], projection)
        total = total + settings.hidden * cosine
    count = (positions.labels != IGNORED).sum()
    return LossParts(total, kd, ce, cosine.detach(), on_listed, count, torch.zeros_like(kd))
