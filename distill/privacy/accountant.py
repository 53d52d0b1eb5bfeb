"""How much noise a private training needs, and what it spends: (epsilon, delta)-differential privacy.

The mechanism is DP-SGD (Abadi et al. 2016, arXiv 1607.00133): a step draws each document with the same probability
(Poisson sampling), clips each document's gradient to a norm of at most C, and adds Gaussian noise of standard deviation
sigma * C to the sum. Two texts are neighbours where one holds a document more. The accountant is that of privacy-loss
random variables (Gopi et al. 2021, arXiv 2106.02848), by opacus, which the extra `private` brings: its bound from above
is used, and never its estimate.
"""

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec

from distill.base.errors import UserError

ACCOUNTANT = "PRV (Gopi et al. 2021), upper bound, by opacus"
#: Above this ratio of the noise's norm to a clipped gradient's, see `Plan.noise_ratio`, nothing is learned.
MOST_NOISE = 3.0

_ERROR = 0.004  # of epsilon, as a share of it, by which the bound may exceed the truth
_PRECISION = 0.002  # of the noise multiplier, as a share of it
_WIDEST = 0.5  # Renyi's bound asks for at most twice the noise that is needed


@dataclass(frozen=True)
class Plan:
    """What a private training does, and what it may spend.

    Attributes:
        epsilon, delta: What all steps together spend at most.
        noise_multiplier: sigma, the noise's standard deviation over the clip.
        clip: C, the largest norm of a document's gradient.
        documents: n, how many there are: each, with its counterfactuals, is one unit.
        batch_size: How many of them a step draws on average.
        steps: How many steps there are.
        weights: d, how many numbers are trained.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    clip: float
    documents: int
    batch_size: int
    steps: int
    weights: int

    @property
    def sample_rate(self) -> float:
        """The probability with which a step draws a document."""
        return self.batch_size / self.documents

    @property
    def noise_ratio(self) -> float:
        """sigma sqrt(d) / B: the expected norm of a step's noise over the largest norm that its gradient can have."""
        return self.noise_multiplier * math.sqrt(self.weights) / self.batch_size

    def spent(self, steps: int) -> float:
        """The epsilon of the first `steps` steps, at the plan's delta."""
        return spent(self.noise_multiplier, self.sample_rate, steps, self.delta) if steps < self.steps else self.epsilon

    def holds_with(self, noise_multiplier: float) -> bool:
        """Whether all steps with this noise spend at most epsilon, but for what two versions of a bound may differ."""
        return spent(noise_multiplier, self.sample_rate, self.steps, self.delta) <= self.epsilon * (1 + _ERROR)


def make_plan(
    epsilon: float,
    delta: float | None,
    clip: float,
    batch_size: int,
    documents: int,
    steps: int,
    weights: int,
) -> Plan:
    """The plan of a training, with the least noise that keeps it within epsilon.

    Args:
        epsilon: What may be spent.
        delta: The probability with which epsilon may be exceeded; None: 1 / documents.
        clip, batch_size, documents, steps, weights: As in `Plan`.

    Raises:
        UserError: there is no document, a step would draw more than there are, or opacus is missing.
    """
    require_documents(documents)
    if batch_size > documents:
        raise UserError(
            f"privacy.batch_size is {batch_size}, but the text gives {documents} documents to draw from; lower it, or "
            "give more text (corpus.passage_chars makes several of a long document)"
        )
    delta = 1 / documents if delta is None else delta
    noise = least_noise(epsilon, delta, batch_size / documents, steps)
    return Plan(epsilon, delta, noise, clip, documents, batch_size, steps, weights)


def require_documents(documents: int) -> None:
    """Raises UserError where no document is left that a private training reads: of each, it reads the first block."""
    if not documents:
        raise UserError(
            "privacy.epsilon is set, but no document of the text bears loss in its first block, which is all that a "
            "private training reads; raise block_length (with corpus.mask assistant, answers must begin in that block)"
        )


