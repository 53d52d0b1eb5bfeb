"""The teacher's target against formulas in probability space, token by token, and against the laws it must keep."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.base.errors import UserError
from distill.objective.logit_ops import (
    RoleMap,
    build_role_maps,
    log_probabilities,
    log_probabilities_,
    mix,
    teacher_target,
)
from distill.objective.operations import OPERATIONS

HIS, HIM, HER, HERS, REST = range(5)
PRONOUNS = [(HIS, HER), (HIS, HERS), (HIM, HER), (HER, HIS), (HER, HIM), (HERS, HIS)]
ONE_TO_ONE = [(0, 3), (3, 0), (1, 2), (2, 1), (6, 7), (7, 6)]
BY_SHIFT = [  # three groups, two rows: (0, 1, 2) and (3, 4, 5); shift 1 is undone by g + 1 -> g
    [(1, 0), (2, 1), (0, 2), (4, 3), (5, 4), (3, 5)],
    [(2, 0), (0, 1), (1, 2), (5, 3), (3, 4), (4, 5)],
]


def softmax(logits):
    exp = np.exp(logits - logits.max())
    return exp / exp.sum()


def naive_reverse(own, other, edges):
    """The definition in words: every listed word hands its mass to its counterparts as the teacher wants them at x."""
    result = other.copy()
    for source in {s for s, _ in edges}:
        result[source] -= other[source]
    for source in {s for s, _ in edges}:
        counterparts = [d for s, d in edges if s == source]
        for destination in counterparts:
            result[destination] += other[source] * own[destination] / own[counterparts].sum()
    return result


def naive_operation(op, own, others):
    if op == "none" or not others:
        return own
    everyone = np.array([own, *others])
    unnormalised = {
        "max": everyone.max(axis=0),
        "mean": np.prod(everyone ** (1 / len(everyone)), axis=0),
        "expmean": everyone.mean(axis=0),
        "swap": np.mean(others, axis=0),
    }[op]
    return unnormalised / unnormalised.sum()


def naive_target(own, others, has_partner, op, strength, edges_by_shift, temperature):
    rows = []
    for n in range(len(own)):
        p = softmax(own[n] / temperature)
        partners = []
        for k in range(len(others)):
            if has_partner[k, n]:
                q = softmax(others[k, n] / temperature)
                partners.append(q if edges_by_shift is None else naive_reverse(p, q, edges_by_shift[k]))
        rows.append((1 - strength) * p + strength * naive_operation(op, p, partners))
    return np.array(rows)


def random_logits(seed, *shape, scale=3.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def random_log_probs(seed, *shape):
    return random_logits(seed, *shape).log_softmax(dim=-1)


everywhere = {"has_partner": torch.ones(1, 1, dtype=torch.bool)}
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("op", OPERATIONS)
@given(
    seed=seeds,
    groups=st.integers(2, 3),
    with_roles=st.booleans(),
    strength=st.sampled_from([0.0, 0.3, 1.0]),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_target_equals_the_formulas_in_probability_space(op, seed, groups, with_roles, strength, temperature, data):
    n, v = 4, 9
    own, others = random_logits(seed, n, v), random_logits(seed + 1, groups - 1, n, v)
    partners = st.lists(st.booleans(), min_size=(groups - 1) * n, max_size=(groups - 1) * n)
    has_partner = torch.tensor(data.draw(partners)).view(groups - 1, n)
    others[~has_partner] = math.nan  # what stands there must not matter
    edges = ([PRONOUNS] if groups == 2 else BY_SHIFT) if with_roles else None
    role_maps = [RoleMap(e, v) for e in edges] if with_roles else None

    target = teacher_target(own, others, has_partner, op, strength, role_maps, temperature)

    expected = naive_target(own.numpy(), others.numpy(), has_partner.numpy(), op, strength, edges, temperature)
    np.testing.assert_allclose(target.exp().numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("op", OPERATIONS)
@given(seed=seeds, own_constant=st.floats(-50, 50), other_constant=st.floats(-50, 50))
@settings(max_examples=20, deadline=None)
def test_a_constant_added_to_a_row_changes_nothing(op, seed, own_constant, other_constant):
    own, others = random_logits(seed, 1, 7), random_logits(seed + 1, 1, 1, 7)
    plain = teacher_target(own, others, op=op, **everywhere)
    moved = teacher_target(own + own_constant, others + other_constant, op=op, **everywhere)
    torch.testing.assert_close(moved, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("edges", [None, PRONOUNS])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_extreme_logits_stay_finite_and_sum_to_one(op, dtype, edges, strength):
    lowest = torch.finfo(dtype).min
    extremes = torch.tensor([1e4, -1e4, 0.0, lowest, -1e30, -math.inf], dtype=dtype)
    choose = torch.Generator().manual_seed(0)
    own, others = (extremes[torch.randint(6, shape, generator=choose)] for shape in [(200, 6), (1, 200, 6)])
    own[:, -1], others[..., -1] = 0.0, 0.0  # one token is possible at least
    role_maps = None if edges is None else [RoleMap(edges, 6)]

    target = teacher_target(own, others, torch.ones(1, 200, dtype=torch.bool), op, strength, role_maps)

    assert target.isfinite().all()
    torch.testing.assert_close(target.exp().sum(dim=-1), torch.ones(200, dtype=dtype))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_log_probabilities_in_place_are_the_same(temperature):
    logits = random_logits(0, 5, 9).float()
    logits[0, 3] = -math.inf
    logits[1, 4] = torch.finfo(torch.float32).min
    expected = log_probabilities(logits, temperature)
    naive = np.array([np.log(softmax(row / temperature)) for row in logits[2:].double().numpy()])
    np.testing.assert_allclose(expected[2:].numpy(), naive, rtol=1e-5, atol=1e-6)
    assert log_probabilities_(logits, temperature) is logits
    torch.testing.assert_close(logits, expected)


def test_reversal_of_the_pronouns_solved_by_hand():
    #                     his   him   her   hers  rest
    own = torch.tensor([[0.30, 0.10, 0.05, 0.05, 0.50]]).log()  # after "He took"
    other = torch.tensor([[0.02, 0.04, 0.40, 0.06, 0.48]]).log()  # after "She took"
    # her -> his : him as 3 : 1;  hers -> his;  his -> her : hers as 1 : 1;  him -> her
    expected = torch.tensor([[0.30 + 0.06, 0.10, 0.01 + 0.04, 0.01, 0.48]])
    torch.testing.assert_close(RoleMap(PRONOUNS, 5).reverse(own, other).exp(), expected)


@pytest.mark.parametrize("edges", [PRONOUNS, ONE_TO_ONE, [], *BY_SHIFT])
@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_reversal_conserves_mass_and_leaves_unlisted_tokens(edges, seed):
    own, other = random_log_probs(seed, 5, 9), random_log_probs(seed + 1, 5, 9)
    reversed_ = RoleMap(edges, 9).reverse(own, other)
    listed = sorted({token for edge in edges for token in edge})
    unlisted = [token for token in range(9) if token not in listed]
    torch.testing.assert_close(reversed_.exp().sum(dim=-1), torch.ones(5, dtype=torch.float64))
    assert torch.equal(reversed_[:, unlisted], other[:, unlisted])
    torch.testing.assert_close(reversed_[:, listed].exp().sum(-1), other[:, listed].exp().sum(-1))


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_reversal_undoes_itself_on_one_to_one_rows(seed):
    own, other = random_log_probs(seed, 5, 9), random_log_probs(seed + 1, 5, 9)
    role_map = RoleMap(ONE_TO_ONE, 9)
    once = role_map.reverse(own, other)
    assert not torch.equal(once, other)
    assert torch.equal(role_map.reverse(own, once), other)


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_with_three_groups_opposite_shifts_cancel_and_a_shift_repeats_after_three(seed):
    own, other = random_log_probs(seed, 5, 9), random_log_probs(seed + 1, 5, 9)
    first, second = (RoleMap(edges, 9) for edges in BY_SHIFT)
    assert torch.equal(second.reverse(own, first.reverse(own, other)), other)
    assert torch.equal(first.reverse(own, first.reverse(own, other)), second.reverse(own, other))


def test_shares_stay_finite_where_the_teacher_wants_no_counterpart():
    own = torch.tensor([[-1e4, -2e4, 0.0, 0.0, 0.0], [-math.inf, -math.inf, 0.0, 0.0, 0.0]]).log_softmax(dim=-1)
    other = torch.full((2, 5), 0.2).log()
    result = RoleMap(PRONOUNS, 5).reverse(own, other).exp()
    torch.testing.assert_close(result[0, [HIS, HIM]], torch.tensor([0.4, 0.0]))  # all of her, and hers
    torch.testing.assert_close(result[1, [HIS, HIM]], torch.tensor([0.3, 0.1]))  # her in equal parts, and hers


def test_reversal_in_place_saves_the_copy():
    own, other = random_log_probs(0, 5, 9), random_log_probs(1, 5, 9)
    before = other.clone()
    role_map = RoleMap(PRONOUNS, 9).to("cpu")
    expected = role_map.reverse(own, other)
    assert torch.equal(other, before)
    assert role_map.reverse_(own, other) is other
    assert torch.equal(other, expected)


def test_expmean_with_roles_reversed_treats_the_groups_alike():
    """Seen from x and from c, the target is the same predictor in the other group's words: R target(x) = target(c)."""
    x, c = random_logits(0, 4, 9), random_logits(1, 4, 9)
    role_map, there = RoleMap(ONE_TO_ONE, 9), torch.ones(1, 4, dtype=torch.bool)
    from_x = teacher_target(x, c.unsqueeze(0), there, "expmean", role_maps=[role_map])
    from_c = teacher_target(c, x.unsqueeze(0), there, "expmean", role_maps=[role_map])
    torch.testing.assert_close(role_map.reverse(from_c, from_x), from_c)


