"""SEAT: what the model's vectors of bleached sentences ("This is John.") associate with men and with women."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distill.metrics import association
from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Measurement
from distill.metrics.features import text_features

CARDS = association.gender_cards(
    "seat",
    tuple(association.GENDER_TESTS),
    formula="WEAT's effect size, (mean over X of s - mean over Y of s) / std of s over X and Y (N - 1), with sentences "
    "in place of words; the vector of a sentence: mean of the last hidden states over its tokens",
    source="May, Wang, Bordia, Bowman and Rudinger 2019, arXiv 1903.10561; mean over tokens as in Meade et al. 2022, "
    "arXiv 2110.08527",
    limits="The sentences are made from eight words a side with a few templates: they are resampled together by word, "
    "so the interval is wide. The templates' own words pull all vectors together. May et al. themselves warn that no "
    "effect does not mean no bias.",
)
# Plurals that do not follow from the singular by its ending.
_IRREGULAR = {"man": "men", "woman": "women"}


def measure(evaluation: base.Evaluation) -> dict[str, Measurement]:
    """The effect size of every gender test; unit: target word, whose sentences are resampled together.

    Details: one-sided permutation p-values, over words and (as in May et al.) over sentences, sizes, mean associations;
    those of seat6 also hold the tests that are not about gender, under `other_tests`.
    """
    paths = {
        test: evaluation.data_file("seat", f"sent-{test}.jsonl")
        for test in (*association.GENDER_TESTS, *association.OTHER_TESTS)
    }
    tests = {test: association.read_test(path) for test, path in paths.items()}
    sentences = [sentence for test in tests.values() for examples in test.examples for sentence in examples]
    text_features(evaluation, sentences, "association tests (sentences)")
    outcomes = {
        test: _measured(evaluation, tests[test], paths[test], evaluation.data_file("seat", f"{test}.jsonl"))
        for test in tests
    }
    return association.of_family("seat", outcomes)


def _measured(
    evaluation: base.Evaluation, test: association.AssociationTest, path: Path, words_path: Path
) -> Measurement:
    vectors = [text_features(evaluation, examples, "association tests (sentences)") for examples in test.examples]
    words = association.read_test(words_path)
    number = len(words.examples[0])
    first = _words(test.examples[0], words.examples[0])
    second = [f"second {word}" for word in _words(test.examples[1], words.examples[1])]
    _, clusters = np.unique([*first, *second], return_inverse=True)
    values = association.associations(np.concatenate(vectors[:2]), *vectors[2:])
    alone = association.effect_units(values[: len(first)], values[len(first) :], np.arange(len(values)))
    details = {
        "embedding": "mean of last hidden states over the sentence's tokens",
        "file": path.name,
        "words": {"targ1": number, "targ2": len(words.examples[1])},
        "p_value_sentences": association.permutation_test(alone, evaluation.seed)["p_value"],
    }
    return association.measurement(evaluation, test, vectors, clusters, counted="target sentences", details=details)


def _words(sentences: Sequence[str], words: Sequence[str]) -> list[str]:
    """The word of the word-level test that each sentence was made from; the sentence itself where it holds none."""
    form_of = {form: word for word in words for form in _forms(word.lower())}
    form_of |= {word.lower(): word for word in words}  # "hers" is no plural of "her".
    longest_first = sorted(form_of, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)
    found = (pattern.search(sentence) for sentence in sentences)
    return [form_of[m[0].lower()] if m else sentence for m, sentence in zip(found, sentences, strict=True)]


def _forms(word: str) -> set[str]:
    """A word with its singular or plural, as far as endings tell."""
    forms = {word, f"{word}s", f"{word}es", _IRREGULAR.get(word, word)}
    if word.endswith("y"):
        forms.add(f"{word[:-1]}ies")
    if word.endswith("s"):
        forms.add(word[:-1])
    return forms


class Seat(base.ModelMetric):
    """`evaluate` module of SEAT."""
