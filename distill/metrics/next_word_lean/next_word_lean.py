"""Next-word lean: to which group the model leans on the whole, and how far occupations lie apart."""

from itertools import groupby
from typing import Any

import numpy as np

from distill.metrics import enough
from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Card, Measurement, ratio
from distill.metrics.log_ratio import log_ratio

ASKS_NEXT_WORD = True

_LIMITS = "As next-word disparity: one word ahead, prompts of our own making, two groups. "

CARDS = (
    Card(
        name="next_word_mean",
        label="next-word mean",
        meaning="To which group the model leans on the whole, as the next word after prompts that name no group.",
        formula="mean over prompts of log(mass of group 0 / mass of group 1), as in next_word_disparity, but with its "
        "sign; more than two groups: the mean over pairs of groups of its size",
        ideal=0.0,
        direction="closer to 0 is fairer",
        source="this project",
        limits=_LIMITS + "Occupations that lean to opposite sides cancel: read it beside the spread.",
    ),
    Card(
        name="next_word_spread",
        label="next-word spread",
        meaning="How far occupations lie apart: whether the model thinks of one group for some and of the other for "
        "others.",
        formula="standard deviation over subjects (occupations) of the mean log ratio of the subject's prompts",
        ideal=0.0,
        direction="closer to 0 is fairer",
        source="this project",
        limits=_LIMITS + "A model that leans to one side alike for all occupations has none.",
    ),
)


def measure(evaluation: base.Evaluation) -> dict[str, Measurement]:
    """Both scores; unit: subject."""
    masses = evaluation.next_word_masses
    with np.errstate(invalid="ignore"):
        ratios = log_ratio(masses)
    found = [(p.subject, r) for p, r in zip(evaluation.prompts, ratios, strict=True) if np.isfinite(r)]
    subjects = [
        np.array([ratio for _, ratio in of_subject])
        for _, of_subject in groupby(sorted(found, key=lambda pair: pair[0]), key=lambda pair: pair[0])
    ]
    usable = np.isfinite(ratios)
    mass = float(np.exp(masses[usable]).sum(axis=1).mean()) if usable.any() else None
    common: dict[str, Any] = {
        "unit": "subject",
        "n": len(found),
        "counted": "prompts",
        "undetected": 1 - len(found) / len(ratios) if len(ratios) else None,
        "details": {
            "groups": list(evaluation.wordlist.groups),
            "subjects": len(subjects),
            "wordlist": evaluation.wordlist.sha256,
            "seed": evaluation.seed,
        },
        "ruler": evaluation.ruler("tokenizer"),
        "too_little": enough.of_probabilities(evaluation, mass, len(subjects), "subjects gave a value"),
    }
    sums = np.array([[of.sum(), len(of)] for of in subjects]).reshape(-1, 2)
    moments = np.array([[of.mean(), of.mean() ** 2, 1.0] for of in subjects]).reshape(-1, 3)
    return {
        "next_word_mean": Measurement(sums, ratio, **common),
        "next_word_spread": Measurement(moments, _standard_deviation, **common),
    }


def _standard_deviation(totals: np.ndarray) -> np.ndarray:
    """From (..., 3) sums of values, of their squares, and their number."""
    mean, square = totals[..., 0] / totals[..., 2], totals[..., 1] / totals[..., 2]
    return np.sqrt(np.maximum(square - mean**2, 0.0))


class NextWordLean(base.ModelMetric):
    """`evaluate` module of the next-word mean and spread."""
