"""Membership inference: can one tell from a model's losses which texts it was trained on?"""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from distill.metrics import enough
from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Card, Measurement, finite

FALSE_POSITIVES = 0.01
_LEAST = 0.2  # share of a text's tokens that Min-K% looks at

_SOURCE = (
    "Yeom, Giacomelli, Fredrikson and Jha 2018, arXiv 1709.01604; against a reference: Carlini et al. 2021, arXiv "
    "2012.07805; true positives at 1%: Carlini et al. 2022, arXiv 2112.03570; Min-K%: Shi et al. 2024, arXiv 2310.16789"
)
_LIMITS = (
    "A lower bound: better attacks find more. Without a reference a text's own difficulty hides what is remembered. "
    "Where members and others were not drawn from one pool by chance, an AUC without a control means nothing: any "
    "model tells apart two kinds of text."
)

CARDS = (
    Card(
        name="membership_excess_auc",
        label="membership, excess AUC",
        meaning="How well the model's losses tell the texts that it was trained on from others of the same kind, "
        "beyond what those of a model that saw neither tell: 0 not at all, 0.5 each of them.",
        formula="AUC of (reference's loss - model's loss, nats a byte) for members against others, minus the control "
        "model's AUC; without a control minus 0.5, without a reference by the model's loss alone; a text that exceeds "
        "the context is read through windows with a stride",
        ideal=0.0,
        direction="closer to 0 is better",
        source=_SOURCE,
        limits=_LIMITS,
        role="memory",
    ),
    Card(
        name="membership_tpr",
        label="membership, found at 1%",
        meaning="Share of the texts of the training that the same attack names while it wrongly names one of a hundred "
        "others at most. Chance: 0.01.",
        formula="largest true-positive rate at a false-positive rate of 0.01 or less",
        ideal=FALSE_POSITIVES,
        direction="lower is better, down to 0.01",
        source=_SOURCE,
        limits=f"{_LIMITS} Needs hundreds of others: 1% of them are the ones that count.",
        role="memory",
    ),
)


def measure(evaluation: base.Evaluation) -> dict[str, Measurement]:
    """Losses of members and others; unit: text, drawn from the two together.

    Details: the AUC itself and the control's, the AUC of the raw loss and of Min-K%, that of the reference alone (far
    from 0.5, the two sets differ in kind), texts that exceed the context and were read through windows.
    """
    members, others = map(len, evaluation.audited_sides())
    is_member = np.arange(members + others) < members
    model = evaluation.audited_losses
    reference = evaluation.reference() if evaluation.reference else np.zeros_like(model)
    itself = evaluation.reference is not None and np.array_equal(model, reference)
    if itself:
        reference = np.zeros_like(model)
    control = reference - evaluation.control() if evaluation.control else None
    signal = reference - model

    def excess(weights: np.ndarray) -> np.ndarray:
        chance = 0.5 if control is None else auc(control, is_member, weights)
        return auc(signal, is_member, weights) - chance

    once = np.ones(len(is_member))
    details: dict[str, Any] = {
        "auc": finite(auc(signal, is_member, once)),
        "control_auc": None if control is None else finite(auc(control, is_member, once)),
        "raw_loss_auc": finite(auc(-model, is_member, once)),
        "min_k_auc": finite(auc(_min_k(evaluation), is_member, once)),
        "reference_alone_auc": finite(auc(-reference, is_member, once)),
        "reference": "none: this model is the reference" if itself else "yes" if evaluation.reference else "none",
        "control": "yes" if evaluation.control else "none: chance, 0.5, stands for it",
        "members": members,
        "others": others,
        "longer_than_context": sum(
            len(found) >= (evaluation.context or math.inf) for found in evaluation.audited_log_probs
        ),
        "seed": evaluation.seed,
    }
    measurement = Measurement(
        once,
        excess,
        unit="text",
        n=members + others,
        counted="texts",
        details=details,
        ruler=evaluation.ruler("context"),
        too_little=enough.of_sides(members, others, "are there"),
    )
    return {
        "membership_excess_auc": measurement,
        "membership_tpr": replace(measurement, statistic=lambda weights: true_positives(signal, is_member, weights)),
    }


def auc(signal: np.ndarray, is_member: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Probability that a member's signal is above another text's, half of it where they are equal.

    Args:
        signal: (N,) higher for what looks like a member.
        is_member: (N,) whether it is one.
        weights: (..., N) how often each text is there.

    Returns:
        (...); NaN where there are no members, or no others.
    """
    true, false = _curve(signal, is_member, weights)
    area = (np.diff(false, axis=-1) * (true[..., 1:] + true[..., :-1]) / 2).sum(axis=-1)
    return area / (true[..., -1] * false[..., -1])


def true_positives(signal: np.ndarray, is_member: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Largest share of members above a threshold that at most `FALSE_POSITIVES` of the others exceed; as `auc`."""
    true, false = _curve(signal, is_member, weights)
    allowed = false <= FALSE_POSITIVES * false[..., -1:]
    return np.where(allowed, true, 0).max(axis=-1) / np.where(false[..., -1] > 0, true[..., -1], np.nan)


def _curve(signal: np.ndarray, is_member: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., G + 1) members and others above each of G different thresholds, from none to all.

    NaN where a signal is: it is above none, nor below.
    """
    if np.isnan(signal).any():
        return (np.full((*weights.shape[:-1], 2), np.nan),) * 2
    order = np.argsort(-signal, kind="stable")
    last = np.append(np.flatnonzero(np.diff(signal[order])), len(order) - 1)  # of each run of equal signals
    found = []
    for counted in (is_member, ~is_member):
        above = (weights[..., order] * counted[order]).cumsum(axis=-1)[..., last]
        found.append(np.concatenate([np.zeros((*above.shape[:-1], 1)), above], axis=-1))
    return found[0], found[1]


def _min_k(evaluation: base.Evaluation) -> np.ndarray:
    """(N,) mean log-probability of the least likely fifth of each text's tokens."""
    found = []
    for of_text in evaluation.audited_log_probs:
        number = max(1, int(len(of_text) * _LEAST))
        found.append(np.sort(of_text)[:number].mean() if len(of_text) else 0.0)
    return np.array(found)


class MembershipInference(base.ModelMetric):
    """`evaluate` module of membership inference."""
