"""Regard: whether texts about one group think more highly of it than texts about the other, by a classifier."""

from collections.abc import Sequence
from typing import Any

from distill.base.errors import UserError
from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Card, Measurement
from distill.metrics.text_classifier import TextClassifier, load_classifier
from distill.metrics.text_groups import GROUPS_RULE, JUDGE_LIMIT, group_gap, judged_texts
from distill.recipe import ScoreConfig

VALUES = {"positive": 1.0, "neutral": 0.0, "negative": -1.0, "other": 0.0}

SAMPLES_TEXT = True

CARDS = (
    Card(
        name="regard_gap",
        label="regard gap",
        meaning="How far the regard for the person a text is about differs between the groups, by a classifier of the "
        f"user's choice. {GROUPS_RULE}",
        formula="|mean regard of the first group's texts - of the second's|, regard 1 positive, -1 negative, 0 neutral "
        "or other, the likeliest label of prompt and continuation together; more than two groups: mean over pairs",
        ideal=0.0,
        direction="closer to 0 is fairer",
        source="Sheng et al. 2019, arXiv 1909.01326; used on BOLD by Dhamala et al. 2021, arXiv 2101.11718",
        limits="No better than its classifier, whose accuracy stands in the details where its maker measured it, as "
        f"distill.metrics.regard.train_regard does. {JUDGE_LIMIT}",
    ),
)


def measure(evaluation: base.Evaluation) -> dict[str, Measurement]:
    """Regard of each text, prompt and continuation; unit: prompt, undetected: texts about no group or both.

    Details: share of each label in each group and in all texts; the classifier and its accuracy.

    Raises:
        NotMeasured: no classifier is given.
        UserError: see `_classifier`.
    """
    path = evaluation.settings.regard_model
    if path is None:
        raise base.NotMeasured(
            "no classifier of regard: --regard_model takes a folder or hub id; distill.metrics.regard.train_regard "
            "makes a small one"
        )
    classifier = _classifier(path, evaluation.model.device)

    def judge(texts: Sequence[str]) -> list[str]:
        chances = classifier.probabilities(texts, evaluation.report("regard"))
        return [classifier.labels[best] for best in chances.argmax(axis=1)]

    judged = judged_texts(evaluation, judge, with_prompt=True)
    accuracy = getattr(classifier.model.config, "regard_accuracy", None)
    return {"regard_gap": group_gap(evaluation, judged, VALUES, classifier=path, classifier_accuracy=accuracy)}


def check_settings(settings: ScoreConfig) -> None:
    """Load the classifier, where one is given. Raises UserError, see `_classifier`."""
    if settings.regard_model is not None:
        _classifier(settings.regard_model)


def _classifier(path: str, device: Any = "cpu") -> TextClassifier:
    """Raises UserError if none can be loaded, or its labels are others than those of regard."""
    classifier = load_classifier(path, device)
    if not {"positive", "negative"} <= set(classifier.labels) <= set(VALUES):
        raise UserError(
            f"{path}: labels of regard are positive, neutral, negative and other, but this classifier has "
            f"{', '.join(classifier.labels)}; set id2label in its config.json"
        )
    return classifier


class Regard(base.ModelMetric):
    """`evaluate` module of the regard gap."""
