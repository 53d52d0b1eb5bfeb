"""The laws that every operation keeps; `test_logit_ops` compares them with the formulas in probability space."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.objective.operations import OPERATIONS

COMMUTATIVE = ["max", "mean", "expmean"]
seeds = st.integers(0, 2**32 - 1)


def random_logits(seed, *shape, scale=3.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def random_log_probs(seed, *shape):
    return random_logits(seed, *shape).log_softmax(dim=-1)


@pytest.mark.parametrize("op", OPERATIONS)
@given(seed=seeds, groups=st.integers(2, 4))
@settings(max_examples=20, deadline=None)
def test_identical_inputs_give_the_plain_teacher(op, seed, groups):
    own = random_log_probs(seed, 3, 7)
    target = OPERATIONS[op](own, own.expand(groups - 1, 3, 7))
    torch.testing.assert_close(target, own)


@pytest.mark.parametrize("op", COMMUTATIVE)
@given(seed=seeds, groups=st.integers(2, 4))
@settings(max_examples=20, deadline=None)
def test_the_order_of_text_and_counterfactuals_does_not_matter(op, seed, groups):
    everyone = random_log_probs(seed, groups, 2, 6)
    targets = [
        OPERATIONS[op](everyone[list(order)][0], everyone[list(order)][1:])
        for order in itertools.permutations(range(groups))
    ]
    for target in targets[1:]:
        torch.testing.assert_close(target, targets[0])


def test_operations_leave_their_arguments_alone():
    own, others = random_log_probs(0, 3, 6), random_log_probs(1, 2, 3, 6)
    before = own.clone(), others.clone()
    for operation in OPERATIONS.values():
        operation(own, others)
    assert torch.equal(own, before[0]) and torch.equal(others, before[1])
