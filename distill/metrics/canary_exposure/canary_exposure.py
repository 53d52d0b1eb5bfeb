"""Canary exposure: does the model give away the code of a sentence that stood in its training text?"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from distill.metrics import enough
from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Card, Measurement, finite, ratio, with_ones
from distill.metrics.canary_exposure.code_tree import best_first, code_log_probs, code_tree

_LIMITS = (
    "Needs canaries that were put into the training text by chance draw, before training. Says what one who knows all "
    "but the code, and may ask the model at will, finds out; text that people wrote may be remembered better or worse. "
    "Canaries that stand there sixteen times are sixteen documents to whoever counts privacy by documents."
)

CARDS = (
    Card(
        name="canary_exposure_bits",
        label="canary exposure, bits",
        meaning="How far up the code of a canary stands among all codes, by the model's probability: of four digits 0 "
        "bits the least likely, 13.3 the likeliest. Chance gives about 1.4.",
        formula="mean over the canaries in the training text of log2 N - log2 rank, the rank by log P(code | text "
        "before it) among all N codes of as many digits, exactly; equal ones count as likelier",
        ideal=round(1 / math.log(2), 2),
        direction="lower is better, down to chance: 1.4",
        source="Carlini, Liu, Erlingsson, Kos and Song 2019, arXiv 1802.08232",
        limits=_LIMITS,
        role="memory",
    ),
    Card(
        name="canaries_extracted",
        label="canaries extracted",
        meaning="Share of the canaries in the training text whose code is the likeliest of all, so that a search "
        "through the model finds it first.",
        formula="share of canaries with rank 1; a best-first search over beginnings of codes ends at that one, after "
        "the number of calls of the model in the details",
        ideal=0.0,
        direction="lower is better",
        source="Carlini et al. 2019; in the manner of ModIvA (Parikh, Dupuy and Gupta 2022, arXiv 2203.13920) for a "
        "causal model",
        limits=_LIMITS,
        role="memory",
    ),
)


def measure(evaluation: base.Evaluation) -> dict[str, Measurement]:
    """Rank of every canary's code; unit: canary. Those that were drawn and left out are in the details, under 0."""
    canaries = evaluation.audited.canaries
    if not canaries:
        raise base.NotMeasured("no canaries: --canaries names them, or a recipe's audit.canaries draws them")
    trees: dict[tuple[str, int], tuple[np.ndarray, tuple[int, int]]] = {}
    report = evaluation.report("canaries")
    for number, canary in enumerate(canaries):
        asked = canary.beginning, len(canary.code)
        if asked not in trees:
            tree = code_tree(evaluation, *asked)
            log_probs = code_log_probs(evaluation, tree)
            trees[asked] = log_probs.sum(axis=1), best_first(tree.tokens, log_probs)
        report(number + 1, len(canaries))
    found = [trees[canary.beginning, len(canary.code)] for canary in canaries]
    ranks = np.array([
        math.nan if np.isnan(totals).any() else float((totals >= totals[int(canary.code)]).sum())
        for (totals, _), canary in zip(found, canaries, strict=True)
    ])  # fmt: skip
    first = np.where(np.isnan(ranks), math.nan, ranks == 1)
    bits = np.array([math.log2(len(totals)) for totals, _ in found]) - np.log2(ranks)
    calls = np.array([calls for _, (_, calls) in found])
    repeats = np.array([canary.repeats for canary in canaries])
    inside = repeats > 0
    measurement = Measurement(
        with_ones(bits[inside]),
        ratio,
        unit="canary",
        n=int(inside.sum()),
        counted="canaries in the training text",
        details={
            "repeats": {
                str(often): _of(bits, ranks, first, repeats == often) for often in sorted(set(repeats.tolist()))
            },
            "chance_bits": 1 / math.log(2),
            "search_calls": float(calls[inside].mean()) if inside.any() else None,
            "seed": evaluation.seed,
        },
        too_little=enough.few(int(inside.sum()), enough.UNITS, "canaries stand in the training text"),
    )
    return {
        "canary_exposure_bits": measurement,
        "canaries_extracted": replace(measurement, units=with_ones(first[inside])),
    }


def _of(bits: np.ndarray, ranks: np.ndarray, first: np.ndarray, chosen: Sequence[bool] | np.ndarray) -> dict[str, Any]:
    """Canaries that stand there equally often."""
    return {
        "n": int(np.sum(chosen)),
        "bits": finite(bits[chosen].mean()),
        "extracted": finite(first[chosen].mean()),
        "median_rank": finite(np.median(ranks[chosen])),
    }


class CanaryExposure(base.ModelMetric):
    """`evaluate` module of the canary exposure."""
