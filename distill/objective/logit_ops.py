"""Teacher predictions of a text and of its counterfactuals -> the distribution that the student shall learn.

Tensors only: no models, no tokenizers, no word lists. Everything works on log-probabilities, because the maximum and
the mean of raw logits change when a constant is added to one row, and because a probability may be too small for a
float while its logarithm is an ordinary number.

Shapes: N tokens, V vocabulary, K groups of the word list (so K - 1 counterfactuals of every text).

    1. logits (N, V), one own and K - 1 others      -> log_softmax at the temperature -> log-probabilities
    2. others, one `RoleMap` each (optional)        -> the same in the words of the original text
    3. own, others, an operation                    -> log target
    4. own, log target, a strength in [0, 1]        -> log of (1 - strength) * own + strength * target
"""

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from distill.objective.operations import OPERATIONS
from distill.objective.settings import require_sound

# The logarithm of a probability that is zero. A finite number, so that 0 * log(0) is 0 and not NaN, and so low that no
# sum with ordinary logits raises it above the logarithm of the smallest float.
LOG_ZERO = -1e30


@torch.no_grad()
def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """(..., V) logits, -inf where a token is excluded -> (..., V) log-probabilities, none below `LOG_ZERO`."""
    if temperature != 1.0:
        logits = logits / temperature
    return torch.log_softmax(logits, dim=-1).clamp_(min=LOG_ZERO)


