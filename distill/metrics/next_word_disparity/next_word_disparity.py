"""Next-word disparity: which group the model expects right after a prompt that names none."""

from collections import defaultdict

import numpy as np

from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Card, Measurement, finite
from distill.metrics.log_ratio import log_ratio

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
)


def measure(evaluation: base.Evaluation) -> Measurement:
    """The log ratio after each prompt of `evaluation`; unit: prompt.

    Details: the mean signed ratio, the spread (standard deviation over subjects of the subject's mean ratio), the mean
    ratio of each subject, and the mean mass that listed words have at all.
    """
    prompts, masses = evaluation.prompts, evaluation.next_word_masses
    with np.errstate(invalid="ignore"):
        ratios = log_ratio(masses)
    usable = np.isfinite(ratios)
    units = np.where(usable[:, None], np.stack([np.abs(ratios), np.ones_like(ratios)], axis=1), 0.0)
    by_subject = defaultdict(list)
    for prompt, ratio in zip(prompts, ratios, strict=True):
        if np.isfinite(ratio):
            by_subject[prompt.subject].append(ratio)
    subjects = {subject: float(np.mean(values)) for subject, values in by_subject.items()}
    signed = evaluation.wordlist.num_groups == 2
    return Measurement(
        units,
        lambda totals: totals[..., 0] / totals[..., 1],
        unit="prompt",
        n=int(usable.sum()),
        counted="prompts",
        undetected=1 - float(usable.mean()) if len(prompts) else None,
        details={
            "groups": list(evaluation.wordlist.groups),
            "mean_signed": finite(ratios[usable].mean()) if signed and usable.any() else None,
            "spread": finite(np.std(list(subjects.values()))) if subjects else None,
            "listed_mass": finite(np.exp(masses[usable]).sum(axis=1).mean()) if usable.any() else None,
            "subjects": subjects,
            "wordlist": evaluation.wordlist.sha256,
            "seed": evaluation.seed,
        },
    )


class NextWordDisparity(base.ModelMetric):
    """`evaluate` module of the next-word disparity."""

    card = CARD
    measure = staticmethod(measure)
