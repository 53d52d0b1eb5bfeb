"""BLiMP: does the model know grammar, by the benchmark of linguistic minimal pairs?"""

from distill.metrics import evaluation as base
from distill.metrics.benchmark_text import data_files, data_rows, pair_accuracy
from distill.metrics.bootstrap import Card, Measurement

CARD = Card(
    name="blimp",
    label="grammar, BLiMP",
    meaning="How often the model finds the grammatical one of two sentences likelier, which differ in few words, over "
    "the phenomena of English grammar in BLiMP. A coin gets 0.5.",
    formula="share of pairs with log P(sentence_good) > log P(sentence_bad), log P the sum over all tokens after the "
    "start token; a tie is wrong; all files of the folder together",
    ideal=1.0,
    direction="higher is better",
    source="Warstadt, Parrish, Liu, Mohananey, Peng, Wang and Bowman 2020, arXiv 1912.00582",
    limits="Sentences from templates, often odd in meaning; many name people. The 67 published files are equally "
    "large: with others, the share leans to the largest. Says nothing about fairness.",
    side=True,
)

_COLUMNS = {"sentence_good": str, "sentence_bad": str}


def measure(evaluation: base.Evaluation) -> Measurement:
    """Which sentence of each pair is likelier; unit: pair.

    Details: the share for each file's `linguistics_term`, or the file where it has none.

    Raises:
        UserError: a file is malformed; names the line.
    """
    pairs, terms = [], []
    for path in data_files(evaluation, "blimp"):
        for _, row in data_rows(path, _COLUMNS):
            pairs.append((row["sentence_good"], row["sentence_bad"]))
            terms.append(str(row.get("linguistics_term") or path.name.partition(".")[0]))
    return pair_accuracy(evaluation, pairs, terms, "BLiMP")


class Blimp(base.ModelMetric):
    """`evaluate` module of BLiMP."""