@pytest.mark.parametrize(
    ("edges", "complaint"),
    [([(0, 9), (9, 0)], "vocabulary"), ([(0, 1), (0, 1), (1, 0)], "twice"), ([(0, 1)], "not closed")],
)
def test_a_role_map_refuses_edges_that_would_lose_mass(edges, complaint):
    with pytest.raises(ValueError, match=complaint):
        RoleMap(edges, 9)


def test_role_maps_are_built_by_shift():
    own, other = random_log_probs(0, 2, 9), random_log_probs(1, 2, 9)
    maps = build_role_maps(BY_SHIFT, 9)
    assert len(maps) == 2
    for role_map, edges in zip(maps, BY_SHIFT, strict=True):
        assert torch.equal(role_map.reverse(own, other), RoleMap(edges, 9).reverse(own, other))


def test_strength_goes_from_the_teacher_to_the_operation():
    own, target = random_log_probs(0, 3, 6), random_log_probs(1, 3, 6)
    assert mix(own, target, 0.0) is own
    assert mix(own, target, 1.0) is target
    torch.testing.assert_close(mix(own, target, 0.25).exp(), 0.75 * own.exp() + 0.25 * target.exp())


@pytest.mark.parametrize("strength", [-0.01, 1.01, math.nan, math.inf])
def test_a_strength_outside_the_unit_interval_is_the_users_mistake(strength):
    with pytest.raises(UserError, match=r"strength is .* must lie in \[0, 1\]"):
        teacher_target(random_logits(0, 1, 5), random_logits(1, 1, 1, 5), op="mean", strength=strength, **everywhere)


def test_an_unknown_operation_is_named_with_the_nearest_one_and_all_others():
    with pytest.raises(UserError) as error:
        teacher_target(random_logits(0, 1, 5), random_logits(1, 1, 1, 5), op="expmeen", **everywhere)
    assert "'expmeen'" in str(error.value) and "did you mean 'expmean'" in str(error.value)
    assert all(op in str(error.value) for op in OPERATIONS)
