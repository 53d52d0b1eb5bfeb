"""The divergences of target and student, as their definitions read.

Written with the methods of tensors, so that a recipe's `loss.divergence` is checked without torch being loaded. Their
closed-form gradients are `kd_loss`'s.

Shapes: N tokens, V vocabulary.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def forward_kl(log_p: "Tensor", log_q: "Tensor", beta: float) -> "Tensor":
    """KL(p || q) of target p and student q, (N,): the student covers all that the target may say."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def reverse_kl(log_p: "Tensor", log_q: "Tensor", beta: float) -> "Tensor":
    """KL(q || p) of target p and student q, (N,): the student says nothing that the target would not."""
    return (log_q.exp() * (log_q - log_p)).sum(dim=-1)


def jsd(log_p: "Tensor", log_q: "Tensor", beta: float) -> "Tensor":
    """Generalised Jensen-Shannon divergence, beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q, (N,).

    As in Agarwal et al., "On-Policy Distillation of Language Models" (ICLR 2024).
    """
    log_m = (log_p + math.log(beta)).logaddexp(log_q + math.log1p(-beta))
    return beta * forward_kl(log_p, log_m, beta) + (1 - beta) * forward_kl(log_q, log_m, beta)


#: A divergence takes the log-probabilities of target and student, (N, V) each, and ``jsd_beta`` to one value a token.
DIVERGENCES: "dict[str, Callable[[Tensor, Tensor, float], Tensor]]" = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
}
