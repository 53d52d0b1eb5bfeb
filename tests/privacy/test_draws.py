"""Which documents a step draws, and its noise."""

import pytest
import torch
from scipy import stats

from distill.privacy.draws import Draws

SOURCES = pytest.mark.parametrize("seed", [3, None], ids=["seed", "operating system"])


@SOURCES
def test_each_document_is_drawn_with_the_rate_whatever_the_others_do(seed):
    """Poisson sampling: the number drawn is binomial, and two documents come together as often as chance has it."""
    drawn = torch.zeros(2000, 50, dtype=torch.bool)
    for step in range(2000):
        drawn[step, Draws(seed).documents(step, 50, 0.2)] = True
    counts = drawn.sum(dim=1).double()
    assert counts.mean() == pytest.approx(10, abs=0.3)
    assert counts.var() == pytest.approx(50 * 0.2 * 0.8, rel=0.15)
    assert stats.chisquare(drawn.sum(dim=0)).pvalue > 1e-4
    assert (drawn[:, 0] & drawn[:, 1]).double().mean() == pytest.approx(0.04, abs=0.02)


@SOURCES
def test_noise_is_normal_and_independent(seed):
    sums = [torch.zeros(300, 101), torch.zeros(5000)]  # an odd number of numbers, too
    Draws(seed).add_noise(0, sums, 2.0)
    for total in sums:
        assert stats.kstest(total.flatten().numpy() / 2, "norm").pvalue > 1e-4
    assert abs(stats.pearsonr(sums[0].flatten()[:5000], sums[1])[0]) < 0.07


def test_the_seed_gives_a_step_the_same_numbers_again_and_each_step_others():
    def noise(seed: int | None, step: int) -> torch.Tensor:
        total = torch.zeros(10)
        Draws(seed).add_noise(step, [total], 1.0)
        return total

    assert torch.equal(noise(1, 4), noise(1, 4))
    assert not torch.equal(noise(1, 4), noise(1, 5))
    assert not torch.equal(noise(1, 4), noise(2, 4))
    assert not torch.equal(noise(None, 4), noise(None, 4))
    for other in ("", "another training"):
        assert torch.equal(Draws(1, "a training").documents(2, 99, 0.5), Draws(1, other).documents(2, 99, 0.5))
        totals = [torch.zeros(5000), torch.zeros(5000)]
        for total, training in zip(totals, ("a training", other), strict=True):
            Draws(1, training).add_noise(4, [total], 1.0)
        assert abs(stats.pearsonr(*totals)[0]) < 0.07
    assert torch.equal(Draws(1).documents(2, 99, 0.5), Draws(1).documents(2, 99, 0.5))
    assert Draws(None).documents(0, 99, 1.0).tolist() == list(range(99))
    assert Draws(None).documents(0, 0, 1.0).tolist() == []
