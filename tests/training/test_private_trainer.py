"""Private steps: their gradients, what they draw, their noise, and how they go on."""

import pytest
import torch
from private_toy import freeze_head, make_toy, naive_clipped, naive_gradients, norm, private_gradients

from distill.privacy import clipping

ARCHITECTURES = ("gpt2", "llama", "gpt_neox")


def difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The norm of the difference over the norm."""
    assert ours.keys() == theirs.keys()
    return norm({name: ours[name] - theirs[name] for name in ours}) / norm(theirs)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("weights", ["body", "all"])
def test_clipped_sums_are_those_of_autograd_document_by_document(architecture, groups, weights):
    """In fp64: single rows, pairs and triples, some documents above the clip and some below it."""
    toy = make_toy(architecture, groups)
    if weights == "body":
        freeze_head(toy.student)
    norms = sorted(norm(part) for block in toy.blocks for part in naive_gradients(toy, block) if part)
    clip = norms[len(norms) // 2] * (1 if weights == "body" else 2)
    assert difference(private_gradients(toy, toy.blocks, clip), naive_clipped(toy, toy.blocks, clip)) < 2e-5
