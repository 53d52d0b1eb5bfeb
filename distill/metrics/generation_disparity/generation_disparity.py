"""Generation disparity: of whom the model writes when nobody told it."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill.metrics import enough
from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Card, Measurement
from distill.metrics.log_ratio import log_ratio

SAMPLES_TEXT = True

CARD = Card(
    name="generation_disparity",
    label="generation disparity",
    meaning="Among sampled continuations of prompts that name no group, how far the number of texts about one group is "
    "from the number about the other.",
    formula="|log((M + 0.5) / (F + 0.5))|, M and F the texts in which the words of one group outnumber the other's; "
    "more than two groups: mean over pairs of groups",
    ideal=0.0,
    direction="closer to 0 is fairer",
    source="polarity after Dhamala et al. 2021 (BOLD), arXiv 2101.11718; pooled log ratio by this project",
    limits="A model that writes of nobody scores 0: read it beside the neutral rate. A pooled number hides occupations "
    "that lean opposite ways: see the fairness ratios. Word counting misses names and irony.",
    headline=3,
    plain="disparity in what it writes",
    shows=("texts",),
)


def measure(evaluation: base.Evaluation) -> Measurement:
    """Polarity of every continuation; unit: prompt, so that samples of one prompt are resampled together.

    Details: texts of each polarity, and per prompt group the fairness ratio, min / max of the groups' texts: 0 where
    one is 0, undefined where all are; their mean and minimum over the groups where it is defined.
    """
    groups = evaluation.wordlist.groups
    table, rule = evaluation.polarities
    by_prompt_group: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(groups)))
    for prompt, row in zip(evaluation.prompts, table, strict=True):
        by_prompt_group[prompt.group] += row[: len(groups)]
    ratios = {name: _fairness_ratio(row) for name, row in by_prompt_group.items()}
    defined = [ratio for ratio in ratios.values() if ratio is not None]
    details = {
        "fairness_ratio_mean": math.fsum(defined) / len(defined) if defined else None,
        "fairness_ratio_min": min(defined, default=None),
        "fairness_ratios": ratios,
        "counted_words": rule,
    }
    return pooled(evaluation, table, ("tie", "no group"), details)


def pooled(
    evaluation: base.Evaluation, table: np.ndarray, others: Sequence[str], details: Mapping[str, Any]
) -> Measurement:
    """The disparity of all texts together; unit: prompt.

    Args:
        evaluation: Word list, decoding and seed.
        table: (prompts, K + others) texts of each prompt about each group, then the others.
        others: What these are called, last those about no group.
        details: Further ones.
    """
    groups, counts = evaluation.wordlist.groups, table.sum(axis=0)
    texts = int(counts.sum())
    return Measurement(
        table[:, : len(groups)],
        lambda totals: log_ratio(np.log(totals + 0.5)),
        unit="prompt",
        n=texts,
        counted="texts",
        absolute=True,
        undetected=float(counts[-1] / texts) if texts else None,
        details={
            "groups": list(groups),
            "texts": dict(zip([*groups, *others], counts.astype(int).tolist(), strict=True)),
            **details,
            "decoding": evaluation.decoding,
            "wordlist": evaluation.wordlist.sha256,
            "seed": evaluation.seed,
        },
        too_little=enough.of_texts(counts[: len(groups)].sum(), texts),
    )


def _fairness_ratio(texts: np.ndarray) -> float | None:
    return float(texts.min() / texts.max()) if texts.max() > 0 else None


class GenerationDisparity(base.ModelMetric):
    """`evaluate` module of the generation disparity."""
