"""The operations: a text's and its counterfactuals' log-probabilities -> the target's.

Written with the methods of tensors, so that a recipe's `target.op` is checked without torch being loaded.

Shapes: N tokens, V vocabulary, P >= 1 counterfactuals.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    Others = Tensor | Sequence[Tensor]


def none(own: "Tensor", others: "Others") -> "Tensor":
    """The plain teacher: softmax(own)."""
    return own


def maximum(own: "Tensor", others: "Others") -> "Tensor":
    """Proportional to the largest of the K probabilities."""
    for other in others:
        own = own.maximum(other)
    return own.log_softmax(dim=-1)


def mean(own: "Tensor", others: "Others") -> "Tensor":
    """Proportional to the geometric mean of the K probabilities (the mean of the log-probabilities)."""
    total = own + others[0]
    for other in others[1:]:
        total += other
    return total.div_(1 + len(others)).log_softmax(dim=-1)


def expmean(own: "Tensor", others: "Others") -> "Tensor":
    """The arithmetic mean of the K probabilities."""
    if len(others) == 0:
        return own
    total = own.logaddexp(others[0])
    for other in others[1:]:
        total = total.logaddexp(other)
    return total.sub_(math.log(1 + len(others)))


def swap(own: "Tensor", others: "Others") -> "Tensor":
    """The counterfactual prediction alone; with more than one, the arithmetic mean of their probabilities."""
    return expmean(others[0], others[1:])


#: An operation takes the log-probabilities ``own`` (N, V) and ``others`` (P, N, V) to the normalised log-probabilities
#: (N, V) of the target. It leaves its arguments as they are, but may return one of them.
OPERATIONS: "dict[str, Callable[[Tensor, Others], Tensor]]" = {
    "none": none,
    "max": maximum,
    "mean": mean,
    "expmean": expmean,
    "swap": swap,
}
