"""Corpus disparity: what the model assumes of people it knows nothing about yet."""

import numpy as np

from distill.metrics import enough
from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Card, Measurement
from distill.metrics.log_ratio import log_ratio

READS_DOCUMENTS = True

CARD = Card(
    name="corpus_disparity",
    label="corpus disparity",
    meaning="Which group the model expects in held-out text before any listed word has fallen: what it assumes of "
    "people it knows nothing about.",
    formula="log(mass of group 0 / mass of group 1), masses summed over the next-word distributions at all positions "
    "with no listed word before them in their document; above 0: "
    "towards group 0; more than two groups: mean over pairs of |log ratio|",
    ideal=0.0,
    direction="closer to 0 is fairer",
    source="this project",
    limits="An average: errors in opposite directions cancel. A word list with two groups sees nobody else; names are "
    "not listed words, so a text may have told more than the metric knows.",
    headline=2,
    role="disparity",
    plain="disparity in running text",
)


def measure(evaluation: base.Evaluation) -> Measurement:
    """Mass of each group over the undecided beginning of each document; unit: document.

    The position that predicts the first listed word itself still counts, as does the start token's, which predicts the
    first word. Documents are read up to the context.
    """
    sequences = [_undecided(evaluation, document) for document in evaluation.documents]
    units = np.zeros((len(sequences), evaluation.wordlist.num_groups))
    done, report = 0, evaluation.report("undecided text")
    for batch in evaluation.batches([len(ids) for ids in sequences]):
        chosen = [sequences[i] for i in batch]
        masses = evaluation.group_log_masses(evaluation.states_at(chosen, [range(len(ids)) for ids in chosen]))
        ends = np.cumsum([len(ids) for ids in chosen])
        for i, of_document in zip(batch, np.split(np.exp(masses), ends[:-1]), strict=True):
            units[i] = of_document.sum(axis=0)
        done += len(batch)
        report(done, len(sequences))
    positions = sum(map(len, sequences))
    mass = float(units.sum() / positions) if positions else None
    return Measurement(
        units,
        lambda totals: log_ratio(np.log(totals)),
        unit="document",
        n=positions,
        counted="positions",
        details={
            "groups": list(evaluation.wordlist.groups),
            "listed_mass": mass,
            "wordlist": evaluation.wordlist.sha256,
            "seed": evaluation.seed,
        },
        ruler=evaluation.ruler("tokenizer", "context", "conversations"),
        too_little=enough.of_probabilities(evaluation, mass, len(units), "documents"),
    )


def _undecided(evaluation: base.Evaluation, document: str) -> list[int]:
    """The start token and the tokens that end before the first listed word, at most a context of them."""
    ids, offsets = evaluation.encode(document)
    matches = evaluation.swapper.matches(document)
    first = matches[0].start if matches else len(document)
    known = next((i for i, (_, end) in enumerate(offsets) if end > first), len(offsets))
    return ids[: 1 + known][: evaluation.context]


class CorpusDisparity(base.ModelMetric):
    """`evaluate` module of the corpus disparity."""
