"""The rules of layers, one by one; whole models: tests/training/test_private_trainer.py."""

import pytest
import torch
from shared import TOY_ARCHITECTURES
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import Conv1D

from distill.base.errors import UserError
from distill.privacy.clipping import RULES, Layer, Rows, add_clipped, check_layers, layers_of, recorded, rule_of

ROWS, TOKENS, WIDTH = 4, 3, 6
DOCUMENTS = torch.tensor([0, 1, 0, 2])

LAYERS = {
    "Linear": lambda: nn.Linear(WIDTH, 5),
    "Linear without bias": lambda: nn.Linear(WIDTH, 5, bias=False),
    "wide Linear, by pairs of tokens": lambda: nn.Linear(WIDTH, 300),
    "Conv1D": lambda: Conv1D(5, WIDTH),
    "LayerNorm": lambda: nn.LayerNorm(WIDTH),
    "LayerNorm without bias": lambda: nn.LayerNorm(WIDTH, bias=False),
    "RMSNorm": lambda: nn.RMSNorm(WIDTH),
    "Llama's": lambda: LlamaRMSNorm(WIDTH),
    "Gemma's, one more than its weight": lambda: GemmaRMSNorm(WIDTH),
    "Embedding": lambda: nn.Embedding(7, 5),
    "Embedding with padding": lambda: nn.Embedding(7, 5, padding_idx=2),
}


def test_every_rule_has_a_layer_here():
    assert {type(make()) for make in LAYERS.values()} >= RULES.keys()


@pytest.mark.parametrize("name", LAYERS)
def test_norms_and_sums_are_autograds(name):
    torch.manual_seed(0)
    module = LAYERS[name]().double()
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight))
    words = isinstance(module, nn.Embedding)
    inputs = torch.randint(7, (ROWS, TOKENS)) if words else torch.randn(ROWS, TOKENS, WIDTH, dtype=torch.float64)
    rows, weights = Rows(DOCUMENTS, 3), list(module.parameters())

    def losses() -> torch.Tensor:
        return rows.summed(module(inputs).sin().square().flatten(1).sum(dim=1))

    naive = [torch.autograd.grad(loss, weights, retain_graph=True) for loss in losses()]
    norms = [sum(g.square().sum() for g in of_document).sqrt() for of_document in naive]
    layers = [Layer(name, module, rule_of(module))]
    with recorded(layers) as book:
        losses().sum().backward()
        assert not any(weight.grad is not None for weight in weights)
        made = book.made(rows)
    bound = float(sorted(norms)[1])
    found = add_clipped(made, rows, torch.ones(3, dtype=torch.float64), bound)
    torch.testing.assert_close(found, torch.stack(norms), rtol=1e-6, atol=1e-6)
    for number, weight in enumerate(weights):
        clipped = [g[number] * min(1.0, bound / float(n)) for g, n in zip(naive, norms, strict=True)]
        # Llama's class takes its inputs to float32.
        torch.testing.assert_close(weight.grad, sum(clipped), rtol=1e-5, atol=1e-6)
        assert weight.requires_grad


class Odd(nn.Module):
    """A layer that nobody has a rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


class NoMeanRMSNorm(nn.Module):
    """One whose name promises what it does not do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x


@pytest.mark.parametrize("module", [Odd(), NoMeanRMSNorm(), nn.Embedding(3, 2, max_norm=1.0), nn.LayerNorm((2, 3))])
def test_a_layer_without_a_rule_is_named(module):
    with pytest.raises(UserError, match=rf"the layer 1 \({type(module).__name__}\) of the student has no rule"):
        layers_of(nn.Sequential(nn.Linear(2, 2), module))
    module.requires_grad_(False)
    assert [layer.name for layer in layers_of(nn.Sequential(nn.Linear(2, 2), module))] == ["0"]  # what is frozen may be


def test_layers_that_share_a_weight_are_named():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    with pytest.raises(UserError, match="the layers 0 and 1 of the student share a weight"):
        layers_of(nn.Sequential(first, second))


def toy(architecture: str = "gpt2"):
    config = AutoConfig.for_model(architecture, vocab_size=50, **TOY_ARCHITECTURES[architecture])
    model = AutoModelForCausalLM.from_config(config)
    model.get_output_embeddings().requires_grad_(False)
    return model


def test_what_a_layer_is_used_for_beside_is_seen_before_training():
    """A weight that is read outside of its layer, and a layer that is not called at all."""
    model = toy()
    check_layers(model, layers_of(model))
    block = model.transformer.h[0]
    forward = block.ln_1.forward
    block.ln_1.forward = lambda x: forward(x) + block.ln_2.weight
    with pytest.raises(UserError, match=r"wrong in the layer transformer.h.0.ln_2 of the student \(LayerNorm\)"):
        check_layers(model, layers_of(model))
    model = toy()
    model.unused = nn.Linear(2, 2)
    with pytest.raises(UserError, match="wrong in the layer unused"):
        check_layers(model, layers_of(model))


def test_a_layer_that_is_called_twice_or_has_other_rows_is_named():
    module = nn.Linear(2, 2)
    layers = [Layer("twice", module, rule_of(module))]
    with recorded(layers), pytest.raises(UserError, match="the layer twice is used twice"):
        module(module(torch.zeros(1, 2, 2)))
    with recorded(layers) as book, pytest.raises(UserError, match="the layer twice has 4 rows where the batch has 2"):
        module(torch.ones(4, 1, 2)).sum().backward()
        book.made(Rows(torch.tensor([0, 1]), 2))
    assert module.weight.requires_grad
