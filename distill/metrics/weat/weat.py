"""WEAT: what the model's vectors of single words associate with men and with women."""

from pathlib import Path

import numpy as np

from distill.metrics import association
from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Measurement
from distill.metrics.features import text_features

CARDS = association.gender_cards(
    "weat",
    tuple(association.GENDER_TESTS),
    formula="(mean over X of s - mean over Y of s) / std of s over X and Y (N - 1), s(w) = mean over A of cos(w, a) - "
    "mean over B of cos(w, b); the vector of a word: mean of the last hidden states over its tokens, the word standing "
    "behind the start token with a space in front, as in running text",
    source="Caliskan, Bryson and Narayanan 2017, arXiv 1608.07187; word lists as in May et al. 2019, arXiv 1903.10561",
    limits="A word alone is a rare input for a language model. Eight words a side: the interval (over target words) is "
    "wide, and |effect size| is below 2 whatever the vectors. Low bias here need not mean low bias in what the model "
    "writes or in a classifier on it.",
)


def measure(evaluation: base.Evaluation) -> dict[str, Measurement]:
    """The effect size of every gender test; unit: target word.

    Details: one-sided permutation p-value, sizes, mean associations; those of weat6 also hold the tests that are not
    about gender, under `other_tests`.
    """
    paths = {
        test: evaluation.data_file("seat", f"{test}.jsonl")
        for test in (*association.GENDER_TESTS, *association.OTHER_TESTS)
    }
    tests = {test: association.read_test(path) for test, path in paths.items()}
    words = [f" {word}" for test in tests.values() for examples in test.examples for word in examples]
    text_features(evaluation, words, "association tests (words)")
    outcomes = {test: _measured(evaluation, tests[test], paths[test]) for test in tests}
    return association.of_family("weat", outcomes)


def _measured(evaluation: base.Evaluation, test: association.AssociationTest, path: Path) -> Measurement:
    vectors = [
        text_features(evaluation, [f" {word}" for word in examples], "association tests (words)")
        for examples in test.examples
    ]
    clusters = np.arange(len(vectors[0]) + len(vectors[1]))
    details = {"embedding": "mean of last hidden states over the word's tokens", "file": path.name}
    return association.measurement(evaluation, test, vectors, clusters, counted="target words", details=details)


class Weat(base.ModelMetric):
    """`evaluate` module of WEAT."""
