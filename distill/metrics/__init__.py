"""Metrics: one file each, `NAME/NAME.py`, which is also a module of the `evaluate` library.

    bootstrap.py    sums per unit -> value, 95% interval, paired difference of two models
    evaluation.py   one model and local data, and the passes that metrics share (likelihoods, continuations)
    log_ratio.py    how the mass of one group is set against another's
    NAME/NAME.py    CARD (what it says about itself), measure(evaluation) -> Measurement, and a class for `evaluate`

A new metric is a new file; it then has a name that recipes can list. Outside of this package:

    evaluate.load("distill/metrics/perplexity").compute(model=model, tokenizer=tokenizer, documents=["..."])
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from distill.errors import UserError, suggestion
from distill.metrics.bootstrap import Card, Measurement, Score, difference, score
from distill.metrics.evaluation import Evaluation, ModelMetric

__all__ = ["METRICS", "Card", "Evaluation", "Measurement", "ModelMetric", "Score", "chosen", "difference", "score"]

METRICS: dict[str, ModuleType] = {
    path.stem: importlib.import_module(f"{__name__}.{path.stem}.{path.stem}")
    for path in sorted(Path(__file__).parent.glob("*/*.py"))
    if path.stem == path.parent.name
}


def chosen(names: Sequence[str]) -> dict[str, ModuleType]:
    """The metrics of these names, in this order.

    Raises:
        UserError: an unknown name.
    """
    for name in names:
        if name not in METRICS:
            raise UserError(f"unknown metric '{name}'; {suggestion(name, list(METRICS))}")
    return {name: METRICS[name] for name in names}
