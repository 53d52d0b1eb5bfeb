"""Targets over two counterfactuals, with the tokens of a real list."""

from itertools import product

import numpy as np
import pytest
import torch

from distill.objective.logit_ops import build_role_maps, teacher_target
from distill.text.role_map import token_roles
from distill.text.wordlist import load_wordlist


@pytest.fixture(scope="module")
def roles(neutral_tokenizer):
    return token_roles(load_wordlist("english_gender_neutral"), neutral_tokenizer, 512)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def naive_reverse(own, other, edges):
    """METHOD 3: each token's mass goes to its counterparts, shared as the teacher's own prediction has them."""
    result = other.copy()
    sources = {s for s, _ in edges}
    result[list(sources)] = 0.0
    for source in sources:
        destinations = [d for s, d in edges if s == source]
        total = sum(own[d] for d in destinations)
        for destination in destinations:
            result[destination] += other[source] * own[destination] / total
    return result


OPERATIONS = {
    "max": lambda everyone: everyone.max(axis=0),
    "mean": lambda everyone: np.prod(everyone, axis=0) ** (1 / 3),
    "expmean": lambda everyone: everyone.mean(axis=0),
    "swap": lambda everyone: everyone[1:].mean(axis=0),
}


@pytest.mark.parametrize("op, reverse", list(product(OPERATIONS, [False, True])))
def test_targets_average_over_both_counterfactuals(roles, op, reverse):
    """`teacher_target` with the tokens of the real list, against the formulas in probabilities, row by row."""
    generator = torch.Generator().manual_seed(7)
    own, others = (torch.randn(*s, generator=generator, dtype=torch.float64) * 3 for s in ((5, 512), (2, 5, 512)))
    role_maps = build_role_maps(roles.edges, 512) if reverse else None
    has_partner = torch.ones(2, 5, dtype=torch.bool)
    target = teacher_target(own, others, has_partner, op, 1.0, role_maps).exp().numpy()
    for n in range(5):
        p = softmax(own[n].numpy())
        partners = [softmax(others[k, n].numpy()) for k in range(2)]
        if reverse:
            partners = [naive_reverse(p, q, roles.edges[k]) for k, q in enumerate(partners)]
        expected = OPERATIONS[op](np.array([p, *partners]))
        np.testing.assert_allclose(target[n], expected / expected.sum(), rtol=1e-9, atol=1e-15)


def test_targets_by_hand():
    """P(he, she, they, x) = (.1, .6, .2, .1) behind a context without listed words, which all views share.

    R moves it round: in the first view P(she) belongs to he, P(they) to she, P(he) to they. So he, she and they have
    .1, .6 and .2 in some order each, and every operation but swap gives the three the same.
    """
    own = torch.tensor([[0.1, 0.6, 0.2, 0.1]], dtype=torch.float64).log()
    edges = [[(1, 0), (2, 1), (0, 2)], [(2, 0), (0, 1), (1, 2)]]
    everywhere = torch.ones(2, 1, dtype=torch.bool)

    def target(op, reverse=True):
        role_maps = build_role_maps(edges, 4) if reverse else None
        return teacher_target(own, own.repeat(2, 1, 1), everywhere, op, 1.0, role_maps).exp()[0].tolist()

    geometric = (0.1 * 0.6 * 0.2) ** (1 / 3)
    assert target("expmean") == pytest.approx([0.3, 0.3, 0.3, 0.1])
    assert target("max") == pytest.approx([0.6 / 1.9] * 3 + [0.1 / 1.9])
    assert target("mean") == pytest.approx([v / (3 * geometric + 0.1) for v in [geometric] * 3 + [0.1]])
    assert target("swap") == pytest.approx([(0.6 + 0.2) / 2, (0.2 + 0.1) / 2, (0.1 + 0.6) / 2, 0.1])
    assert target("expmean", reverse=False) == pytest.approx([0.1, 0.6, 0.2, 0.1])