@torch.no_grad()
def log_probabilities_(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """As `log_probabilities`, but overwrites ``logits``."""
    if temperature != 1.0:
        logits.div_(temperature)
    return logits.sub_(logits.logsumexp(dim=-1, keepdim=True)).clamp_(min=LOG_ZERO)


class RoleMap:
    """Role reversal R: predictions made after a counterfactual text, in the words of the original text.

    An edge (w, v) says that the listed token w of the counterfactual stands where the original has v. The mass of w
    goes to its destinations, shared in proportion to the probability that the teacher's own prediction gives them;
    with one destination that is all of it. Tokens without an edge keep their mass. The sum of a row is conserved, and
    where all edges are one-to-one R only permutes the entries.

    Args:
        edges: pairs (source token, destination token). The sources and the destinations must be the same tokens:
            a source that receives nothing would be left with probability zero.
        vocab_size: V.

    Raises:
        ValueError: if an edge is listed twice, leaves the vocabulary, or the map is not closed.
    """

    def __init__(self, edges: Sequence[tuple[int, int]], vocab_size: int) -> None:
        destinations, sources = defaultdict(list), defaultdict(list)
        for source, destination in edges:
            if not (0 <= source < vocab_size and 0 <= destination < vocab_size):
                raise ValueError(f"edge {source} -> {destination} leaves the vocabulary of {vocab_size} tokens")
            destinations[source].append(destination)
            sources[destination].append(source)
        if len(set(edges)) != len(edges):
            raise ValueError("an edge of the role map is listed twice")
        if destinations.keys() != sources.keys():
            one_way = sorted(destinations.keys() ^ sources.keys())
            raise ValueError(f"the role map is not closed: tokens {one_way} only give or only take")

        self.vocab_size, self.edges = vocab_size, tuple(edges)
        # Nearly every row of a word list is one-to-one: there, R is a move of columns, without any arithmetic.
        moves = [(s, d) for s, d in edges if len(destinations[s]) == len(sources[d]) == 1]
        self._move_from = torch.tensor([s for s, _ in moves], dtype=torch.long)
        self._move_to = torch.tensor([d for _, d in moves], dtype=torch.long)
        # The rest (her <-> his, him) goes through two padded tables: source -> its destinations, to find the shares,
        # and destination -> the cells of the first table that point at it, to collect them.
        shared = [(s, d) for s, d in edges if not len(destinations[s]) == len(sources[d]) == 1]
        givers, takers = sorted({s for s, _ in shared}), sorted({d for _, d in shared})
        fan_out = max((len(destinations[s]) for s in givers), default=0)
        fan_in = max((len(sources[d]) for d in takers), default=0)
        self._givers = torch.tensor(givers, dtype=torch.long)
        self._takers = torch.tensor(takers, dtype=torch.long)
        self._out = torch.zeros(len(givers), fan_out, dtype=torch.long)
        self._out_padding = torch.ones(len(givers), fan_out, dtype=torch.bool)
        self._in = torch.zeros(len(takers), fan_in, dtype=torch.long)
        self._in_padding = torch.ones(len(takers), fan_in, dtype=torch.bool)
        cell = {}
        for row, source in enumerate(givers):
            for column, destination in enumerate(destinations[source]):
                self._out[row, column], self._out_padding[row, column] = destination, False
                cell[source, destination] = row * fan_out + column
        for row, destination in enumerate(takers):
            for column, source in enumerate(sources[destination]):
                self._in[row, column], self._in_padding[row, column] = cell[source, destination], False

    def to(self, device: torch.device | str) -> "RoleMap":
        """Move the index tables (in place) and return self."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    def reverse(self, own: Tensor, other: Tensor) -> Tensor:
        """R applied to ``other``.

        Args:
            own: (N, V) log-probabilities after the original text: they decide how a mass is shared.
            other: (N, V) log-probabilities after the counterfactual.

        Returns:
            (N, V) log-probabilities, a new tensor.
        """
        return self.reverse_(own, other.clone())

    def reverse_(self, own: Tensor, other: Tensor) -> Tensor:
        """As `reverse`, but overwrites ``other``: only the listed columns are touched, so it costs less than a copy.

        Both may be logits: R knows no normaliser.
        """
        moved = other.index_select(1, self._move_from)
        if len(self._givers):
            wanted = own[:, self._out]
            wanted = wanted.float() if wanted.dtype.itemsize < 4 else wanted
            # A destination without any probability (-inf) still takes part: shares among such ones are equal, not NaN.
            wanted.clamp_min_(torch.finfo(wanted.dtype).min)
            shares = wanted.masked_fill_(self._out_padding, -math.inf).log_softmax(dim=-1)
            given = (other[:, self._givers].unsqueeze(-1) + shares).flatten(start_dim=1)
            taken = given[:, self._in].masked_fill_(self._in_padding, -math.inf).logsumexp(dim=-1)
            other.index_copy_(1, self._takers, taken.to(other.dtype))
        return other.index_copy_(1, self._move_to, moved)


def build_role_maps(edges: Sequence[Sequence[tuple[int, int]]], vocab_size: int) -> tuple[RoleMap, ...]:
    """The K - 1 maps that undo each shift, from `TokenRoles.edges` and V."""
    return tuple(RoleMap(of_shift, vocab_size) for of_shift in edges)


def mix(own: Tensor, target: Tensor, strength: float) -> Tensor:
    """Log of (1 - strength) * exp(own) + strength * exp(target), each (N, V)."""
    if strength == 0.0:
        return own
    if strength == 1.0:
        return target
    return torch.logaddexp(own + math.log1p(-strength), target + math.log(strength))


@torch.no_grad()
def teacher_target(
    own: Tensor,
    others: Tensor,
    has_partner: Tensor,
    op: str,
    strength: float = 1.0,
    role_maps: Sequence[RoleMap] | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """The target distribution of every token, without a gradient.

    Args:
        own: (N, V) the teacher's logits at the tokens.
        others: (K - 1, N, V) its logits at the aligned positions of the K - 1 counterfactuals; rows without a partner
            may hold anything.
        has_partner: (K - 1, N) bool, false where a counterfactual has no aligned position. It is left out there; a
            token without any partner keeps the plain teacher.
        op: a key of `OPERATIONS`.
        strength: in [0, 1], how much of the operation is mixed into the plain teacher.
        role_maps: K - 1 maps, the k-th of which undoes the k-th counterfactual; None: no role reversal.
        temperature: divides the logits; the operation works on the tempered distributions.

    Returns:
        (N, V) normalised log-probabilities.

    Raises:
        UserError: for an unknown operation or a strength outside [0, 1].
    """
    require_sound({"op": op, "strength": strength})
    own = log_probabilities(own, temperature)
    if op == "none" or len(others) == 0:
        return own
    others = log_probabilities(others, temperature)
    if role_maps is not None:
        others = torch.stack([role_map.reverse(own, other) for role_map, other in zip(role_maps, others, strict=True)])
    target = own.clone()
    for pattern in torch.unique(has_partner, dim=1).unbind(dim=1):  # which of the K - 1 partners are there
        if pattern.any():
            rows = (has_partner == pattern.unsqueeze(1)).all(dim=0).nonzero().squeeze(1)
            target[rows] = mix(own[rows], OPERATIONS[op](own[rows], others[pattern][:, rows]), strength)
    return target
