"""Perplexity: how well the model predicts held-out text."""

import numpy as np

from distill.metrics import enough
from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Card, Measurement, ratio

READS_DOCUMENTS = True

CARD = Card(
    name="perplexity",
    label="perplexity",
    meaning="How well the model predicts held-out text: the number of equally likely tokens that would be as hard to "
    "guess.",
    formula="exp(total negative log-likelihood / total tokens) over all documents together, each behind the start "
    "token, read through windows with a stride where it exceeds the context",
    ideal=1.0,
    direction="lower is better",
    source="Jelinek, Mercer, Bahl and Baker 1977",
    limits="Depends on the tokenizer; says nothing about fairness or about the quality of sampled text.",
    role="cost",
)


def measure(evaluation: base.Evaluation) -> Measurement:
    """Negative log-likelihood and tokens of each document; unit: document. The end of a document is not counted."""
    units = evaluation.likelihoods[:, :2]
    return Measurement(
        units,
        lambda totals: np.exp(ratio(totals)),
        unit="document",
        n=int(units[:, 1].sum()),
        counted="tokens",
        details={"context": evaluation.context, "stride": evaluation.stride, "seed": evaluation.seed},
        ruler=evaluation.ruler("tokenizer", "context", "conversations"),
        too_little=enough.of_held_out(len(units), int(units[:, 1].sum())),
    )


class Perplexity(base.ModelMetric):
    """`evaluate` module of the perplexity."""
