"""Association tests: are the targets X nearer to the attributes A, and Y to B? Shared by WEAT, SEAT and CEAT.

1. A file of a test -> targets X, Y and attributes A, B (words or sentences).
2. s(w) = mean over A of cos(w, a) - mean over B of cos(w, b), for every target w.
3. Effect size (mean over X of s - mean over Y of s) / (standard deviation of s over X and Y, N - 1 in its denominator),
   at most 2 in absolute value. It is a function of sums over targets, so that the bootstrap can resample them.
4. One-sided permutation test of mean over X > mean over Y: are the targets exchangeable between X and Y?
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from distill.base.errors import UserError
from distill.metrics.benchmark_text import read_json
from distill.metrics.bootstrap import Card, Measurement, finite
from distill.metrics.evaluation import Evaluation

PARTS = ("targ1", "targ2", "attr1", "attr2")
MAX_EXACT = 20_000  # Partitions up to which the permutation test is exact.
DRAWN = 9_999  # Partitions drawn where it is not.

# Tests on gender, by their file: name in a score, what is associated in the stereotyped (positive) direction.
GENDER_TESTS = {
    "weat6": ("6", "male names with career, female names with family"),
    "weat6b": ("6b", "male terms with career, female terms with family"),
    "weat7": ("7", "math with male terms, arts with female terms"),
    "weat7b": ("7b", "math with male names, arts with female names"),
    "weat8": ("8", "science with male terms, arts with female terms"),
    "weat8b": ("8b", "science with male names, arts with female names"),
    "heilman_double_bind_competent_one_word": (
        "_heilman_competent",
        "male names with competent, female names with incompetent",
    ),
    "heilman_double_bind_likable_one_word": (
        "_heilman_likable",
        "male names with likable, female names with unlikable",
    ),
}
# Tests on race, age, illness, and on flowers and insects, where every embedding should show an effect.
OTHER_TESTS = ("weat1", "weat2", "weat3", "weat3b", "weat4", "weat5", "weat5b", "weat9", "weat10")


@dataclass(frozen=True)
class AssociationTest:
    """One association test.

    Args:
        examples: Words or sentences of X, Y, A, B.
        categories: What these four stand for.
    """

    examples: tuple[tuple[str, ...], ...]
    categories: tuple[str, ...]


def score_name(family: str, test: str) -> str:
    """Name of a gender test's score: weat6_effect_size, seat_heilman_likable_effect_size."""
    return f"{family}{GENDER_TESTS[test][0]}_effect_size"


def gender_cards(family: str, tests: Sequence[str], *, formula: str, source: str, limits: str) -> tuple[Card, ...]:
    """The cards of a family's scores, one a test."""
    return tuple(
        Card(
            name=score_name(family, test),
            label=f"{family.upper()} {GENDER_TESTS[test][0].replace('_', ' ').strip()}",
            meaning=f"How far the model's vectors associate {GENDER_TESTS[test][1]}; negative where they associate "
            "them the other way round.",
            formula=formula,
            ideal=0.0,
            direction="closer to 0 is fairer",
            source=source,
            limits=limits,
        )
        for test in tests
    )


def read_test(path: Path) -> AssociationTest:
    """A test from its file: {"targ1": {"category": ..., "examples": [...]}, "targ2", "attr1", "attr2"}.

    Raises:
        UserError: the file is not one.
    """
    table = read_json(path, "give a test in the layout of sent-bias (May et al. 2019)")
    examples, categories = [], []
    for part in PARTS:
        entry = table.get(part) if isinstance(table, dict) else None
        entry = entry if isinstance(entry, dict) else {}
        texts = entry.get("examples")
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
            raise UserError(f"{path}: '{part}' needs 'examples', a list of words or sentences; see data/seat")
        examples.append(tuple(texts))
        categories.append(str(entry.get("category", part)))
    return AssociationTest(tuple(examples), tuple(categories))