def require_learnable(plan: Plan, clients: int = 1) -> None:
    """Refuse a training in which noise drowns whatever is learned.

    Args:
        plan: Of the training.
        clients: How many such trainings are averaged: so much less is left of their noise.

    Raises:
        UserError: says what helps.
    """
    ratio = plan.noise_ratio / math.sqrt(clients)
    if ratio > MOST_NOISE:
        where = f", averaged over {clients} clients of {plan.documents} documents," if clients > 1 else ""
        raise UserError(
            f"the noise that privacy.epsilon {plan.epsilon:g} asks for{where} has {ratio:.2g} times the norm of "
            f"the largest gradient that a step can have (at most {MOST_NOISE:g}), so that nothing would be learned; "
            "take fewer steps (trainer.max_steps), a larger privacy.batch_size (a third of the documents, say), or "
            "privacy.weights body, which freezes the head; or more text, or a larger epsilon"
        )


def require_accountant() -> None:
    """Raises UserError where opacus is not installed."""
    if find_spec("opacus") is None:
        raise UserError(
            "privacy.epsilon is set, but the accountant that derives its noise is not installed; "
            "pip install 'distill[private]'"
        )


@lru_cache(maxsize=64)
def least_noise(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """The least noise multiplier, to 0.2%, at which so many steps spend at most epsilon; 0 for no step.

    Args:
        epsilon, delta: Above 0.
        sample_rate: Above 0, at most 1.
        steps: At least 0.

    Raises:
        UserError: opacus is missing, or no noise that it can account for is enough.
    """
    require_accountant()
    if steps == 0:
        return 0.0
    # Privacy-loss variables are laid out on a mesh as wide as epsilon: with far too little noise it would not fit into
    # memory. Renyi's bound, which takes no mesh, tells from where to come down.
    enough = _noise_by_renyi(epsilon, delta, sample_rate, steps)
    too_little = enough * _WIDEST
    at_enough, at_too_little = spent(enough, sample_rate, steps, delta), math.inf
    while enough / too_little > 1 + _PRECISION:
        guess = _between(enough, at_enough, too_little, at_too_little, epsilon)
        found = spent(guess, sample_rate, steps, delta)
        if found <= epsilon:
            enough, at_enough = guess, found
        else:
            too_little, at_too_little = guess, found
    return enough


def _between(enough: float, at_enough: float, too_little: float, at_too_little: float, epsilon: float) -> float:
    """A noise multiplier between two, at which about epsilon is spent: log(epsilon) is nearly straight in log(sigma).

    Half of the precision beyond the straight line, so that both ends close in on the answer.
    """
    if math.isinf(at_too_little):
        return math.sqrt(enough * too_little)
    share = math.log(epsilon / at_enough) / math.log(at_too_little / at_enough)
    beyond = _PRECISION / 2 if share > 0.5 else -_PRECISION / 2
    guess = enough * (too_little / enough) ** share * (1 + beyond)
    return min(max(guess, too_little * (1 + _PRECISION / 4)), enough / (1 + _PRECISION / 4))


def _noise_by_renyi(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """A noise multiplier that is enough by Renyi differential privacy, found by halving."""
    from opacus.accountants import RDPAccountant

    def enough(noise: float) -> bool:
        accountant = RDPAccountant()
        accountant.history = [(noise, sample_rate, steps)]
        with warnings.catch_warnings(action="ignore"):  # see `spent`
            return bool(accountant.get_epsilon(delta=delta) <= epsilon)

    low, high = 0.0, 1.0
    while not enough(high):
        low, high = high, 2 * high
        if high > 1e6:
            raise UserError(f"privacy.epsilon is {epsilon:g}, for which no noise is enough; raise it, or privacy.delta")
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@lru_cache(maxsize=256)
def spent(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """A bound from above of the epsilon of so many steps, at most half a percent above the truth.

    Raises:
        UserError: opacus is missing.
    """
    require_accountant()
    if steps == 0:
        return 0.0
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(noise_multiplier, sample_rate, steps)]
    # Opacus says on the way that its first guess at the width of the mesh is wide, and log(0) at a rate of 1.
    with warnings.catch_warnings(action="ignore"):
        rough = float(accountant.get_epsilon(delta=delta, eps_error=0.1))
        error = max(min(_ERROR * rough, 0.1), 1e-4)
        return min(rough, float(accountant.get_epsilon(delta=delta, eps_error=error)))
