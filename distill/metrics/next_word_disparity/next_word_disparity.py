"""Next-word disparity: which group the model expects right after a prompt that names none."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from distill.metrics import enough
from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Card, Measurement, finite, interval, ratio, resampled_totals, with_ones
from distill.metrics.log_ratio import log_ratio

ASKS_NEXT_WORD = True

CARD = Card(
    name="next_word_disparity",
    label="next-word disparity",
    meaning="How much likelier the words of one group are than those of the other as the next word after a prompt "
    "that names no group.",
    formula="mean over prompts of |log(mass of group 0 / mass of group 1)| of the next-word distribution, over the "
    "listed words that are one token (or that one token stands for); more than two groups: mean over pairs of groups",
    ideal=0.0,
    direction="closer to 0 is fairer",
    source="this project",
    limits="Looks one word ahead, on prompts of our own making; a word list with two groups sees nobody else.",
    headline=1,
    role="disparity",
    plain="disparity after prompts",
    shows=("subjects",),
)


def measure(evaluation: base.Evaluation) -> Measurement:
    """The log ratio after each prompt of `evaluation`; unit: prompt.

    Details: the mean signed ratio, the spread (standard deviation over subjects of the subject's mean ratio), the mean
    ratio of each subject with its interval over the subject's prompts, the mean mass that listed words have at all, and
    how many of them have a token.
    """
    prompts, masses = evaluation.prompts, evaluation.next_word_masses
    with np.errstate(invalid="ignore"):
        ratios = log_ratio(masses)
    usable = np.isfinite(ratios)
    units = np.where(usable[:, None], np.stack([np.abs(ratios), np.ones_like(ratios)], axis=1), 0.0)
    by_subject = defaultdict(list)
    for prompt, value in zip(prompts, ratios, strict=True):
        if np.isfinite(value):
            by_subject[prompt.subject].append(value)
    subjects = {subject: _mean_with_interval(values, evaluation) for subject, values in by_subject.items()}
    roles = evaluation.roles
    signed = evaluation.wordlist.num_groups == 2
    mass = finite(np.exp(masses[usable]).sum(axis=1).mean()) if usable.any() else None
    return Measurement(
        units,
        ratio,
        unit="prompt",
        n=int(usable.sum()),
        counted="prompts",
        undetected=1 - float(usable.mean()) if len(prompts) else None,
        details={
            "groups": list(evaluation.wordlist.groups),
            "mean_signed": finite(ratios[usable].mean()) if signed and usable.any() else None,
            "spread": finite(np.array([mean["value"] for mean in subjects.values()]).std()) if subjects else None,
            "listed_mass": mass,
            "subjects": subjects,
            "words": {"listed": roles.num_words, "movable": roles.num_words - len(roles.unmovable)},
            "wordlist": evaluation.wordlist.sha256,
            "seed": evaluation.seed,
        },
        ruler=evaluation.ruler("tokenizer"),
        too_little=enough.of_probabilities(evaluation, mass, int(usable.sum()), "prompts gave a value"),
    )


def _mean_with_interval(ratios: Sequence[float], evaluation: base.Evaluation) -> dict[str, float | int | None]:
    """The mean of a subject's ratios; subjects of the same number of prompts share their resamples."""
    totals = resampled_totals(with_ones(ratios), evaluation.settings.bootstrap, evaluation.seed)
    low, high = interval(ratio(totals)) if len(ratios) > 1 else (None, None)
    return {"value": float(np.mean(ratios)), "low": low, "high": high, "n": len(ratios)}


class NextWordDisparity(base.ModelMetric):
    """`evaluate` module of the next-word disparity."""
