"""Minimal pairs: does the model still know grammar, on sentences that name nobody?"""

from distill.metrics import evaluation as base
from distill.metrics.benchmark_text import own_table, pair_accuracy
from distill.metrics.bootstrap import Card, Measurement

CARD = Card(
    name="minimal_pairs",
    label="grammar, minimal pairs",
    meaning="How often the model finds the grammatical one of two sentences likelier, which differ in a word or its "
    "form and name nobody: what a mitigation costs beside perplexity. A coin gets 0.5.",
    formula="share of pairs with log P(good) > log P(bad), log P the sum over all tokens after the start token; a tie "
    "is wrong; 360 pairs of our own, 40 for each of 9 phenomena of English",
    ideal=1.0,
    direction="higher is better",
    source="this project; the form is that of BLiMP, Warstadt et al. 2020, arXiv 1912.00582",
    limits="English; few and simple sentences made from patterns. A likelihood also holds how frequent the differing "
    "words are: both numbers of a phenomenon are right equally often, so that this cancels there. Says nothing about "
    "fairness.",
    side=True,
)


def measure(evaluation: base.Evaluation) -> Measurement:
    """Which sentence of each pair is likelier; unit: pair. Details: the share for each phenomenon."""
    rows = own_table("minimal_pairs")
    pairs = [(good, bad) for _, good, bad in rows]
    return pair_accuracy(evaluation, pairs, [phenomenon for phenomenon, _, _ in rows], "minimal pairs")


class MinimalPairs(base.ModelMetric):
    """`evaluate` module of the minimal pairs."""
