"""Documents -> the documents of each client: how the text of a study is shared out.

Real clients have their text already; here a corpus is dealt to them so that they differ as much as is asked for. Shares
are drawn from a Dirichlet distribution (Hsu, Qi and Brown 2019; Lin et al. 2022), once over all documents, or for each
label or cluster of them. Each document goes to exactly one client.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from distill.base.errors import UserError
from distill.metrics.polarity import polarity
from distill.recipe import PartitionConfig
from distill.text.counterfactual import Swapper
from distill.text.documents import label_of

_WORD = re.compile(r"[^\W\d_]+")
_WORDS = 1000  # the most frequent words, by which documents are alike
_ITERATIONS = 25
_LEAST_ALPHA = 1e-300  # below, NumPy's draw runs out of digits and prefers the first clients; one takes all either way


def partition(
    documents: Sequence[str], config: PartitionConfig, clients: int, seed: int, swapper: Swapper
) -> list[np.ndarray]:
    """The numbers of each client's documents, in the order of the corpus.

    Args:
        documents: N documents.
        config: The rule.
        clients: How many clients there are; some may get nothing.
        seed: Decides the shares and who gets what.
        swapper: Of the word list, for the groups of documents.

    Raises:
        UserError: documents shall be told apart by `corpus.label`, and have none.
    """
    rng = np.random.default_rng([seed, 1])
    if config.by == "quantity":
        kinds = np.zeros(len(documents), dtype=int)
    elif config.by == "cluster":
        kinds = clusters(documents, config.clusters, rng)
    else:
        labels = _labels(documents, config.label, swapper)
        kinds = np.unique(np.array(labels), return_inverse=True)[1]
    shares: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for kind in range(kinds.max(initial=-1) + 1):
        members = rng.permutation(np.flatnonzero(kinds == kind))
        parts = np.split(members, _cuts(len(members), clients, config.alpha, rng))
        for share, part in zip(shares, parts, strict=True):
            share.append(part)
    return [np.sort(np.concatenate(share)) for share in shares]


def periods(documents: np.ndarray, number: int) -> list[np.ndarray]:
    """A client's documents, cut into so many consecutive parts of nearly the same size."""
    return np.array_split(documents, number)


def _cuts(number: int, clients: int, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """(clients - 1,) where so many documents are cut: sizes have their share as their mean, and are whole numbers."""
    edges = np.cumsum(rng.dirichlet(np.full(clients, max(alpha, _LEAST_ALPHA))))[:-1].clip(0, 1)
    return np.floor(edges * number + rng.random()).astype(int)


def _labels(documents: Sequence[str], which: str, swapper: Swapper) -> list[Any]:
    if which == "group":
        return [group_of(document, swapper) for document in documents]
    labels = [label_of(document) for document in documents]
    if all(label is None for label in labels):
        raise UserError(
            "federation.partition.label is corpus, but the documents have no label; name a column in corpus.label, or "
            "set it to file"
        )
    return [label or "" for label in labels]  # the canaries of an audit have none


def group_of(document: str, swapper: Swapper) -> int:
    """The group to which most of a document's listed words belong; `NEUTRAL` without any, `TIE` where two lead."""
    counts = [0] * swapper.wordlist.num_groups
    for match in swapper.matches(document):
        counts[match.group] += 1
    return polarity(counts)


# ---------------------------------------------------------------------------------------------------------- clusters


def clusters(documents: Sequence[str], number: int, rng: np.random.Generator) -> np.ndarray:
    """(N,) the cluster of each document: spherical k-means (Dhillon and Modha 2001) over its weighted words.

    Args:
        documents: N documents.
        number: How many clusters there are at most.
        rng: Draws the first centres, far from one another (k-means++, Arthur and Vassilvitskii 2007).
    """
    features = word_features(documents)
    centres = features[[rng.integers(len(features))]]
    while len(centres) < min(number, len(features)):
        far = (1 - (features @ centres.T).max(axis=1)).clip(0)
        if far.sum() <= 1e-9 * len(far):  # all that differ are centres
            break
        centres = np.vstack([centres, features[rng.choice(len(features), p=far / far.sum())]])
    nearest = (features @ centres.T).argmax(axis=1)
    for _ in range(_ITERATIONS):
        sums = np.stack([features[nearest == k].sum(axis=0) for k in range(len(centres))])
        centres = sums / np.linalg.norm(sums, axis=1, keepdims=True).clip(1e-12)
        before, nearest = nearest, (features @ centres.T).argmax(axis=1)
        if (before == nearest).all():
            break
    return nearest


def word_features(documents: Sequence[str]) -> np.ndarray:
    """(N, W) rows of length 1: 1 + log of a word's count, weighted by how few documents hold it (tf-idf)."""
    counts = [Counter(word.lower() for word in _WORD.findall(document)) for document in documents]
    held_by = Counter(word for count in counts for word in count)
    column = {word: i for i, word in enumerate(sorted(held_by, key=lambda word: (-held_by[word], word))[:_WORDS])}
    features = np.zeros((len(documents), len(column) + 1))
    features[:, -1] = 1e-6  # a document of no known word has a direction too
    for row, count in zip(features, counts, strict=True):
        for word, times in count.items():
            if word in column:
                row[column[word]] = (1 + np.log(times)) * np.log((1 + len(documents)) / held_by[word])
    return features / np.linalg.norm(features, axis=1, keepdims=True)
