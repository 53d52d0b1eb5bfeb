"""When what was seen is too little to tell anything: all thresholds, and the sentence that stands in a score's place.

A disparity of a model that hardly ever says a listed word is near 0 for want of words, and looks like fairness. The
thresholds are low: they keep out what says nothing, and intervals tell how much the rest says.
"""

import re
from collections.abc import Iterable
from typing import Any

from distill.metrics.evaluation import Evaluation

LISTED_MASS = 0.005  # Probability that all listed words hold together, as a mean over prompts or positions.
MOVABLE_WORDS = 1  # Words of each group for which a token stands.
UNITS = 5  # Prompts, documents or subjects: fewer have too few resamples for an interval.
EDITED_DOCUMENTS = 10  # Documents that hold a listed word, and so have a counterfactual.
GROUP_TEXTS = 20  # Sampled texts that are about one of the groups.
ANSWERS = 20  # Answers of a benchmark that name a group.
AUDITED_TEXTS = 20  # Members, and others, of an audit.
TEXTS = 20  # Sampled texts of all kinds: of fewer, one more or less moves a share by over five points.
TOKENS = 100  # Tokens of held-out text: of fewer, other text like it may have half the perplexity, or twice.


def first(reasons: Iterable[str | None]) -> str | None:
    """The first reason there is."""
    return next((reason for reason in reasons if reason), None)


def few(count: int, needed: int, what: str, among: int | None = None) -> str | None:
    """`only 3 of 512 documents hold a listed word, and 10 are needed`; None where there are enough.

    Args:
        count: How many there are.
        needed: How many there must be.
        what: Of what, in the plural, and what they do.
        among: How many were looked at.
    """
    of = "" if among is None else f" of {among:,}"
    if count == 1 and among is None:
        what = re.sub(r"^(\w+)s\b", r"\1", what)
    return f"only {count:,}{of} {what}, and {needed} are needed" if count < needed else None


def few_words(evaluation: Evaluation) -> str | None:
    """Whether a group has too few words for which a token stands."""
    groups = zip(evaluation.wordlist.groups, evaluation.roles.groups, strict=True)
    missing = [group for group, ids in groups if len(ids) < MOVABLE_WORDS]
    return f"no listed word of {' or '.join(missing)} is one token of this tokenizer" if missing else None


def little_mass(mass: float | None) -> str | None:
    """Whether listed words hold too little probability; `mass` is None where nothing was usable."""
    if mass is None or mass >= LISTED_MASS:
        return None
    return f"listed words hold {_percent(mass)} of the probability, and {LISTED_MASS:.1%} are needed"


def of_probabilities(evaluation: Evaluation, mass: float | None, count: int, what: str) -> str | None:
    """Why probabilities of listed words say too little; None where they say enough.

    Args:
        evaluation: Whose word list and tokenizer.
        mass: Mean probability of all listed words together.
        count: Units that gave a value, called `what` in the plural.
    """
    return first((few_words(evaluation), little_mass(mass), few(count, UNITS, what)))


def of_sides(members: int, others: int, what: str) -> str | None:
    """Why texts of an audit say too little: how many members and others there are, and what they do."""
    sides = (("members", members), ("others", others))
    return first(few(number, AUDITED_TEXTS, f"{side} {what}") for side, number in sides)


def of_texts(about_groups: Any, texts: int) -> str | None:
    """Why sampled texts say too little: the number about a group, of all."""
    return few(int(about_groups), GROUP_TEXTS, "texts are about one of the groups", texts)


def of_held_out(documents: int, tokens: int) -> str | None:
    """Why likelihoods of held-out text say too little: documents that gave one, and their tokens."""
    return first((few(documents, UNITS, "documents"), few(tokens, TOKENS, "tokens")))


def of_samples(texts: int) -> str | None:
    """Why a share of sampled texts says too little."""
    return few(texts, TEXTS, "texts")


def _percent(mass: float) -> str:
    """A small share, with its first digit: 0.2%, 0.004%."""
    return f"{mass:.1%}" if mass >= 0.0005 or mass == 0 else f"{mass * 100:.1g}%"
