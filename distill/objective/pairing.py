"""Counterfactual logit pairing: a penalty on the difference of what the student says of a text and its counterfactual.

    pairing = sum over tokens i and their partners j of KL(q_i || q_j),   q = softmax(logits)

Garg et al. 2019 (arXiv 1809.10610) take the difference of the two logits of a classifier. Both positions of a pair are
tokens of the student, so a pair is in the sum both ways, which makes

    KL(q_i || q_j) + KL(q_j || q_i) = sum over v of (q_i - q_j) (z_i - z_j)

the difference of their logits z, weighed by what it changes of the probabilities. Its gradient, with d = z_i - z_j
after both are normalised, is with respect to z_i

    q_i * (d - KL(q_i || q_j)) + q_i - q_j

and with respect to z_j the same with i and j exchanged. As in `kd_loss.fused_loss` the gradients are made on the way,
chunk by chunk, so that no (N, V) tensor exists. No teacher is asked. There is no kernel for it: logits are in fp32.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from distill.objective.chunks import IGNORED, Positions, chunk_sizes
from distill.objective.kd_loss import ModelView, add_product_, format_of_products, padded
from distill.objective.logit_ops import LOG_ZERO
from distill.objective.settings import LossSettings

_ROWS = 13  # how many (n, V) tensors of logits and what is made of them are held at once for a chunk of n pairs


def pairs_of(positions: Positions) -> Tensor:
    """(2, P) int64: the valid tokens that are partners of each other, each pair once, the smaller index first.

    A text without a listed word is its own counterfactual, and no pair. The N tokens are those of both views.
    """
    assert positions.partner is not None  # `check_recipe`: a student that reads both views
    valid = positions.labels != IGNORED
    own = torch.arange(len(valid), device=valid.device).expand_as(positions.partner)
    # Of two positions that predict the same token, both bear loss, or neither does.
    kept = (positions.partner > own) & valid
    return torch.stack([own[kept], positions.partner[kept]])


@torch.compiler.disable  # how many pairs there are depends on the data
def pairing_loss(
    student: ModelView, positions: Positions, settings: LossSettings, pairs: Tensor | None = None
) -> Tensor:
    """The sum over all tokens and their partners, (), differentiable once; call it inside the model's forward.

    Args:
        student: Of N tokens, the texts and their counterfactuals.
        positions: The labels of these tokens, and their partners among them.
        settings: How many pairs are in a chunk, `chunk_tokens`.
        pairs: What `pairs_of` finds in the positions; None: it is asked here, for which a GPU is waited for.
    """
    pairs = pairs_of(positions) if pairs is None else pairs
    total: Tensor = _Pairing.apply(
        student.hidden, student.weight, student.bias, student, pairs, settings, torch.is_grad_enabled()
    )
    return total


class _Pairing(torch.autograd.Function):
    """See `pairing_loss`."""

    @staticmethod
    def forward(
        ctx,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        view: ModelView,
        pairs: Tensor,
        settings: LossSettings,
        with_gradient: bool,
    ) -> Tensor:
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, bias)]
        needed = [with_gradient and needs for needs in ctx.needs_input_grad[:3]]
        # Once, and not the head in every chunk, as autocast would.
        dtype = format_of_products(hidden)
        view = replace(view, hidden=hidden.to(dtype), weight=weight, bias=bias)
        with torch.autocast(hidden.device.type, enabled=False):
            total, gradients = _pass_over_pairs(view, pairs, settings, needed)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, d_total: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [
            None if gradient is None else (gradient * d_total).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *gradients, None, None, None, None


def _head_of(view: ModelView) -> tuple[Tensor, Tensor | None]:
    """Weight (P, D) and bias (P,) in the format of the hidden states; on a GPU of P >= V rows, see `padded`."""
    if view.hidden.is_cuda:
        return padded(*view.tokens, view.hidden.dtype)
    return view.to(view.hidden.dtype).tokens


def _pass_over_pairs(
    view: ModelView, pairs: Tensor, settings: LossSettings, needed: list[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    """The sum, and its gradients: hidden states, weight, bias, None for one not `needed`."""
    vocab = len(view.tokens[0])
    weight, bias = _head_of(view)
    rows = max(len(view.weight), len(weight))
    wide = torch.promote_types(view.hidden.dtype, torch.float32)
    d_hidden = torch.zeros_like(view.hidden, dtype=wide) if needed[0] else None
    d_weight = view.weight.new_zeros(rows, weight.shape[1], dtype=wide) if needed[1] else None
    d_bias = view.weight.new_zeros(rows, dtype=wide) if needed[2] and view.bias is not None else None
    total = view.hidden.new_zeros((), dtype=wide)
    for chunk in pairs.split(chunk_sizes(settings, view.weight.device, len(weight), wide, _ROWS).chunk, dim=1):
        tokens = chunk.flatten()
        hidden = view.hidden.index_select(0, tokens)
        z = view.shape_(F.linear(hidden, weight, bias).to(wide))
        slope = view.slope(z)
        z[:, vocab:] = LOG_ZERO  # rows that pad the head stand for no token
        value, gradient = pair_gradient(z)
        total += value
        gradient = gradient.mul_(slope).to(hidden.dtype)
        if d_bias is not None:
            d_bias[: len(weight)] += gradient.sum(dim=0)
        if d_hidden is not None:
            # Among more than two views a token has several partners.
            d_hidden.index_add_(0, tokens, (gradient @ weight).to(wide))
        if d_weight is not None:
            add_product_(d_weight[: len(weight)], gradient.t(), hidden)
    of_head = [None if whole is None else whole[: len(view.weight)] for whole in (d_weight, d_bias)]
    return total, [d_hidden, *of_head]


def pair_gradient(z: Tensor) -> tuple[Tensor, Tensor]:
    """The sum over pairs, (), and its gradient (2 n, V) by the logits ``z`` (2 n, V): n rows, then their partners."""
    log_q = torch.log_softmax(z, dim=-1)
    q = log_q.exp()
    half = len(z) // 2
    difference = log_q[:half] - log_q[half:]
    del log_q  # two rows a pair less while the gradient is made
    both_ways = torch.cat([difference, -difference])
    divergence = (q * both_ways).sum(dim=-1, keepdim=True)
    gradient = both_ways.sub_(divergence).mul_(q)
    moved = torch.sub(q[:half], q[half:], out=difference)
    gradient[:half] += moved
    gradient[half:] -= moved
    return divergence.sum(), gradient
