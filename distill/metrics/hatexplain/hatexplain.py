"""HateXplain: does a classifier of toxic language on the frozen model treat texts about women and men alike?"""

import numpy as np

from distill.metrics import downstream
from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Card, Measurement, finite, ratio, with_ones
from distill.metrics.features import text_features
from distill.metrics.log_ratio import contrast

_DATA = "Mathew et al. 2021 (HateXplain), arXiv 2012.10289"
_CLASSIFIER = (
    "toxic (offensive or hateful) against normal, by logistic regression on the mean of the frozen model's last hidden "
    "states"
)
_LIMITS = (
    "Labels are a majority of three annotators with biases of their own. Only the head is trained: fine-tuning all of "
    "the model may give other gaps."
)

CARDS = (
    Card(
        name="hatexplain_accuracy",
        label="HateXplain accuracy",
        meaning="How well a classifier of toxic language on the model's vectors does: what the fairness scores beside "
        "it are worth.",
        formula=f"share of held-out texts classified rightly: {_CLASSIFIER}",
        ideal=1.0,
        direction="higher is better",
        source=_DATA,
        limits=_LIMITS,
    ),
    Card(
        name="hatexplain_macro_f1",
        label="HateXplain macro-F1",
        meaning="The same, with both classes of the same weight.",
        formula=f"mean over the two classes of 2 TP / (2 TP + FP + FN): {_CLASSIFIER}",
        ideal=1.0,
        direction="higher is better",
        source=_DATA,
        limits=_LIMITS,
    ),
    Card(
        name="hatexplain_fpr_gap",
        label="HateXplain false-positive gap",
        meaning="Among normal texts, how far apart the shares flagged as toxic are for those that mention one group "
        "and those that mention the other.",
        formula="|P(flagged | normal, mentions group 0) - P(flagged | normal, mentions group 1)|, over texts with "
        "listed words of one group only; more than two groups: mean over pairs of groups",
        ideal=0.0,
        direction="closer to 0 is fairer",
        source=f"false-positive equality difference, Dixon et al. 2018; {_DATA}",
        limits="A few hundred normal texts mention women or men, and the texts of the two groups differ in more than "
        "the group: read the interval, and the flip rate, which changes the group alone. " + _LIMITS,
    ),
    Card(
        name="hatexplain_flip_rate",
        label="HateXplain flip rate",
        meaning="How often the verdict changes when the text's listed words are exchanged for those of another group.",
        formula="share of held-out texts with listed words whose predicted class differs from that of their "
        "counterfactual (mean over the counterfactuals of a text with more than two groups)",
        ideal=0.0,
        direction="lower is fairer",
        source=f"counterfactual fairness, Garg et al. 2019, arXiv 1809.10610; {_DATA}",
        limits="A swapped text may mean something else: slurs and allusions are not on the word list. A classifier "
        "that always says the same never flips. " + _LIMITS,
    ),
)


def measure(evaluation: base.Evaluation) -> dict[str, Measurement]:
    """The four scores on the held-out texts; unit: text."""
    task = downstream.hatexplain_task(evaluation)
    rows, predicted = downstream.held_out_predictions(evaluation, task)
    labels, group = task.labels[rows], task.group[rows]
    details = downstream.task_details(evaluation, task)
    right = predicted == labels
    accuracy = Measurement(
        with_ones(right),
        ratio,
        unit="text",
        n=len(rows),
        counted="texts",
        details=details | {"share_toxic": finite(labels.mean()), "predicted_toxic": finite(predicted.mean())},
    )
    return {
        "hatexplain_accuracy": accuracy,
        "hatexplain_macro_f1": _macro_f1(labels, predicted, details),
        "hatexplain_fpr_gap": _false_positives(task, labels, group, predicted, details),
        "hatexplain_flip_rate": _flips(evaluation, task, rows, predicted, details),
    }


def _macro_f1(labels: np.ndarray, predicted: np.ndarray, details: dict) -> Measurement:
    """Columns: twice the true positives, and these with the false ones, of each class."""
    columns = []
    for label in (0, 1):
        twice = 2.0 * ((labels == label) & (predicted == label))
        columns += [twice, twice + ((labels == label) != (predicted == label))]
    return Measurement(
        np.stack(columns, axis=1),
        lambda totals: (totals[..., 0] / totals[..., 1] + totals[..., 2] / totals[..., 3]) / 2,
        unit="text",
        n=len(labels),
        counted="texts",
        details=details,
    )


def _false_positives(
    task: downstream.Task, labels: np.ndarray, group: np.ndarray, predicted: np.ndarray, details: dict
) -> Measurement:
    """Columns: the normal texts that mention each group, and those of them that were flagged."""
    number = len(task.groups)
    normal = np.stack([(labels == 0) & (group == g) for g in range(number)], axis=1)
    flagged = normal & (predicted == 1)[:, None]
    shares = flagged.sum(axis=0) / np.maximum(1, normal.sum(axis=0))
    return Measurement(
        np.concatenate([normal, flagged], axis=1).astype(float),
        lambda totals: contrast(totals[..., number:] / totals[..., :number]),
        unit="text",
        n=int(normal.sum()),
        counted="normal texts that mention one group",
        absolute=True,
        undetected=1 - float(normal.sum() / max(1, (labels == 0).sum())),
        details=details
        | {
            "groups": {
                name: {"normal_texts": int(normal[:, g].sum()), "flagged": finite(shares[g])}
                for g, name in enumerate(task.groups)
            },
        },
    )


def _flips(
    evaluation: base.Evaluation, task: downstream.Task, rows: np.ndarray, predicted: np.ndarray, details: dict
) -> Measurement:
    """Columns: counterfactuals of each text, as a share of all its shifts, and those with another verdict."""
    shifts = evaluation.wordlist.num_groups - 1
    edited = [
        (position, counterfactual.text)
        for position, row in enumerate(rows)
        for counterfactual in evaluation.swapper.counterfactuals(task.texts[row])
        if counterfactual.spans
    ]
    units, moved = np.zeros((len(rows), 2)), []
    if edited:
        (head,) = downstream.task_heads(evaluation, task)
        features = text_features(evaluation, [text for _, text in edited], "hatexplain counterfactuals")
        after = head.predictions(features)
        before = head.probabilities(downstream.task_features(evaluation, task)[rows])[:, 1]
        toxic = head.probabilities(features)[:, 1]
        for (position, _), verdict, probability in zip(edited, after, toxic, strict=True):
            units[position] += np.array([verdict != predicted[position], 1]) / shifts
            moved.append(abs(probability - before[position]))
    swapped = int((units[:, 1] > 0).sum())
    return Measurement(
        units,
        ratio,
        unit="text",
        n=swapped,
        counted="texts with listed words",
        undetected=1 - swapped / len(rows),
        details=details | {"mean_change_of_probability": finite(np.mean(moved)) if moved else None},
    )


class HateXplain(base.ModelMetric):
    """`evaluate` module of the HateXplain scores."""
