"""The mean of what clients send, and the server's step, against naive ones."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.federation.aggregation import Answer, Change, fault, finite, server_step
from distill.recipe import FederationConfig, ServerConfig

WEIGHTS = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([[0.5]])}


def sent(*shifts):
    return [{name: weight + shift for name, weight in WEIGHTS.items()} for shift in shifts]


def change_of(clients, weights):
    change = Change(WEIGHTS)
    for client, weight in zip(clients, weights, strict=True):
        change.add(client, weight)
    return change.mean()


@given(st.permutations(range(5)), st.lists(st.floats(0.01, 1e6), min_size=5, max_size=5))
def test_the_order_of_clients_changes_nothing(order, weights):
    clients = sent(*np.random.default_rng(0).normal(size=5).tolist())
    ours = change_of(clients, weights)
    theirs = change_of([clients[i] for i in order], [weights[i] for i in order])
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-12, atol=1e-12) for name in ours)


def test_the_mean_is_weighted():
    step, _ = server_step(FederationConfig(), WEIGHTS, change_of(sent(1.0, 4.0), [2.0, 1.0]), {})
    assert torch.allclose(step["a"], torch.tensor([3.0, 0.0]))
    assert step["a"].dtype == torch.float32


def test_adam_is_that_of_reddi():
    """Algorithm 2 of arXiv 2003.00295, three steps, one number."""
    server = ServerConfig(lr=0.1, momentum=0.9, beta2=0.99, tau=0.01)
    config = FederationConfig(algorithm="opt", server=server)
    weights, moments = {"w": torch.tensor([1.0])}, {}
    x, m, v = 1.0, 0.0, 0.01**2
    for step in (0.5, -0.2, 0.3):
        weights, moments = server_step(config, weights, {"w": torch.tensor([step], dtype=torch.float64)}, moments)
        m, v = 0.9 * m + 0.1 * step, 0.99 * v + 0.01 * step**2
        x += 0.1 * m / (v**0.5 + 0.01)
        assert weights["w"].item() == pytest.approx(x, rel=1e-6)


def test_momentum_adds_up():
    config = FederationConfig(algorithm="opt", server=ServerConfig(optimizer="sgd", lr=0.5, momentum=0.8))
    weights, moments = {"w": torch.zeros(1)}, {}
    one = {"w": torch.ones(1, dtype=torch.float64)}
    for _ in range(2):
        weights, moments = server_step(config, weights, one, moments)
    assert weights["w"].item() == pytest.approx(0.5 * 1 + 0.5 * 1.8)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(0, None, error="no route"), "dropped out: no route"),
        (Answer(0, WEIGHTS, 5, seconds=9.0), "late"),
        (Answer(0, {"a": WEIGHTS["a"]}, 5), "other weights"),
        (Answer(0, WEIGHTS | {"a": torch.zeros(3)}, 5), "other weights"),
        (Answer(0, WEIGHTS | {"a": torch.tensor([1.0, float("inf")])}, 5), "not finite, in a"),
        (Answer(0, WEIGHTS, 0), "no text"),
    ],
)
def test_faults_are_named(answer, words):
    assert words in fault(answer, WEIGHTS, 8.0)


def test_a_sound_answer_has_no_fault():
    assert fault(Answer(0, WEIGHTS, 5, seconds=9.0), WEIGHTS, None) == ""


def test_weights_of_another_format_are_not_averaged():
    """1e300 is finite in float64, and would be infinite in the student's float32."""
    wide = {name: torch.full_like(weight, 1e300, dtype=torch.float64) for name, weight in WEIGHTS.items()}
    assert "other weights" in fault(Answer(0, wide, 1), WEIGHTS, None)
    assert fault(Answer(0, WEIGHTS, 1), WEIGHTS, None) == ""


def test_finite_keeps_numbers_alone():
    given = {"a": 1, "b": 0.5, "nan": float("nan"), "inf": float("inf"), "word": "x", "list": [1.0], "none": None}
    assert finite(given) == {"a": 1, "b": 0.5}
