"""The head's gradient, clipped document by document; inside the loss: tests/training/test_private_trainer.py."""

import pytest
import torch

from distill.objective.clipped_head import ClippedHead, factors


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("chunk", [2, 100], ids=["in chunks", "at once"])
@pytest.mark.parametrize("vocab", [4, 300], ids=["small head", "large head"])
def test_sums_and_norms_are_those_of_each_documents_product(with_bias, chunk, vocab):
    """Whether a document comes in several chunks or in one, by its product or by pairs of tokens."""
    generator = torch.Generator().manual_seed(0)
    lengths, scales = (3, 5, 4), torch.tensor([0.5, 1.0, 0.25], dtype=torch.float64)
    documents = [
        [torch.randn(n, width, generator=generator, dtype=torch.float64) for width in (vocab, 7)] for n in lengths
    ]
    norms, parts = [], []
    for scale, (d_logits, hidden) in zip(scales, documents, strict=True):
        weight, bias = scale * d_logits.T @ hidden, scale * d_logits.sum(0)
        norms.append((weight.square().sum() + (bias.square().sum() if with_bias else 0)).sqrt())
        parts.append((weight, bias))
    bound = float(sorted(norms)[1])
    head = ClippedHead(torch.repeat_interleave(torch.arange(3), torch.tensor(lengths)), scales, bound)
    for number, (d_logits, hidden) in enumerate(documents):
        pieces = list(zip(d_logits.split(chunk), hidden.split(chunk), strict=True))
        for n, piece in enumerate(pieces, start=1):
            head.add(number, *piece, with_bias, last=n == len(pieces))
    torch.testing.assert_close(head.norms, torch.stack(norms))
    shares = [min(1.0, bound / float(n)) for n in norms]
    torch.testing.assert_close(head.weight, sum(s * w for s, (w, _) in zip(shares, parts, strict=True)))
    if with_bias:
        torch.testing.assert_close(head.bias, sum(s * b for s, (_, b) in zip(shares, parts, strict=True)))
    else:
        assert head.bias is None


def test_products_of_pairs_that_cancel_out_let_nothing_pass_the_bound():
    """A norm that comes out too small by rounding would leave a gradient unclipped: it is taken as larger."""
    torch.manual_seed(0)
    hidden = torch.randn(1, 64).repeat(2, 1) * 1e4
    d_logits = torch.randn(1, 3000).repeat(2, 1) * torch.tensor([[1.0], [-1.0 + 1e-4]])
    head = ClippedHead(torch.zeros(2, dtype=torch.long), torch.ones(1), 1.0)
    head.add(0, d_logits, hidden, False, last=True)
    truth = (d_logits.double().T @ hidden.double()).norm()
    assert truth > 100 and head.norms[0] >= truth * (1 - 1e-6)
    assert head.weight.norm() <= 1


def test_factors_take_gradients_down_to_the_bound_and_leave_small_ones():
    norms = torch.tensor([0.0, 1e-40, 0.5, 1.0, 4.0])
    assert (norms * factors(norms, 1.0)).max() <= 1
    assert factors(norms, 1.0).tolist() == pytest.approx([1, 1, 1, 1, 0.25], abs=1e-4)