def associations(targets: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """s of each target: mean cosine with the first attributes minus that with the second.

    Args:
        targets: (..., N, D).
        first: (..., A, D).
        second: (..., B, D).

    Returns:
        (..., N)
    """
    targets, first, second = map(_normalised, (targets, first, second))
    # The mean of the cosines is the product with the mean of the unit vectors.
    return (targets * (first.mean(axis=-2) - second.mean(axis=-2))[..., None, :]).sum(axis=-1)


def _normalised(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def effect_units(first: np.ndarray, second: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Sums over the targets of each cluster: number and sum of s in X, in Y, and sum of squares; (C, 5).

    Args:
        first: (X,) s of the targets of X.
        second: (Y,) s of those of Y.
        clusters: (X + Y,) index of each target's cluster, from 0, none left out. A cluster lies in X or in Y.
    """
    values = np.concatenate([first, second])
    values = values - values.mean()  # The effect size does not change, and its sums lose no digits.
    in_first = np.arange(len(values)) < len(first)
    columns = np.stack([in_first, in_first * values, ~in_first, ~in_first * values, values**2], axis=1)
    units = np.zeros((clusters.max() + 1, 5))
    np.add.at(units, clusters, columns)
    return units


def effect_size(totals: np.ndarray) -> np.ndarray:
    """Effect size from the totals of `effect_units`; (..., 5) -> (...)."""
    first, first_sum, second, second_sum, squares = np.moveaxis(totals, -1, 0)
    number, total = first + second, first_sum + second_sum
    variance = np.maximum(squares - total**2 / number, 0) / (number - 1)
    return (first_sum / first - second_sum / second) / np.sqrt(variance)


def permutation_test(units: np.ndarray, seed: int) -> dict[str, Any]:
    """One-sided permutation test of a higher mean s in X than in Y.

    The clusters are dealt out anew, as many to X as it had; the p-value is the share of partitions whose difference of
    means is at least the observed one (which is among them). Exact up to `MAX_EXACT` partitions; beyond that, `DRAWN`
    random ones and the observed one.

    Args:
        units: (C, 5) of `effect_units`.
        seed: Seed of the draws.

    Returns:
        `p_value`, `partitions` (looked at), `exact`.
    """
    counts, sums = units[:, 0] + units[:, 2], units[:, 1] + units[:, 3]
    in_first = units[:, 0] > 0
    size = int(in_first.sum())
    exact = math.comb(len(units), size) <= MAX_EXACT
    if exact:
        dealt = np.array(list(combinations(range(len(units)), size)), dtype=np.int64)
    else:
        drawn = np.random.default_rng(seed).random((DRAWN, len(units))).argsort(axis=1)[:, :size]
        dealt = np.concatenate([np.flatnonzero(in_first)[None], drawn])
    number, total = counts[dealt].sum(axis=1), sums[dealt].sum(axis=1)
    differences = total / number - (sums.sum() - total) / (counts.sum() - number)
    observed = sums[in_first].sum() / counts[in_first].sum() - sums[~in_first].sum() / counts[~in_first].sum()
    slack = 1e-12 * max(1e-300, float(np.abs(sums).max()))  # Equal sums in another order are equal.
    return {"p_value": float((differences >= observed - slack).mean()), "partitions": len(dealt), "exact": exact}


def measurement(
    evaluation: Evaluation,
    test: AssociationTest,
    vectors: Sequence[np.ndarray],
    clusters: np.ndarray,
    *,
    counted: str,
    details: dict[str, Any],
) -> Measurement:
    """The effect size of one test.

    Args:
        evaluation: Gives the seed.
        test: Whose categories are told.
        vectors: (X, D), (Y, D), (A, D), (B, D).
        clusters: (X + Y,) the target word that each target stands for: the unit of the bootstrap.
        counted: What the targets are: `target words`, `target sentences`.
        details: Further details.
    """
    values = associations(np.concatenate(vectors[:2]), *vectors[2:])
    first, second = values[: len(vectors[0])], values[len(vectors[0]) :]
    units = effect_units(first, second, clusters)
    return Measurement(
        units,
        effect_size,
        unit="target word",
        n=len(values),
        counted=counted,
        details={
            "categories": dict(zip(PARTS, test.categories, strict=True)),
            "sizes": dict(zip(PARTS, map(len, vectors), strict=True)),
            "mean_association": {"targ1": finite(first.mean()), "targ2": finite(second.mean())},
            **permutation_test(units, evaluation.seed),
            **details,
            "seed": evaluation.seed,
        },
    )


def of_family(family: str, outcomes: Mapping[str, Measurement]) -> dict[str, Measurement]:
    """The scores of a family by name, from all its tests; those that are not about gender go into weat6's details."""
    outcomes["weat6"].details["other_tests"] = {test: summary(outcomes[test]) for test in OTHER_TESTS}
    return {score_name(family, test): outcomes[test] for test in GENDER_TESTS}


def summary(outcome: Measurement) -> dict[str, Any]:
    """Effect size and details of a test that is no score of its own."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = finite(effect_size(outcome.units.sum(axis=0)))
    return {"effect_size": value, "n": outcome.n, **outcome.details}
