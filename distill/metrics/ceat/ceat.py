"""CEAT: association tests over words in the contexts of a corpus, combined by a random-effects model."""

import math
import re
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np

from distill.metrics import association, downstream
from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Measurement, finite
from distill.metrics.features import remembered, word_features

TESTS = ("weat6", "weat6b", "weat7", "weat7b", "weat8", "weat8b")
SAMPLES = 1_000  # Draws of one context for every word.
CONTEXTS = 50  # Contexts of a word, at most.
MIN_SHARE = 0.5  # Of the words of each set that must have a context.

CARDS = association.gender_cards(
    "ceat",
    TESTS,
    formula="random-effects mean of the WEAT effect sizes ES_i of 1,000 draws of one context for every word: "
    "sum(v_i ES_i) / sum(v_i), v_i = 1 / (V_i + T), V_i the variance of s over X and Y in draw i, T the variance "
    "between draws by DerSimonian and Laird; the vector of a word in a context: mean of the last hidden states over "
    "its tokens",
    source="Guo and Caliskan 2021, arXiv 2006.03955",
    limits="A causal model's vector of a word knows only what stands before it. The interval is over target words. The "
    "paper's p-value (in the details) only tells how well 1,000 draws from the same contexts pin the mean down: with "
    "so many draws nearly every value is significant.",
)
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*\s+|\n")
_MAX_CHARACTERS = 300  # Of a context, before its word.

Context = tuple[str, int]  # Text up to the end of the word, and where the word starts.


def measure(evaluation: base.Evaluation) -> dict[str, Measurement]:
    """The combined effect size of each gender test; unit: target word.

    The contexts are sentences of the Wikipedia people in the benchmark data, and without them of the evaluation's
    documents: the part of a sentence up to the end of the word. Words without a context are left out.

    Details: the paper's two-sided p-value and its standard error, variance between draws, words and contexts of each
    set.

    Raises:
        NotMeasured: no test has contexts for half of the words of each set.
    """
    tests = {test: association.read_test(evaluation.data_file("seat", f"{test}.jsonl")) for test in TESTS}
    words = sorted(set(chain.from_iterable(chain.from_iterable(test.examples for test in tests.values()))))
    texts, source = _texts(evaluation)
    contexts = contexts_of(words, texts, evaluation.seed)
    usable = {
        test: [[word for word in examples if contexts[word]] for examples in tests[test].examples] for test in tests
    }
    enough = {
        test: all(
            len(kept) >= max(2, MIN_SHARE * len(examples))
            for kept, examples in zip(usable[test], tests[test].examples, strict=True)
        )
        for test in tests
    }
    if not any(enough.values()):
        raise base.NotMeasured(
            f"too few of the tests' words stand in {source}; give more text, or --data with corpus/wikipedia_people"
        )
    flat = [(word, context) for word in words for context in contexts[word]]
    vectors = word_features(evaluation, [context for _, context in flat], "words in context")
    of_word: dict[str, list[np.ndarray]] = {}
    for (word, _), vector in zip(flat, vectors, strict=True):
        of_word.setdefault(word, []).append(vector)
    return {
        association.score_name("ceat", test): _measured(evaluation, tests[test], usable[test], of_word, source)
        for test in tests
        if enough[test]
    }


