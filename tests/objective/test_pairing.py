"""Counterfactual logit pairing against a naive computation with all logits in memory, by autograd."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from live_bytes import LiveBytes

from distill.objective import chunks, pairing
from distill.objective.chunks import IGNORED, Positions, chunk_sizes
from distill.objective.kd_loss import ModelView, naive_logits, padded
from distill.objective.pairing import pairing_loss, pairs_of
from distill.objective.settings import LossSettings

V, D = 17, 5
SHAPES = {"plain": {}, "scaled": {"scale": 0.25}, "capped": {"cap": 1.5}, "padded": {"vocab": V - 3}}


def views(groups: int, n: int = 8, seed: int = 0, dtype=torch.float64):
    """Hidden states, weight and bias of `groups` views of n tokens each, and their positions.

    The last token of each view has no partner, the one before is its own, and the first bears no loss.
    """
    generator = torch.Generator().manual_seed(seed)
    normal = partial(torch.randn, generator=generator, dtype=dtype)
    place = torch.arange(groups * n)
    partner = torch.stack([(place + shift * n) % (groups * n) for shift in range(1, groups)])
    partner[:, place % n == n - 1] = -1
    partner[:, place % n == n - 2] = place[place % n == n - 2]
    labels = place % V
    labels[place % n == 0] = IGNORED
    return [normal(groups * n, D), normal(V, D), normal(V)], Positions(labels, place, partner)


def reference_pairing(view: ModelView, positions: Positions) -> torch.Tensor:
    """The sum as its definition reads."""
    total = view.hidden.sum() * 0
    for row in positions.partner:
        kept = (positions.labels != IGNORED) & (row >= 0)
        own, other = (naive_logits(view, at).log_softmax(-1) for at in (kept.nonzero().squeeze(1), row[kept]))
        total = total + F.kl_div(other, own, reduction="sum", log_target=True)
    return total


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_chunked_loss_equals_the_naive_one(groups, shape, with_bias):
    leaves, positions = views(groups)
    found = []
    for loss in (reference_pairing, partial(pairing_loss, settings=LossSettings(chunk_tokens=3))):
        hidden, weight, bias = (leaf.clone().requires_grad_() for leaf in leaves)
        value = loss(ModelView(hidden, weight, bias if with_bias else None, **SHAPES[shape]), positions)
        (0.7 * value).backward()
        found.append([value.detach(), hidden.grad, weight.grad, bias.grad if with_bias else None])
    assert found[0][0] > 1
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_head_padded_as_on_a_gpu_changes_nothing(monkeypatch, shape, with_bias):
    """An odd vocabulary; the products have a number of rows that suits them, and what comes back has the head's."""
    leaves, positions = views(2)
    found, sizes = [], []

    def head_of(view):
        head = padded(*view.tokens, view.hidden.dtype)
        sizes.append(len(head[0]))
        return head

    for of_gpu in (False, True):
        if of_gpu:
            monkeypatch.setattr(pairing, "_head_of", head_of)
        hidden, weight, bias = (leaf.clone().requires_grad_() for leaf in leaves)
        view = ModelView(hidden, weight, bias if with_bias else None, **SHAPES[shape])
        value = pairing_loss(view, positions, LossSettings(chunk_tokens=3))
        value.backward()
        found.append([value.detach(), hidden.grad, weight.grad, bias.grad if with_bias else None])
    assert sizes == [64] and found[0][0] > 1
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_chunk_of_a_gpu_holds_stays_within_its_bytes(monkeypatch, shape):
    """Chunks as for a card, gone through here, in bfloat16 as under autocast."""
    v, budget = 2048, pairing._ROWS * 64 * 2048 * 4
    monkeypatch.setattr(chunks, "_GPU_BYTES", budget)
    monkeypatch.setattr(pairing, "_head_of", lambda view: padded(*view.tokens, view.hidden.dtype))
    monkeypatch.setattr(pairing, "chunk_sizes", lambda s, _, *rest: chunk_sizes(s, torch.device("cuda"), *rest))
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 2, generator=generator).requires_grad_() for n in (256, v))
    pairs = torch.arange(256).view(2, 128)
    labels = Positions(torch.ones(256, dtype=torch.long), None, torch.cat([pairs[1], pairs[0]]).unsqueeze(0))
    with torch.autocast("cpu", torch.bfloat16), LiveBytes() as live:
        view = ModelView(hidden, weight, **{**SHAPES[shape], "vocab": v - 3})
        pairing_loss(view, labels, LossSettings()).backward()
    assert 0.7 * budget < live.peak <= budget


def test_views_that_are_the_same_cost_nothing_and_others_something():
    (hidden, weight, bias), positions = views(2)
    hidden[8:] = hidden[:8]
    view = ModelView(hidden.requires_grad_(), weight, bias)
    loss = pairing_loss(view, positions, LossSettings())
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert hidden.grad.abs().max() < 1e-12
    hidden = hidden.detach().clone()
    hidden[3] += 1
    assert pairing_loss(ModelView(hidden, weight, bias), positions, LossSettings()) > 0.01


def test_a_constant_on_the_logits_of_a_view_changes_nothing():
    (hidden, weight, _), positions = views(2)
    shifted = torch.cat([hidden, (torch.arange(16) >= 8).double()[:, None]], dim=1)
    before = pairing_loss(ModelView(hidden, weight), positions, LossSettings())
    weight = torch.cat([weight, 3 * torch.ones(V, 1)], dim=1)
    after = pairing_loss(ModelView(shifted, weight), positions, LossSettings())
    torch.testing.assert_close(before, after)


def test_each_pair_of_tokens_that_count_is_there_once():
    _, positions = views(3, n=4)
    pairs = {tuple(pair) for pair in pairs_of(positions).T.tolist()}
    assert pairs == {(1, 5), (1, 9), (5, 9)}  # 0, 4, 8 bear no loss, 2, 6, 10 are their own, 3, 7, 11 have none
    nothing = Positions(torch.full((4,), IGNORED), None, torch.tensor([[2, 3, 0, 1]]))
    hidden = torch.zeros(4, D, requires_grad=True)
    loss = pairing_loss(ModelView(hidden, torch.ones(V, D)), nothing, LossSettings())
    loss.backward()
    assert loss.item() == 0 and not hidden.grad.any()


def test_half_precision_under_autocast_is_close():
    (hidden, weight, bias), positions = views(2, dtype=torch.float32)
    exact = pairing_loss(ModelView(hidden, weight, bias), positions, LossSettings())
    with torch.autocast("cpu", torch.bfloat16):
        half = pairing_loss(ModelView(hidden.requires_grad_(), weight, bias), positions, LossSettings())
    half.backward()
    assert hidden.grad.dtype == torch.float32 and half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=2e-2, atol=2e-2)
