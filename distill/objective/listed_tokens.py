"""A term of the loss on the listed tokens alone: of a word and its counterparts, how much each group has.

At most positions a listed word is unlikely, so that the divergence over the vocabulary hardly sees whether the student
says "he" or "she" where it says either. This term sees nothing else. Counterparts (he and she; his, him and her) are a
set, of which the target gives each group g a share p(g | set) and the student q(g | set):

    D_listed = sum over sets of  p(set | listed) * KL(q(. | set) || p(. | set))

p(set | listed) is the set's part of what the target gives to all listed tokens: a position counts as much where that is
a thousandth as where it is all. With q(set) as weights, the term would be a part of KL(q || p), by the chain rule. Of
the two directions of the divergence, this one gives more weight to where the target is sure (The king lost: his).

The gradient with respect to the student's logit of token t, of group g in the set s, at temperature 1:

    p(s | listed) * q(g | s) * (log(q(g | s) / p(g | s)) - KL(q(. | s) || p(. | s))) * q(t | g, s)

Shapes: n tokens, V vocabulary, L listed tokens, C sets of counterparts, K groups, F tokens of a group in a set at most.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from distill.objective.logit_ops import RoleMap


class ListedTokens(NamedTuple):
    """The sets of counterparts, as indices.

    Attributes:
        columns: (L,) the tokens that have counterparts, each in one set and one group.
        table: (C, K, F) the tokens of each group in each set; the empty places hold any token.
        empty: (C, K, F) bool, which places those are.
        places: (L,) where each of `columns` stands in the flattened table.
    """

    columns: Tensor
    table: Tensor
    empty: Tensor
    places: Tensor

    @classmethod
    def of(cls, role_maps: Sequence[RoleMap]) -> "ListedTokens | None":
        """From the K - 1 maps that undo each shift; None where no token has a counterpart.

        Raises:
            ValueError: two edges say of a token that it is of two groups.
        """
        sets = _sets_of_counterparts(role_maps)
        if not sets:
            return None
        num_groups = len(role_maps) + 1
        members = [[[t for t, group in found.items() if group == g] for g in range(num_groups)] for found in sets]
        widest = max(len(tokens) for of_set in members for tokens in of_set)
        some = next(iter(sets[0]))
        rows = [[tokens + [-1] * (widest - len(tokens)) for tokens in of_set] for of_set in members]
        table = torch.tensor(rows)
        empty = table < 0
        places = (~empty).flatten().nonzero().squeeze(1)
        return cls(table.flatten()[places], table.masked_fill(empty, some), empty, places)

    def to(self, device: torch.device | str) -> "ListedTokens":
        """The same on a device."""
        return ListedTokens(*(tensor.to(device) for tensor in self))


def _sets_of_counterparts(role_maps: Sequence[RoleMap]) -> list[dict[int, int]]:
    """Sets of tokens that edges connect, each as token -> group, counted from that of its first token."""
    num_groups = len(role_maps) + 1
    steps: dict[int, list[tuple[int, int]]] = defaultdict(list)  # token -> others, and how many groups further
    for shift, role_map in enumerate(role_maps, start=1):
        for source, destination in role_map.edges:
            steps[destination].append((source, shift))
            steps[source].append((destination, -shift))
    group_of: dict[int, int] = {}
    sets = []
    for first in sorted(steps):
        if first in group_of:
            continue
        group_of[first] = 0
        found = [first]
        for token in found:  # grows
            for other, further in steps[token]:
                group = (group_of[token] + further) % num_groups
                if other not in group_of:
                    found.append(other)
                if group_of.setdefault(other, group) != group:
                    raise ValueError(f"the role maps have token {other} in two groups")
        sets.append({token: group_of[token] for token in sorted(found)})
    return sets


def listed_divergence(log_p: Tensor, log_q: Tensor, listed: ListedTokens) -> Tensor:
    """The term as its definition reads, (n,), of log-probabilities of target and student (n, V); differentiable."""
    log_listed = log_p[:, listed.columns].logsumexp(dim=-1)
    total = torch.zeros_like(log_listed)
    for of_set, nobody in zip(listed.table, listed.empty, strict=True):
        tokens = [row[~blank] for row, blank in zip(of_set, nobody, strict=True)]
        p, q = (torch.stack([x[:, group].logsumexp(dim=-1) for group in tokens], dim=-1) for x in (log_p, log_q))
        shares_p, shares_q = p.log_softmax(dim=-1), q.log_softmax(dim=-1)
        divergence = (shares_q.exp() * (shares_q - shares_p)).sum(dim=-1)
        total = total + (p.logsumexp(dim=-1) - log_listed).exp() * divergence
    return total


def listed_gradient(z: Tensor, log_p: Tensor, listed: ListedTokens) -> tuple[Tensor, Tensor]:
    """As `listed_divergence`, all sets at once and with its gradient.

    Args:
        z: (n, V) the student's logits, at the temperature, shifted by any number; left as they are.
        log_p: (n, V) log-probabilities of the target; left as they are.
        listed: The sets.

    Returns:
        The value (n,), and the gradient (n, L) with respect to the logits of `listed.columns`.
    """
    p, _ = _masses(log_p, listed)
    q, of_tokens = _masses(z, listed)
    weights = p.logsumexp(dim=-1).softmax(dim=-1)
    shares = q.log_softmax(dim=-1)
    log_ratio, share = shares - p.log_softmax(dim=-1), shares.exp()
    divergence = (share * log_ratio).sum(dim=-1)
    of_groups = log_ratio.sub_(divergence.unsqueeze(-1)).mul_(share).mul_(weights.unsqueeze(-1))
    in_group = (of_tokens - q.unsqueeze(-1)).exp_()
    value = (weights * divergence).sum(dim=-1)
    return value, (in_group * of_groups.unsqueeze(-1)).flatten(start_dim=1).index_select(1, listed.places)


def _masses(rows: Tensor, listed: ListedTokens) -> tuple[Tensor, Tensor]:
    """Of (n, V) logits: log masses (n, C, K) of each group in each set, and (n, C, K, F) those of its tokens."""
    found = rows.index_select(1, listed.table.flatten()).unflatten(1, listed.table.shape)
    of_tokens = found.masked_fill(listed.empty, -math.inf)
    return of_tokens.logsumexp(dim=-1), of_tokens
