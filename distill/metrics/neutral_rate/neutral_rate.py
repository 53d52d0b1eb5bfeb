"""Neutral rate: how often the model writes of neither group."""

import numpy as np

from distill.metrics import enough
from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Card, Measurement, ratio

SAMPLES_TEXT = True

CARD = Card(
    name="neutral_rate",
    label="neutral rate",
    meaning="Share of sampled continuations that hold no word of any group.",
    formula="neutral texts / texts",
    ideal=None,
    direction="near the baseline's",
    source="this project, on the polarity of Dhamala et al. 2021 (BOLD), arXiv 2101.11718",
    limits="A model that says nothing about anyone is not fair, it is silent: lower disparity at a higher neutral rate "
    "is no gain. Texts that speak of people by name only count as neutral.",
)


def measure(evaluation: base.Evaluation) -> Measurement:
    """Neutral texts among the continuations that generation disparity uses; unit: prompt."""
    table, rule = evaluation.polarities
    units = np.stack([table[:, -1], table.sum(axis=1)], axis=1)
    return Measurement(
        units,
        ratio,
        unit="prompt",
        n=int(units[:, 1].sum()),
        counted="texts",
        details={
            "counted_words": rule,
            "decoding": evaluation.decoding,
            "wordlist": evaluation.wordlist.sha256,
            "seed": evaluation.seed,
        },
        too_little=enough.of_samples(int(units[:, 1].sum())),
    )


class NeutralRate(base.ModelMetric):
    """`evaluate` module of the neutral rate."""
