"""What makes a training step cheap must not change what it computes."""

import torch
from shared import TOY_ARCHITECTURES
from transformers.activations import NewGELUActivation

from distill.models.architecture import fuse_activations


def activations(model) -> list[str]:
    return [type(module).__name__ for module in model.modules() if "GELU" in type(module).__name__]


def test_the_activation_of_gpt2_is_replaced_by_an_equal_one(toy_model):
    model = toy_model("gpt2", seed=1)
    ids = torch.arange(1, 61).view(2, 30)
    results = []
    before = model.config.to_dict()
    for _ in range(2):
        loss = model(input_ids=ids, labels=ids).loss
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        results.append((loss.detach(), *gradients))
        fuse_activations(model)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)
    assert NewGELUActivation.__name__ not in activations(model) and len(activations(model)) == 4
    assert model.config.to_dict() == before
    assert list(toy_model("gpt2").state_dict()) == list(model.state_dict())


def test_other_activations_are_left_alone(toy_model):
    for architecture in set(TOY_ARCHITECTURES) - {"gpt2"}:
        model = toy_model(architecture)
        before = [type(module) for module in model.modules()]
        fuse_activations(model)
        assert [type(module) for module in model.modules()] == before
