"""Occupations: does a classifier of occupations on the frozen model find women and men in an occupation alike?"""

from collections.abc import Callable

import numpy as np

from distill.metrics import downstream
from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Card, Measurement, finite, ratio, with_ones

_TASK = (
    "a person's occupation from the beginning of their Wikipedia article with the occupation masked, by logistic "
    "regression on the mean of the frozen model's last hidden states, 5-fold"
)
_SOURCE = (
    "after De-Arteaga et al. 2019 (Bias in Bios), arXiv 1901.09451; task built by this project from Wikipedia's people"
)
_LIMITS = (
    "Names and pronouns stay in the texts, and a model trained on Wikipedia may have read them whole. Women and men as "
    "Wikidata has them: nobody else is seen. Only the head is trained: fine-tuning all of the model may give other "
    "gaps."
)
_GAP_LIMITS = (
    "Some occupations have 15 to 40 women or men: chance alone makes a gap of several points, and the mean of sizes "
    "cannot fall below that noise; compare models on the same people rather than with 0. "
)

CARDS = (
    Card(
        name="occupation_accuracy",
        label="occupation accuracy",
        meaning="How well a classifier of occupations on the model's vectors does: what the gaps beside it are worth.",
        formula=f"share of people classified rightly: {_TASK}",
        ideal=1.0,
        direction="higher is better",
        source=_SOURCE,
        limits=_LIMITS,
    ),
    Card(
        name="occupation_tpr_gap",
        label="occupation TPR gap",
        meaning="How far apart the shares of women and of men in an occupation that the classifier recognises are.",
        formula="mean over occupations of |TPR(women) - TPR(men)|, TPR = recognised / all of that occupation",
        ideal=0.0,
        direction="closer to 0 is fairer",
        source=_SOURCE,
        limits=_GAP_LIMITS + _LIMITS,
    ),
    Card(
        name="occupation_tpr_gap_rms",
        label="occupation TPR gap (RMS)",
        meaning="The same, where large gaps weigh more.",
        formula="root of the mean over occupations of (TPR(women) - TPR(men))^2",
        ideal=0.0,
        direction="closer to 0 is fairer",
        source=_SOURCE,
        limits=_GAP_LIMITS + _LIMITS,
    ),
)


def measure(evaluation: base.Evaluation) -> dict[str, Measurement]:
    """The three scores on people held out in their fold; unit: person.

    Details of the gaps: people, TPRs and gap of every occupation, and the correlation of the gap with the share of
    women over occupations (De-Arteaga et al.: the classifier adds to the imbalance where it is positive).
    """
    task = downstream.occupations_task(evaluation)
    rows, predicted = downstream.held_out_predictions(evaluation, task)
    labels, group = task.labels[rows], task.group[rows]
    right = predicted == labels
    details = downstream.task_details(evaluation, task)
    counts = np.zeros((len(rows), 2, len(task.classes), 2))
    counts[np.arange(len(rows)), 0, labels, group] = 1
    counts[np.arange(len(rows)), 1, labels, group] = right
    units = counts.reshape(len(rows), -1)
    majority = np.bincount(labels).max() / len(labels)
    accuracy = Measurement(
        with_ones(right),
        ratio,
        unit="person",
        n=len(rows),
        counted="people",
        details=details | {"occupations": list(task.classes), "largest_occupation": finite(majority)},
    )
    table = details | _table(task, units.sum(axis=0))
    return {
        "occupation_accuracy": accuracy,
        "occupation_tpr_gap": _gap(task, units, lambda gaps: _mean_known(np.abs(gaps)), table),
        "occupation_tpr_gap_rms": _gap(task, units, lambda gaps: np.sqrt(_mean_known(gaps**2)), details),
    }


def tpr_gaps(totals: np.ndarray, num_classes: int) -> np.ndarray:
    """TPR of women minus TPR of men; (..., 2 * C * 2) totals of people and of those recognised -> (..., C).

    NaN where an occupation has no woman or no man.
    """
    people, recognised = np.moveaxis(totals.reshape(*totals.shape[:-1], 2, num_classes, 2), -3, 0)
    rates = np.divide(recognised, people, out=np.full_like(people, np.nan), where=people > 0)
    return rates[..., 0] - rates[..., 1]


def _mean_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis, without NaN."""
    return np.nansum(values, axis=-1) / np.isfinite(values).sum(axis=-1)


def _gap(
    task: downstream.Task, units: np.ndarray, combine: Callable[[np.ndarray], np.ndarray], details: dict
) -> Measurement:
    return Measurement(
        units,
        lambda totals: combine(tpr_gaps(totals, len(task.classes))),
        unit="person",
        n=len(units),
        counted="people",
        details=details,
    )


def _table(task: downstream.Task, totals: np.ndarray) -> dict:
    gaps = tpr_gaps(totals, len(task.classes))
    people, recognised = totals.reshape(2, len(task.classes), 2)
    share = people[:, 0] / people.sum(axis=1)
    spread = gaps.std() * share.std()
    return {
        "occupations": {
            work: {
                "women": int(people[c, 0]),
                "men": int(people[c, 1]),
                "tpr_women": finite(recognised[c, 0] / people[c, 0]),
                "tpr_men": finite(recognised[c, 1] / people[c, 1]),
                "gap": finite(gaps[c]),
            }
            for c, work in enumerate(task.classes)
        },
        "correlation_of_gap_with_share_of_women": finite(np.corrcoef(gaps, share)[0, 1]) if spread > 0 else None,
    }


class Occupations(base.ModelMetric):
    """`evaluate` module of the occupation scores."""
