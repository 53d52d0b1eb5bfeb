"""The rate of a card, and operations of a pass, against the benchmark's own count for GPT-2 and one by hand."""

import pytest
import step
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from distill.base import console
from distill.models import matrix_rate
from distill.models.matrix_rate import count_forward, forward_operations, seconds_at_matrix_rate
from distill.training.processes import training_alone


@pytest.fixture
def h100(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")


class OnTheCard:
    """A model as it would be there."""

    def __init__(self, model, dtype):
        self._model, self.dtype, self.device = model, dtype, torch.device("cuda:0")

    def __getattr__(self, name):
        return getattr(self._model, name)


@pytest.fixture(scope="module")
def gpt2():
    config = GPT2Config(vocab_size=61, n_embd=128, n_head=2, n_layer=3, n_positions=64)
    return GPT2LMHeadModel(config)


@pytest.mark.parametrize("tokens", [1, 64])
def test_operations_are_those_that_the_benchmark_counts(gpt2, tokens):
    assert forward_operations(gpt2, tokens) == step.forward_flops(61, 128, 3, tokens)


def test_an_untied_head_counts_and_the_table_of_embeddings_does_not(toy_model):
    model = toy_model("llama", tie_word_embeddings=False)
    inside = sum(p.numel() for n, p in model.named_parameters() if "layers." in n and p.dim() == 2)
    config = model.config
    attention = 2 * config.num_hidden_layers * 10 * config.hidden_size
    assert forward_operations(model, 10) == 2 * (inside + config.vocab_size * config.hidden_size) + attention


@pytest.mark.parametrize(
    ("dtype", "given", "rate"),
    [(torch.bfloat16, None, 989e12), (torch.float32, torch.float16, 989e12), (torch.float32, None, 67e12)],
)
def test_the_format_of_the_products_decides(gpt2, h100, monkeypatch, dtype, given, rate):
    model = OnTheCard(gpt2, dtype)
    monkeypatch.setattr(matrix_rate, "decoder_layers", lambda _: ("", gpt2.transformer.h))
    assert seconds_at_matrix_rate(model, 64, given) == pytest.approx(step.forward_flops(61, 128, 3, 64) / rate)


def test_products_in_tf32_have_no_share(gpt2, h100, monkeypatch):
    """Nor do they end in a traceback: torch refuses to be asked by the older name when the newer has been set."""
    monkeypatch.setattr(matrix_rate, "decoder_layers", lambda _: ("", gpt2.transformer.h))
    with training_alone():  # which sets back what is set inside
        torch.backends.cuda.matmul.fp32_precision = "none"  # what another test has set would go first
        torch.backends.fp32_precision = "tf32"
        assert seconds_at_matrix_rate(OnTheCard(gpt2, torch.float32), 64) == 0
        assert seconds_at_matrix_rate(OnTheCard(gpt2, torch.bfloat16), 64) > 0


@pytest.mark.parametrize("card", ["NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090 Laptop GPU", ""])
def test_slices_and_other_cards_have_no_share(gpt2, monkeypatch, card):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: card)
    assert seconds_at_matrix_rate(OnTheCard(gpt2, torch.bfloat16), 64) == 0


def test_what_is_built_in_another_way_has_none(gpt2, h100):
    assert seconds_at_matrix_rate(OnTheCard(torch.nn.Linear(2, 2), torch.bfloat16), 64) == 0
    assert seconds_at_matrix_rate(gpt2, 64) == 0  # on a processor


def test_tokens_are_counted_wherever_they_are_read(gpt2):
    before = console._tokens
    count_forward(gpt2, 30, 10)
    assert console._tokens == before + 30
