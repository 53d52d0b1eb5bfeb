"""Training text -> the same with canaries in it and some documents left out, to measure what a student remembers.

1. Of the corpus' different documents, twice `audit.members` are drawn. A random half of them stays: the members. The
   others are left out, with every copy of them. So the two are alike but for that.
2. A pool of canaries is drawn, and a random half of it put among the documents, each as often as its `repeats` say.
3. Members, others and canaries are written to the run's `audit/`, where scores read them.
"""

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from distill.base.errors import UserError
from distill.base.files import write_text
from distill.data.canaries import Canary, draw_canaries, write_canaries
from distill.data.corpus import Corpus
from distill.data.overlap import digest
from distill.recipe import AuditConfig, ScoreConfig
from distill.text.conversations import Conversation, Messages

FOLDER = "audit"


def with_audit(corpus: Corpus, audit: AuditConfig, seed: int, folder: Path) -> Corpus:
    """The corpus as it is trained on when it is audited; writes what was drawn to `audit/` in the run's folder.

    Args:
        corpus: The training text.
        audit: What to draw; nothing gives the corpus back.
        seed: Decides what is drawn, and where canaries stand.
        folder: Of the run.

    Raises:
        UserError: it holds too few different documents, or conversations.
    """
    if not (audit.members or audit.canaries):
        return corpus
    members, others, documents = _drawn(corpus, audit, seed)
    left_out = frozenset(map(digest, others))
    canaries = draw_canaries(audit.canaries, audit.repeats, seed)
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    for name, texts in (("members", members), ("others", others)):
        lines = (json.dumps({"text": text}) + "\n" for text in texts)
        write_text(place / f"{name}.jsonl", "".join(lines))
    write_canaries(canaries, place / "canaries.jsonl")
    drawn = {name: value for name, value in asdict(audit).items() if name != "scored"}
    key = hashlib.sha256(json.dumps([corpus.key, drawn, seed]).encode()).hexdigest()[:32]
    return Corpus(key, partial(_trained_on, corpus, left_out, _places(canaries, documents, seed)))


def _drawn(corpus: Corpus, audit: AuditConfig, seed: int) -> tuple[list[str], list[str], int]:
    """Members, others, and how many documents there are."""
    first_of: dict[bytes, int] = {}
    documents = 0
    for documents, document in enumerate(corpus.documents(), start=1):
        if isinstance(document, Messages | Conversation):
            raise UserError("audit watches texts, but the corpus holds conversations; leave audit out")
        first_of.setdefault(digest(document), documents - 1)
    if audit.members and 2 * audit.members >= len(first_of):
        raise UserError(
            f"audit.members is {audit.members}, and as many documents are left out, but the corpus holds "
            f"{len(first_of)} different documents; lower it below {(len(first_of) + 1) // 2}, or take more text"
        )
    rng = random.Random(seed)
    pool = rng.sample(sorted(first_of.values()), 2 * audit.members)
    members, others = set(pool[: audit.members]), set(pool[audit.members :])
    texts: dict[bool, list[str]] = {True: [], False: []}
    for number, document in enumerate(corpus.documents()):
        if number in members or number in others:
            texts[number in members].append(str(document))
    return texts[True], texts[False], documents


def _places(canaries: Iterable[Canary], documents: int, seed: int) -> dict[int, list[str]]:
    """Number of a document -> the canaries that come before it."""
    rng = random.Random(seed)
    places = defaultdict(list)
    for canary in canaries:
        for _ in range(canary.repeats):
            places[rng.randrange(documents)].append(canary.text)
    return dict(places)


def _trained_on(corpus: Corpus, left_out: frozenset[bytes], canaries: Mapping[int, list[str]]) -> Iterator[str]:
    for number, document in enumerate(corpus.documents()):
        yield from canaries.get(number, ())
        if digest(document) not in left_out:
            yield document


def run_scores(scores: ScoreConfig, audit: AuditConfig, folder: Path) -> ScoreConfig:
    """The scores of an audited run: they read what `with_audit` wrote, unless that is measured elsewhere."""
    if not audit.scored:
        return scores
    asked = {"members": audit.members, "others": audit.members, "canaries": audit.canaries}
    files: dict[str, Any] = {name: str(folder / FOLDER / f"{name}.jsonl") for name, number in asked.items() if number}
    return replace(scores, **files)
