"""The term on listed tokens, against hand-worked shares, the chain rule of the divergence, and autograd."""

import math

import pytest
import torch

from distill.objective.listed_tokens import ListedTokens, listed_divergence, listed_gradient
from distill.objective.logit_ops import LOG_ZERO, RoleMap

V = 9
# 1 stands for 2 and 3 (her: his, him), 4 for 5; of three groups, 0, 1, 2 are counterparts, and 3, 4, 5.
MAPS = {
    2: [RoleMap([(1, 2), (1, 3), (2, 1), (3, 1), (4, 5), (5, 4)], V)],
    3: [
        RoleMap([(1, 0), (2, 1), (0, 2), (4, 3), (5, 4), (3, 5)], V),
        RoleMap([(2, 0), (0, 1), (1, 2), (5, 3), (3, 4), (4, 5)], V),
    ],
}
SETS = {2: [[[1], [2, 3]], [[4], [5]]], 3: [[[0], [1], [2]], [[3], [4], [5]]]}


def logits(seed, n=7, **options):
    return 2 * torch.randn(n, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, **options)


def members(listed):
    """The tokens of each group in each set, as the tables have them."""
    return [
        [row[~blank].tolist() for row, blank in zip(of_set, nobody, strict=True)]
        for of_set, nobody in zip(listed.table, listed.empty, strict=True)
    ]


@pytest.mark.parametrize("groups", [2, 3])
def test_sets_are_what_edges_connect_and_their_groups_what_shifts_say(groups):
    listed = ListedTokens.of(MAPS[groups])
    assert members(listed) == SETS[groups]
    assert torch.equal(listed.table.flatten()[listed.places], listed.columns)
    assert sorted(listed.columns.tolist()) == sorted(t for of_set in SETS[groups] for group in of_set for t in group)


def test_chains_of_counterparts_are_one_set():
    """lord: lady; gentleman: lady; gentleman: gentlewoman."""
    edges = [(1, 2), (3, 2), (3, 4)]
    listed = ListedTokens.of([RoleMap(edges + [(b, a) for a, b in edges], V)])
    assert members(listed) == [[[1, 3], [2, 4]]]


def test_no_edges_give_no_sets_and_contradictions_are_told():
    assert ListedTokens.of([RoleMap([], V)]) is None
    with pytest.raises(ValueError, match="in two groups"):
        ListedTokens.of([RoleMap([(1, 2), (2, 3), (3, 1)], V)])


def test_a_value_worked_out_by_hand():
    """Of her 0.1 | his, him 0.2, 0.1 and 4: 0.05 | 5: 0.15, the sets have 2/3 and 1/3 of the listed mass."""
    p = torch.tensor([[0.1, 0.1, 0.2, 0.1, 0.05, 0.15, 0.1, 0.1, 0.1]], dtype=torch.float64)
    q = torch.tensor([[0.1, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]], dtype=torch.float64)
    divergence = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    expected = 2 / 3 * divergence + 1 / 3 * divergence
    listed = ListedTokens.of(MAPS[2])
    torch.testing.assert_close(listed_divergence(p.log(), q.log(), listed).item(), expected)
    torch.testing.assert_close(listed_gradient(q.log() + 3, p.log(), listed)[0].item(), expected)
    # A thousandth of the mass for all listed tokens, in both: nothing changes.
    p[:, listed.columns] *= 1e-3
    q[:, listed.columns] *= 1e-3
    torch.testing.assert_close(listed_divergence(p.log(), q.log(), listed).item(), expected)


@pytest.mark.parametrize("groups", [2, 3])
def test_the_chain_rule_of_the_divergence_holds(groups):
    """Where the student gives each set what the target gives it, KL(q || p) over all (set, group) is the term."""
    log_p, log_q = logits(1).log_softmax(-1), logits(2).log_softmax(-1)

    def of_groups(x):
        shares = torch.stack([torch.stack([x[:, g].exp().sum(-1) for g in s], -1) for s in SETS[groups]], 1)
        return shares / shares.sum(dim=(1, 2), keepdim=True)

    p, q = of_groups(log_p), of_groups(log_q)
    q = q / q.sum(2, keepdim=True) * p.sum(2, keepdim=True)
    listed = ListedTokens.of(MAPS[groups])
    torch.testing.assert_close(listed_divergence(log_p, log_q, listed), (q * (q / p).log()).sum(dim=(1, 2)))


@pytest.mark.parametrize("groups", [2, 3])
def test_value_and_gradient_are_those_of_the_definition(groups):
    listed, log_p = ListedTokens.of(MAPS[groups]), logits(3).log_softmax(-1)
    z = logits(4).requires_grad_()
    expected = listed_divergence(log_p, z.log_softmax(-1), listed)
    (whole,) = torch.autograd.grad(expected.sum(), z)
    before = z.detach().clone(), log_p.clone()
    value, gradient = listed_gradient(z.detach(), log_p, listed)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(torch.zeros_like(z).index_copy(1, listed.columns, gradient), whole)
    assert torch.equal(z.detach(), before[0]) and torch.equal(log_p, before[1])


def test_excluded_tokens_leave_it_finite():
    """Of a set that both exclude nothing is left, and of one with a single group neither."""
    listed, log_p, z = ListedTokens.of(MAPS[2]), logits(5).log_softmax(-1), logits(6)
    for excluded in (log_p, z):
        excluded[:, [1, 4, 5]] = LOG_ZERO
    value, gradient = listed_gradient(z, log_p, listed)
    assert not value.any() and not gradient.any()
    assert not listed_divergence(log_p, z.log_softmax(-1).clamp(min=LOG_ZERO), listed).any()
    z[:, 1] = 0.0  # what the target excludes is wrong by a number that is large and no more
    assert all(x.isfinite().all() for x in listed_gradient(z, log_p, listed))
