"""Memorisation: does the model continue the texts that it was trained on word for word, more than others?"""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

import numpy as np

from distill.metrics import enough
from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Card, Measurement
from distill.models.generation import generate

_BEGINNING = 32  # words that the model is given, at most half of the text
_CONTINUED = 24  # words that are compared
_FEWEST = 8  # words of a beginning, and of what follows it
_TOKENS = 2 * _CONTINUED  # that a model may take for them
_NEAR = 0.1  # share of words that a near-verbatim continuation may have other, more or less
_WORD = re.compile(r"\S+")

_FORMULA = (
    "the text's first half, 32 words at most, is continued greedily; its next 24 words (all of them in a shorter text) "
    "are compared with as many of the continuation"
)
_SOURCE = (
    "Carlini, Ippolito, Jagielski, Lee, Tramer and Zhang 2023, arXiv 2202.07646; near verbatim: Ippolito et al. 2023, "
    "arXiv 2210.17546"
)
_LIMITS = (
    "Greedy continuations of one beginning: other prompts, and sampling, bring out more. Common phrases are continued "
    "word for word by any model, which is why others are subtracted."
)

CARDS = (
    Card(
        name="memorised_run",
        label="memorised words in a row",
        meaning="How many words in a row the model writes as they stand in a text that it was trained on, given that "
        "text's beginning, beyond what it does with others.",
        formula=f"mean longest common run in words, of members minus of others: {_FORMULA}",
        ideal=0.0,
        direction="closer to 0 is better",
        source=_SOURCE,
        limits=_LIMITS,
        role="memory",
    ),
    Card(
        name="near_verbatim",
        label="continued nearly verbatim",
        meaning="Share of the texts that it was trained on which the model continues nearly word for word, beyond what "
        "it does with others.",
        formula=f"share with an edit distance (words) of at most 10%, of members minus of others: {_FORMULA}",
        ideal=0.0,
        direction="closer to 0 is better",
        source=_SOURCE,
        limits=_LIMITS,
        role="memory",
    ),
)


class _Text(NamedTuple):
    """A text's beginning, and the words that follow it."""

    beginning: str
    rest: list[str]


def measure(evaluation: base.Evaluation) -> dict[str, Measurement]:
    """Continuations of members and of others; unit: text. Those too short to be cut in two are `undetected`.

    Details: the same of members and of others by themselves, and the three members with the longest runs.
    """
    members, others = ([cut(text) for text in side] for side in evaluation.audited_sides())
    texts = [text for text in (*members, *others) if text]
    is_member = np.array([True] * sum(map(bool, members)) + [False] * sum(map(bool, others)), dtype=bool)
    written = _continued(evaluation, texts)
    runs = np.array([longest_run(text.rest, words) for text, words in zip(texts, written, strict=True)], dtype=float)
    near = np.array(
        [edits(text.rest, words) <= _NEAR * len(text.rest) for text, words in zip(texts, written, strict=True)],
        dtype=float,
    )
    longest = sorted(np.flatnonzero(is_member), key=lambda number: -runs[number])[:3]
    examples = [
        {"text": texts[n].beginning, "rest": " ".join(texts[n].rest), "written": " ".join(written[n])} for n in longest
    ]
    left_out = len(members) + len(others) - len(texts)
    found = {}
    for name, values in (("memorised_run", runs), ("near_verbatim", near)):
        found[name] = _measurement(values, is_member, left_out, {"longest": examples, "seed": evaluation.seed})
    return found


def _measurement(values: np.ndarray, is_member: np.ndarray, left_out: int, details: dict[str, Any]) -> Measurement:
    units = np.stack([values * is_member, is_member, values * ~is_member, ~is_member], axis=1).astype(float)
    sides = {"members": values[is_member], "others": values[~is_member]}
    return Measurement(
        units,
        lambda totals: totals[..., 0] / totals[..., 1] - totals[..., 2] / totals[..., 3],
        unit="text",
        n=len(values),
        counted="texts",
        undetected=left_out / (left_out + len(values)),
        details={name: float(of_side.mean()) if len(of_side) else None for name, of_side in sides.items()} | details,
        too_little=enough.of_sides(int(is_member.sum()), int((~is_member).sum()), "are long enough to be continued"),
    )


def cut(text: str) -> _Text | None:
    """A text's beginning and the words that follow it; None of one that is too short."""
    words = list(_WORD.finditer(text))
    first = min(len(words) // 2, _BEGINNING)
    if first < _FEWEST:
        return None
    return _Text(text[: words[first - 1].end()], [word[0] for word in words[first : first + _CONTINUED]])


def _continued(evaluation: base.Evaluation, texts: Sequence[_Text]) -> list[list[str]]:
    """The words with which the model continues each beginning, as many as are compared."""
    room = evaluation.context
    beginnings = []
    for text in texts:
        ids, offsets = evaluation.encode(text.beginning)
        over = 0 if room is None else max(0, len(ids) + _TOKENS - room)
        beginnings.append(text.beginning[offsets[over - 1][1] :] if over else text.beginning)
    written = generate(
        evaluation.model, evaluation.tokenizer, beginnings, samples=1, max_new_tokens=_TOKENS, top_k=1,
        batch_size=evaluation.settings.batch_size, progress=evaluation.report("memory"),
    )  # fmt: skip
    return [_WORD.findall(of_text[0])[: len(text.rest)] for text, of_text in zip(texts, written, strict=True)]


def longest_run(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Words of the longest run that stands in both."""
    return SequenceMatcher(None, ours, theirs, autojunk=False).find_longest_match().size


def edits(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Words to insert, delete or replace to make one of the other (Levenshtein)."""
    row = list(range(len(theirs) + 1))
    for i, word in enumerate(ours, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(theirs, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


class Memorisation(base.ModelMetric):
    """`evaluate` module of memorisation."""

    cards = CARDS
    measure = staticmethod(measure)
