"""Noise from epsilon, beside accountants of the tests' own."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from distill.base.errors import UserError
from distill.privacy import accountant
from distill.privacy.accountant import Plan, least_noise, make_plan, require_accountant, require_learnable, spent

needs_opacus = pytest.mark.skipif(
    accountant.find_spec("opacus") is None, reason="opacus is not installed (pip install 'distill[private]')"
)


def analytic_delta(epsilon: float, noise: float, steps: int) -> float:
    """Of so many Gaussian mechanisms without sampling, which are one of noise / sqrt(steps): Balle and Wang 2018
    (arXiv 1805.06530), theorem 8."""
    sigma = noise / math.sqrt(steps)
    a, b = 1 / (2 * sigma), epsilon * sigma
    return norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b)


def composed_delta(epsilon: float, noise: float, rate: float, steps: int, mesh: float = 2e-3) -> float:
    """Of Poisson-sampled Gaussians: the distribution of the privacy loss on a mesh, convolved with itself.

    The larger of both neighbours: a document more, and a document less. Losses are rounded to the nearest point, so
    that it is an estimate, neither bound.
    """
    x = np.linspace(-12 * noise, 12 * noise + 1, 400_001)
    width = x[1] - x[0]
    without = norm.pdf(x, scale=noise)
    with_one = (1 - rate) * without + rate * norm.pdf(x - 1, scale=noise)
    deltas = []
    for upper, lower in ((with_one, without), (without, with_one)):
        # Where the density is left to a few digits only, its ratio is not; there is next to nothing.
        loss = np.log(np.maximum(upper, 1e-300) / np.maximum(lower, 1e-300))
        size = 2 ** math.ceil(math.log2((40 + 2 * np.abs(loss[upper > 1e-12]).max() * math.sqrt(steps) * 4) / mesh))
        index = np.clip(np.rint(loss / mesh), -(size // 2) + 1, size // 2 - 1).astype(int)
        mass = np.bincount(index % size, upper * width, minlength=size)
        composed = np.fft.irfft(np.fft.rfft(mass) ** steps, size)
        losses = np.fft.fftfreq(size, 1 / size) * mesh
        deltas.append(float((composed * np.maximum(1 - np.exp(epsilon - np.maximum(losses, epsilon)), 0)).sum()))
    return max(deltas)


@needs_opacus
@pytest.mark.parametrize(("epsilon", "steps"), [(8.0, 12), (1.0, 3)])
def test_without_sampling_the_noise_is_that_of_the_analytic_gaussian_mechanism(epsilon, steps):
    noise = least_noise(epsilon, 1e-4, 1.0, steps)
    assert analytic_delta(epsilon, noise, steps) <= 1e-4 < analytic_delta(epsilon, noise / 1.02, steps)


@needs_opacus
@pytest.mark.parametrize(
    ("epsilon", "rate", "steps"),
    [
        (8.0, 1 / 3, 12),
        (1.0, 1 / 3, 60),
        pytest.param(3.0, 1 / 12, 500, marks=pytest.mark.slow),
        pytest.param(8.0, 1 / 3, 60, marks=pytest.mark.slow),
    ],
)
def test_the_noise_is_within_two_percent_of_a_second_accountants_and_not_below(epsilon, rate, steps):
    delta = 1 / 3072
    noise = least_noise(epsilon, delta, rate, steps)
    assert composed_delta(epsilon, noise, rate, steps) <= delta < composed_delta(epsilon, noise / 1.02, rate, steps)


@needs_opacus
def test_what_is_spent_grows_with_the_steps_up_to_epsilon():
    plan = make_plan(8.0, None, 1.0, 1024, 3072, 12, 1000)
    assert plan.delta == 1 / 3072
    amounts = [plan.spent(steps) for steps in (0, 4, 12)]
    assert amounts[0] == 0 and amounts == sorted(set(amounts)) and amounts[-1] == 8.0
    assert 0.98 * 8 < spent(plan.noise_multiplier, 1024 / 3072, 12, plan.delta) <= 8


@needs_opacus
def test_other_noise_holds_where_it_spends_no_more():
    plan = make_plan(8.0, None, 1.0, 1024, 3072, 12, 1000)
    noise = plan.noise_multiplier
    assert [plan.holds_with(noise * share) for share in (0.95, 1 - 1e-9, 1.0, 1.05)] == [False, True, True, True]


def test_no_step_takes_no_noise(monkeypatch):
    monkeypatch.setattr(accountant, "require_accountant", lambda: None)
    assert least_noise(1.0, 1e-5, 0.1, 0) == 0


def plan_of(batch_size: int, noise: float) -> Plan:
    return Plan(8.0, 1 / 3072, noise, 1.0, 3072, batch_size, 12, 812_544)


def test_noise_that_drowns_everything_is_refused_with_what_helps():
    """The two cases of the trial: batch 8 is hopeless, batch 1,024 works."""
    assert plan_of(1024, 0.8641).noise_ratio == pytest.approx(0.76, abs=0.01)
    require_learnable(plan_of(1024, 0.8641))
    with pytest.raises(UserError, match=r"fewer steps.*larger privacy.batch_size.*privacy.weights body"):
        require_learnable(plan_of(8, 0.3739))


def test_more_documents_a_step_than_there_are_and_a_missing_package_are_mistakes(monkeypatch):
    with pytest.raises(UserError, match=r"privacy.batch_size is 1024, but the text gives 100 documents"):
        make_plan(8.0, None, 1.0, 1024, 100, 10, 1000)
    with pytest.raises(UserError, match="no document of the text bears loss in its first block"):
        make_plan(8.0, 1e-3, 1.0, 0, 0, 10, 1000)
    monkeypatch.setattr(accountant, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'distill\[private\]'"):
        require_accountant()
