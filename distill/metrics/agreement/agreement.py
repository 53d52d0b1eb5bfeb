"""Agreement: does a pronoun still fit the noun that says of whom it is, where a mitigation should change nothing?"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from distill.metrics import evaluation as base
from distill.metrics.benchmark_text import larger, likelihood, own_table
from distill.metrics.bootstrap import Card, Measurement, finite, ratio, undefined
from distill.metrics.winobias.winobias import FEMALE, read_pairs

_FITS = (
    "log P(the pronoun that fits and the rest of the sentence) against log P(its counterpart and the same rest), both "
    "after what stands before the pronoun, summed over tokens"
)
_OWN = "128 pairs of sentences of our own, one about a man and one about a woman in each"
_WINOBIAS = (
    "WinoBias dev sentences of type 2, each behind 'The NAME is a man.' or 'woman.', which says of whom the pronoun is"
)
_SOURCE = "this project; number agreement is asked for so by Linzen, Dupoux and Goldberg 2016, arXiv 1611.01368"
_ASKED = "Not a score of fairness: it says what a mitigation has broken. "
_LIMITS = f"{_ASKED}English, women and men only; short sentences of which each names one person."
_WINOBIAS_LIMITS = (
    f"{_ASKED}The form is ours: WinoBias asks for coreference. Occupations by United States labour statistics; a model "
    "that goes by their stereotypes instead of by what it was told keeps the pronoun in one half of the sentences."
)


def _cards(name: str, label: str, sentences: str, source: str, limits: str) -> tuple[Card, Card]:
    """Share kept and mean log ratio on the same sentences."""
    return (
        Card(
            name=f"{name}_kept",
            label=f"{label} kept",
            meaning="How often the pronoun that fits a person whose group was told is likelier than its counterpart: "
            "The king lost his crown, and not her crown. A coin keeps 0.5.",
            formula=f"share of sentences with {_FITS}, the first larger; a tie is not kept; {sentences}",
            ideal=1.0,
            direction="higher is better",
            source=source,
            limits=limits,
            side=True,
        ),
        Card(
            name=f"{name}_log_ratio",
            label=f"{label} log ratio",
            meaning="By how much the pronoun that fits is likelier than its counterpart, in nats. A coin gives 0; "
            "there is no ideal, as a language may leave a pronoun open.",
            formula=f"mean of {_FITS}, the first minus the second; {sentences}",
            ideal=None,
            direction="higher is better",
            source=source,
            limits=limits,
            side=True,
        ),
    )


CARDS = (
    *_cards("agreement", "agreement", _OWN, _SOURCE, _LIMITS),
    *_cards(
        "agreement_winobias", "WinoBias agreement", _WINOBIAS,
        f"{_SOURCE}; sentences: Zhao, Wang, Yatskar, Ordonez and Chang 2018, arXiv 1804.06876", _WINOBIAS_LIMITS,
    ),
)  # fmt: skip

GROUPS = ("male", "female")
PRONOUNS = {
    "subject": ("he", "she"),
    "object": ("him", "her"),
    "possessive": ("his", "her"),
    "reflexive": ("himself", "herself"),
}
_NOUN, _PRONOUN = "{noun}", "{pronoun}"


class Row(NamedTuple):
    """A line of the file: the pronoun's role, the noun of either group, the sentence with a place for both."""

    role: str
    male: str
    female: str
    sentence: str


def measure(evaluation: base.Evaluation) -> dict[str, Measurement | None]:
    """Whether the fitting pronoun is likelier; unit: pair of sentences about either group.

    The scores on WinoBias are left out where no benchmark data are named.

    Details: the share kept in sentences about either group, and with pronouns of each role.

    Raises:
        UserError: a file of WinoBias is malformed.
    """
    rows = read_rows()
    texts = [text for row in rows for group in (0, 1) for text in readings(row, group)]
    outcome = likelihood(evaluation, texts, "agreement")
    ratios = (outcome.total[0::2] - outcome.total[1::2]).reshape(-1, 2)
    found: dict[str, Measurement | None] = {}
    found |= _measured("agreement", evaluation, ratios, outcome.cut, [row.role for row in rows])
    if evaluation.settings.data is None:
        return found | dict.fromkeys(card.name for card in CARDS[2:])
    try:
        return found | _winobias(evaluation)
    except base.NotMeasured as reason:
        return found | {card.name: undefined(str(reason)) for card in CARDS[2:]}


def readings(row: Row, group: int) -> list[tuple[str, str]]:
    """(before the pronoun, the pronoun and all behind it) of a sentence about a group: as it fits, and as it does not.

    Args:
        row: The sentence.
        group: 0 male, 1 female.
    """
    before, after = row.sentence.replace(_NOUN, (row.male, row.female)[group]).split(_PRONOUN)
    pronouns = PRONOUNS[row.role]
    # The space goes with the word behind it, as most tokenizers have it.
    return [(before.rstrip(), f" {pronoun}{after}") for pronoun in (pronouns[group], pronouns[1 - group])]


def _winobias(evaluation: base.Evaluation) -> dict[str, Measurement]:
    pairs = read_pairs(evaluation, 2)
    texts = []
    for pair in pairs:
        for sentence, other in (pair, pair[::-1]):
            told = f"The {sentence.referent} is a {'woman' if sentence.pronoun in FEMALE else 'man'}."
            texts += [(told, f" {sentence.text}"), (told, f" {other.text}")]
    outcome = likelihood(evaluation, texts, "agreement, WinoBias")
    ratios = (outcome.total[0::2] - outcome.total[1::2]).reshape(-1, 2)
    # The first of a pair is the pro-stereotypical one, of whichever group.
    return _measured("agreement_winobias", evaluation, ratios, outcome.cut, None, ("pro", "anti"))


def _measured(
    name: str,
    evaluation: base.Evaluation,
    ratios: np.ndarray,
    cut: int,
    roles: Sequence[str] | None,
    sides: tuple[str, str] = GROUPS,
) -> dict[str, Measurement]:
    """Both scores from (pairs, 2) log ratios of the two sentences of each pair, which `sides` names."""
    kept = larger(ratios, np.zeros_like(ratios))
    shares = {side: _share(kept[:, place]) for place, side in enumerate(sides)}
    details: dict[str, Any] = {"groups" if roles else "sentences": shares}
    if roles is not None:
        details["roles"] = {role: _share(kept[np.array(roles) == role]) for role in dict.fromkeys(roles)}
    common: dict[str, Any] = {
        "unit": "pair",
        "n": ratios.size,
        "counted": "sentences",
        "undetected": float((ratios == 0).mean()) if ratios.size else None,
        "details": {**details, "texts_longer_than_context": cut, "seed": evaluation.seed},
    }
    number = np.full(len(ratios), 2.0)
    return {
        f"{name}_{score}": Measurement(np.column_stack([values.sum(axis=1), number]), ratio, **common)
        for score, values in (("kept", kept), ("log_ratio", ratios))
    }


def _share(kept: np.ndarray) -> dict[str, float | int | None]:
    return {"kept": finite(kept.mean()) if kept.size else None, "n": kept.size}


def read_rows() -> list[Row]:
    """The sentences, two a row."""
    return [Row(*cells) for cells in own_table("agreement")]


class Agreement(base.ModelMetric):
    """`evaluate` module of the agreement."""
