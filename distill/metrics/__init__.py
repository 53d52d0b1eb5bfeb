"""Metrics: one file each, `NAME/NAME.py`, which is also a module of the `evaluate` library.

    bootstrap.py    sums per unit -> value, 95% interval, paired difference of two models
    enough.py       when what was seen is too little to tell: all thresholds
    evaluation.py   one model and local data, and the passes that metrics share (likelihoods, continuations)
    audited.py      what models are asked about to see what they remember: members, others, canaries
    shared_context.py   answers to one question: the question is read once
    log_ratio.py    how the number of one group is set against another's
    polarity.py, text_groups.py, text_classifier.py, word_vectors.py, benchmark_text.py, association.py, features.py,
    classifier.py, downstream.py    what several metrics share
    NAME/NAME.py    CARD (what it says about itself), measure(evaluation) -> Measurement, and a class for `evaluate`;
                    a metric of several scores has CARDS and gives a Measurement for the name of each, or None for one
                    that was not asked for; one that looks at sampled continuations says SAMPLES_TEXT = True, one that
                    asks for the next word after each prompt ASKS_NEXT_WORD = True, one that measures the documents it
                    is given READS_DOCUMENTS = True; one that reads a file or model which the
                    settings name has check_settings(settings), which looks at it before anything is measured

A new metric is a new file; it then has a name that recipes can list. Outside of this package:

    evaluate.load("distill/metrics/perplexity").compute(model=model, tokenizer=tokenizer, documents=["..."])
"""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from distill.base.errors import UserError, suggestion
from distill.metrics.bootstrap import (
    Card,
    Measurement,
    Outcome,
    Score,
    difference,
    difference_of,
    reported,
    resampled,
    score,
    score_of,
    undefined,
)
from distill.metrics.evaluation import Evaluation, ModelMetric, NotMeasured, PartOfEvaluation, cards
from distill.recipe import ScoreConfig

__all__ = [
    "CARDS",
    "METRICS",
    "Card",
    "Evaluation",
    "Measurement",
    "ModelMetric",
    "NotMeasured",
    "Outcome",
    "PartOfEvaluation",
    "Score",
    "asks_next_word",
    "card_dicts",
    "cards",
    "check_settings",
    "chosen",
    "difference",
    "difference_of",
    "measured",
    "not_asked",
    "reads_documents",
    "reported",
    "resampled",
    "samples_text",
    "score",
    "score_of",
]

METRICS: dict[str, ModuleType] = {
    path.stem: importlib.import_module(f"{__name__}.{path.stem}.{path.stem}")
    for path in sorted(Path(__file__).parent.glob("*/*.py"))
    if path.stem == path.parent.name
}


def samples_text(metric: ModuleType) -> bool:
    """Whether a metric looks at sampled continuations, as its `SAMPLES_TEXT` says."""
    return getattr(metric, "SAMPLES_TEXT", False)


def asks_next_word(metric: ModuleType) -> bool:
    """Whether a metric asks for the next word after each prompt, as its `ASKS_NEXT_WORD` says."""
    return getattr(metric, "ASKS_NEXT_WORD", False)


def reads_documents(metric: ModuleType) -> bool:
    """Whether a metric measures the documents that it is given, as its `READS_DOCUMENTS` says."""
    return getattr(metric, "READS_DOCUMENTS", False)


def check_settings(metric: ModuleType, settings: ScoreConfig) -> None:
    """Let a metric look at what the settings name for it: its mistakes shall not wait until models were trained.

    Raises:
        UserError: what they name is not what the metric reads.
    """
    if hasattr(metric, "check_settings"):
        metric.check_settings(settings)


# The card of every score that scores.json may hold, by its name there.
CARDS: dict[str, Card] = {card.name: card for metric in METRICS.values() for card in cards(metric)}


def card_dicts(scores: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What scores.json says of each of these scores; nothing of one that no metric here gives."""
    return {name: CARDS[name].to_dict() for name in scores if name in CARDS}


def not_asked(scores: Iterable[str]) -> list[str]:
    """The metrics that gave none of these scores, by the names that a recipe lists."""
    given = set(scores)
    return [name for name, metric in METRICS.items() if not given & {card.name for card in cards(metric)}]


def measured(metric: ModuleType, evaluation: Evaluation) -> dict[str, Measurement]:
    """Every score of a metric, by name; what cannot be measured is undefined, and says why.

    A score for which the metric gives None was not asked for.
    """
    try:
        outcome = metric.measure(evaluation)
    except NotMeasured as reason:
        outcome = {}
        missing = str(reason)
    else:
        outcome = outcome if isinstance(outcome, Mapping) else {metric.CARD.name: outcome}
        missing = "the metric gave no value"
    found = {card.name: outcome.get(card.name, undefined(missing)) for card in cards(metric)}
    return {name: measurement for name, measurement in found.items() if measurement is not None}


def chosen(names: Sequence[str], source: str = "") -> dict[str, ModuleType]:
    """The metrics of these names, in this order.

    Args:
        names: Of their files.
        source: The key or option that names them, for the message.

    Raises:
        UserError: an unknown name.
    """
    for name in names:
        if name not in METRICS:
            where = f"{source}: " if source else ""
            raise UserError(f"{where}unknown metric '{name}'; {suggestion(name, list(METRICS))}")
    return {name: METRICS[name] for name in names}
