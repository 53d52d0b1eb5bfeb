"""The divergences against numbers worked out by hand."""

import math

import pytest
import torch

from distill.objective.divergences import DIVERGENCES
from distill.objective.kd_loss import _GRADIENTS


def test_divergences_by_hand():
    target, student = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])
    forward = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    reverse = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    middle = [0.25 * 0.5 + 0.75 * 0.9, 0.25 * 0.5 + 0.75 * 0.1]
    jsd = 0.25 * sum(0.5 * math.log(0.5 / m) for m in middle)
    jsd += 0.75 * (0.9 * math.log(0.9 / middle[0]) + 0.1 * math.log(0.1 / middle[1]))
    expected = {"forward_kl": forward, "reverse_kl": reverse, "jsd": jsd}
    assert expected.keys() == DIVERGENCES.keys()
    for name, divergence in DIVERGENCES.items():
        assert float(divergence(target.log(), student.log(), 0.25)) == pytest.approx(expected[name], rel=1e-5)


def test_every_divergence_has_its_closed_form():
    assert _GRADIENTS.keys() == DIVERGENCES.keys()
