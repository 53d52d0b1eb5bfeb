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
_TOKENS = 2 * _CONTINUED  # that a model may take for them; a multiple of it where the text itself takes more
_READ = 8  # tokens of a beginning, the start token among them, that a short context must have room for
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
    "word for word by any model, which is why others are subtracted. A continuation ends after 48 tokens, or the next "
    "multiple of 48 that the text's own words need; a short context cuts beginnings on the left, and leaves out texts "
    "whose next words it does not hold."
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
    """A text's beginning, what follows it as it stands there, and the words of that."""

    beginning: str
    following: str
    rest: list[str]


class _Asked(NamedTuple):
    """A text, the beginning that the model is given of it, and how many tokens it may write behind."""

    text: _Text
    given: str
    tokens: int


def measure(evaluation: base.Evaluation) -> dict[str, Measurement]:
    """Continuations of members and of others; unit: text.

    Those too short to be cut in two, or whose next words the context does not hold, are `undetected`. Details: the same
    of members and of others by themselves, and the three members with the longest runs.
    """
    members, others = evaluation.audited_sides()
    texts = [cut(text) for text in (*members, *others)]
    asked = [text and _asked(evaluation, text) for text in texts]
    if any(texts) and not any(asked):
        raise base.NotMeasured(
            f"the context, {evaluation.context} tokens, holds of no text the words to compare and {_READ} tokens "
            "before them; a longer one, or models that read more, would do"
        )
    is_member = np.array([number < len(members) for number, one in enumerate(asked) if one], dtype=bool)
    found = [one for one in asked if one]
    rests, written = [one.text.rest for one in found], _continued(evaluation, found)
    runs = np.array([longest_run(rest, words) for rest, words in zip(rests, written, strict=True)], dtype=float)
    near = np.array(
        [edits(rest, words) <= _NEAR * len(rest) for rest, words in zip(rests, written, strict=True)], dtype=float
    )
    longest = sorted(np.flatnonzero(is_member), key=lambda number: -runs[number])[:3]
    examples = [
        {"text": found[n].text.beginning, "rest": " ".join(rests[n]), "written": " ".join(written[n])} for n in longest
    ]
    shared: dict[str, Any] = {
        "left_out": len(texts) - len(found),
        "details": {"longest": examples, "seed": evaluation.seed},
        "ruler": evaluation.ruler("tokenizer"),
    }
    scores = {"memorised_run": runs, "near_verbatim": near}
    return {name: _measurement(values, is_member, **shared) for name, values in scores.items()}


def _measurement(
    values: np.ndarray, is_member: np.ndarray, left_out: int, details: dict[str, Any], ruler: dict[str, Any]
) -> Measurement:
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
        ruler=ruler,
        too_little=enough.of_sides(int(is_member.sum()), int((~is_member).sum()), "are long enough to be continued"),
    )


def cut(text: str) -> _Text | None:
    """A text's beginning and the words that follow it; None of one that is too short."""
    words = list(_WORD.finditer(text))
    first = min(len(words) // 2, _BEGINNING)
    if first < _FEWEST:
        return None
    end, compared = words[first - 1].end(), words[first : first + _CONTINUED]
    return _Text(text[:end], text[end : compared[-1].end()], [word[0] for word in compared])


def _asked(evaluation: base.Evaluation, text: _Text) -> _Asked | None:
    """What the model is asked about a text; None where the context does not hold it.

    Long words, and all words of some tokenizers, take more tokens than two each: who knows the text by heart must be
    able to write it to its end. In a short context the beginning loses its start.
    """
    room, needed = evaluation.context, len(evaluation.encode(text.following)[1])
    tokens = -(-needed // _TOKENS) * _TOKENS  # not each text's own number, so that many are written side by side
    if room is None:
        return _Asked(text, text.beginning, tokens)
    if needed > room - _READ:
        return None
    ids, offsets = evaluation.encode(text.beginning)
    over = max(0, len(ids) + max(needed, min(_TOKENS, room - _READ)) - room)
    return _Asked(text, text.beginning[offsets[over - 1][1] :] if over else text.beginning, tokens)


def _continued(evaluation: base.Evaluation, asked: Sequence[_Asked]) -> list[list[str]]:
    """The words with which the model continues each beginning, as many as are compared."""
    written: dict[int, list[str]] = {}
    for tokens in sorted({one.tokens for one in asked}):
        places = [place for place, one in enumerate(asked) if one.tokens == tokens]
        found = generate(
            evaluation.model, evaluation.tokenizer, [asked[place].given for place in places], samples=1,
            max_new_tokens=tokens, top_k=1, max_length=evaluation.context,
            batch_size=evaluation.settings.batch_size, progress=evaluation.report("memory"),
        )  # fmt: skip
        for place, (of_text,) in zip(places, found, strict=True):
            written[place] = _WORD.findall(of_text)[: len(asked[place].text.rest)]
    return [written[place] for place in range(len(asked))]


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