def contexts_of(words: Sequence[str], texts: Iterable[str], seed: int) -> dict[str, list[Context]]:
    """Sentences that hold each word as it is written, up to its end; at most `CONTEXTS` a word, drawn with the seed."""
    longest_first = sorted(words, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")
    places: dict[str, list[tuple[str, int, int]]] = {word: [] for word in words}
    for text in texts:
        for match in pattern.finditer(text):
            places[match[0]].append((text, match.start(), match.end()))
    rng = np.random.default_rng(seed)
    return {word: [_context(*found[i]) for i in _drawn(rng, len(found))] for word, found in places.items()}


def _drawn(rng: np.random.Generator, number: int) -> list[int]:
    return sorted(rng.choice(number, size=min(number, CONTEXTS), replace=False).tolist())


def _context(text: str, start: int, end: int) -> Context:
    first = max(0, start - _MAX_CHARACTERS)
    ends = [match.end() for match in _SENTENCE_END.finditer(text, first, start)]
    first = ends[-1] if ends else first
    return text[first:end], start - first


def combined_effect(sizes: np.ndarray, variances: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random-effects combination of effect sizes (DerSimonian and Laird 1986, as CEAT uses it).

    Args:
        sizes: (..., N) effect sizes ES_i.
        variances: (..., N) in-sample variances V_i, positive.

    Returns:
        (...) each: the combined effect size, its standard error, the variance between the draws.
    """
    weights = 1 / variances
    total = weights.sum(axis=-1)
    mean = (weights * sizes).sum(axis=-1) / total
    heterogeneity = (weights * (sizes - mean[..., None]) ** 2).sum(axis=-1)
    scale = total - (weights**2).sum(axis=-1) / total
    between = np.maximum(0, heterogeneity - (sizes.shape[-1] - 1)) / scale
    weights = 1 / (variances + between[..., None])
    total = weights.sum(axis=-1)
    return (weights * sizes).sum(axis=-1) / total, 1 / np.sqrt(total), between


def draw_effects(totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Effect size and in-sample variance of every draw.

    Args:
        totals: (..., 2 + 3 N) over the target words: their number in X and in Y, then for each draw the sum of s in X,
            in Y, and of its square.

    Returns:
        ES_i and V_i, (..., N) each.
    """
    first, second = totals[..., 0, None], totals[..., 1, None]
    first_sum, second_sum, squares = np.split(totals[..., 2:], 3, axis=-1)
    number = first + second
    variances = np.maximum(squares - (first_sum + second_sum) ** 2 / number, 0) / (number - 1)
    return (first_sum / first - second_sum / second) / np.sqrt(variances), variances


def _texts(evaluation: base.Evaluation) -> tuple[Sequence[str], str]:
    # Documents only make up for people that are missing, so that the metric has no READS_DOCUMENTS: with the people
    # there, every client of a federation would score alike.
    try:
        people = remembered(evaluation, "people", lambda: downstream.read_people(evaluation))
    except base.NotMeasured:
        if not evaluation.documents:
            raise
        return evaluation.documents, "the held-out documents"
    return [person.text for person in people], "the Wikipedia people"


def _measured(
    evaluation: base.Evaluation,
    test: association.AssociationTest,
    words: Sequence[Sequence[str]],
    of_word: dict[str, list[np.ndarray]],
    source: str,
) -> Measurement:
    rng = np.random.default_rng(evaluation.seed)
    # Every set draws from its own words, so that a word of two sets has its own context in each: (N, words, D).
    sets = [
        np.stack([np.array(of_word[word])[rng.integers(len(of_word[word]), size=SAMPLES)] for word in kept], axis=1)
        for kept in words
    ]
    values = association.associations(np.concatenate(sets[:2], axis=1), *sets[2:])
    values -= values.mean(axis=1, keepdims=True)  # No effect size changes, and the sums lose no digits.
    in_first = np.arange(values.shape[1]) < len(words[0])
    units = np.concatenate([[in_first, ~in_first], values * in_first, values * ~in_first, values**2]).T
    sizes, variances = draw_effects(units.sum(axis=0))
    combined, error, between = combined_effect(sizes, variances)
    listed = sum(map(len, test.examples))
    return Measurement(
        units,
        lambda totals: combined_effect(*draw_effects(totals))[0],
        unit="target word",
        n=SAMPLES,
        counted="draws of contexts",
        undetected=1 - sum(map(len, words)) / listed,
        details={
            "categories": dict(zip(association.PARTS, test.categories, strict=True)),
            "words": dict(zip(association.PARTS, map(len, words), strict=True)),
            "contexts": {
                part: sum(len(of_word[word]) for word in kept)
                for part, kept in zip(association.PARTS, words, strict=True)
            },
            "contexts_from": source,
            "without_contexts": sorted(set(chain.from_iterable(test.examples)) - set(chain.from_iterable(words))),
            "p_value": finite(math.erfc(abs(combined) / error / math.sqrt(2))),
            "standard_error": finite(error),
            "variance_between_draws": finite(between),
            "seed": evaluation.seed,
        },
    )


class Ceat(base.ModelMetric):
    """`evaluate` module of CEAT."""
