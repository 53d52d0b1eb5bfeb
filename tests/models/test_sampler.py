"""Draws against sums that are written out, and the draws of a GPU against those of a CPU."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from interpreted import run_interpreted

from distill.models import sampler
from distill.models.sampler import Shape, draw, draw_wide, least_of_nucleus, nucleus_of

SHAPES = [Shape(0), Shape(0, top_p=0.9), Shape(0, 0.7, 5), Shape(0, 1.5, 40, 0.8), Shape(0, 1.0, 0, 0.999999)]


def kept_by_sorting(probabilities: np.ndarray, top_p: float) -> np.ndarray:
    """Which tokens are in the nucleus: the likeliest while those before have less; ties in the vocabulary's order."""
    kept, before = np.zeros(len(probabilities), dtype=bool), 0.0
    for token in np.argsort(-probabilities, kind="stable"):
        kept[token] = before < top_p
        before += float(probabilities[token])
    return kept


def assert_falls_on(token: int, scores: torch.Tensor, uniform: float, shape: Shape) -> None:
    """The token is kept, and the number falls on it, in sums over the whole row one after the other."""
    scores = scores / shape.temperature
    if 0 < shape.top_k < len(scores):
        scores = scores.masked_fill(scores < scores.sort(descending=True).values[shape.top_k - 1], -torch.inf)
    probabilities = scores.softmax(0).numpy()
    if shape.top_p < 1:
        probabilities = probabilities * kept_by_sorting(probabilities, shape.top_p)
    ends = np.cumsum(probabilities.astype(np.float64))
    target = uniform * ends[-1]
    assert probabilities[token] > 0
    assert ends[token] - probabilities[token] - 1e-12 <= target <= ends[token] + 1e-12


def rows(vocab: int, number: int, seed: int, step: float) -> torch.Tensor:
    """Scores of some spread; with a step most of them have others like them."""
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(number, vocab, generator=generator)
    return scores if step == 0 else (scores / step).round() * step


@given(
    vocab=st.integers(1, 700), seed=st.integers(0, 1000), step=st.sampled_from([0.0, 0.5, 4.0, 100.0]),
    shape=st.sampled_from(SHAPES), top_p=st.floats(0.01, 1.0), data=st.data(),
)  # fmt: skip
def test_a_number_falls_on_the_token_that_the_sums_say(vocab, seed, step, shape, top_p, data):
    scores = rows(vocab, 3, seed, step)
    uniforms = torch.tensor(data.draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=3, max_size=3)))
    uniforms = uniforms.double()
    shape = shape._replace(vocab=vocab, top_p=top_p if shape.top_p < 1 else 1.0)
    # Which of equal tokens a CPU keeps at the edge of the nucleus is torch's choice, and rounding may change it.
    for tokens in (draw_wide(scores, uniforms, shape), *([draw(scores, uniforms, shape)[0]] if step == 0 else [])):
        assert tokens.shape == (3, 1)
        for row, uniform, (token,) in zip(scores, uniforms.tolist(), tokens.tolist(), strict=True):
            assert_falls_on(token, row, uniform, shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_both_ways_draw_the_same_where_rounding_cannot_decide(shape):
    scores = torch.cat([rows(1000, 300, 1, 0.0), rows(1000, 300, 2, 0.25)])
    uniforms = torch.from_numpy(np.random.default_rng(0).random(len(scores)))
    ours = draw_wide(scores, uniforms, shape._replace(vocab=1000))
    theirs, sure = draw(scores, uniforms, shape._replace(vocab=1000))
    assert sure.sum() > 250
    assert torch.equal(ours[sure], theirs[sure])


def test_what_the_head_is_padded_with_is_never_drawn():
    scores = torch.zeros(400, 320)
    scores[:, 300:] = 50.0
    uniforms = torch.linspace(0, 0.999999, 400, dtype=torch.float64)
    drawn = draw_wide(scores.clone(), uniforms, Shape(300))
    assert torch.equal(drawn[:, 0], (uniforms * 300).long())
    assert torch.equal(draw_wide(scores, uniforms, Shape(300, top_p=0.5))[:, 0], (uniforms * 150).long())


def test_the_last_token_that_can_be_is_the_end_of_the_row():
    scores = torch.tensor([[0.0, 1.0, *[-torch.inf] * 600]])
    almost = torch.tensor([1 - 2**-53], dtype=torch.float64)
    for shape in (Shape(602), Shape(602, top_p=0.999)):
        assert draw_wide(scores, almost, shape).item() == 1


@pytest.mark.parametrize("top_p", [1e-6, 0.25, 0.5, 0.9, 0.999999])
def test_the_least_probability_of_a_nucleus(top_p):
    probabilities = torch.cat([rows(500, 40, 3, step).softmax(1) for step in (0.0, 0.5, 100.0)])
    alone = torch.zeros(2, 500)
    alone[:, 7], alone[1, 7], alone[1, 9] = 1.0, 0.5, 0.5
    flat = torch.full((1, 500), 1 / 500)
    tiny = torch.tensor([[1.0, *[1e-42] * 499]])
    probabilities = torch.cat([probabilities, alone, flat, tiny])
    least = least_of_nucleus(probabilities, top_p)[:, 0].numpy()
    expected = [row[kept_by_sorting(row, top_p)].min() for row in probabilities.numpy()]
    for ours, theirs, row in zip(least, expected, probabilities.double(), strict=True):
        if row.sum() < top_p:
            assert ours == 0.0
        else:
            assert ours == theirs


def nucleus_by_kernel(device: str) -> None:
    """The kernel against torch: rows of several pieces, most of which agree in their first bits, or hardly any."""
    spread = [rows(1501, 6, 4, step).softmax(1) for step in (0.0, 0.5, 100.0)]
    flat = (1e-3 * torch.randn(4, 1501, generator=torch.Generator().manual_seed(6))).softmax(1)
    short = torch.tensor([[0.3, 0.2, *[1e-42] * 1499]])  # less than is wanted
    probabilities = torch.cat([*spread, flat, short])
    for top_p in (0.1, 0.95):
        expected = nucleus_of(probabilities, top_p)
        assert expected.least.unique().numel() > 10
        for columns in (512, 1024):
            least, masses, tied = (
                x.cpu() for x in sampler._nucleus_by_triton(probabilities.to(device), top_p, columns)
            )
            assert torch.equal(least, expected.least)
            torch.testing.assert_close(masses, expected.masses, rtol=1e-13, atol=0)
            assert torch.equal(tied[least[:, 0] > 0], expected.tied[least[:, 0] > 0])


def test_the_kernel_finds_the_same_in_tritons_interpreter():
    run_interpreted(nucleus_by_kernel)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_what_a_cpu_draws():
    pytest.importorskip("triton")
    nucleus_by_kernel("cuda")
    scores = rows(50_257, 64, 5, 0.0)
    uniforms = torch.from_numpy(np.random.default_rng(1).random(len(scores)))
    for shape in SHAPES:
        shape = shape._replace(vocab=50_257)
        theirs, sure = draw(scores, uniforms, shape)
        ours = draw_wide(scores.cuda(), uniforms.cuda(), shape).cpu()
        assert sure.sum() > 10
        assert torch.equal(ours[sure], theirs[sure])
