"""Bits per byte: perplexity's information, in a unit that does not depend on the tokenizer."""

import math

from distill.metrics import enough
from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Card, Measurement, ratio

READS_DOCUMENTS = True

CARD = Card(
    name="bits_per_byte",
    label="bits per byte",
    meaning="Bits that the model needs for a byte of held-out text; unlike perplexity it compares across tokenizers.",
    formula="total negative log-likelihood / ln 2 / total UTF-8 bytes over all documents together",
    ideal=0.0,
    direction="lower is better",
    source="Gao et al. 2020, arXiv 2101.00027",
    limits="Says nothing about fairness or about the quality of sampled text. Of a conversation, what the chat "
    "template puts around the messages counts too.",
    role="cost across tokenizers",
)


def measure(evaluation: base.Evaluation) -> Measurement:
    """Negative log-likelihood and bytes of each document, from the pass that perplexity uses; unit: document."""
    units = evaluation.likelihoods[:, [0, 2]]
    return Measurement(
        units,
        lambda totals: ratio(totals) / math.log(2),
        unit="document",
        n=int(units[:, 1].sum()),
        counted="bytes",
        details={"context": evaluation.context, "stride": evaluation.stride, "seed": evaluation.seed},
        ruler=evaluation.ruler("context", "conversations"),
        too_little=enough.of_held_out(len(units), int(evaluation.likelihoods[:, 1].sum())),
    )


class BitsPerByte(base.ModelMetric):
    """`evaluate` module of the bits per byte."""
