"""Learns `pronoun_roles.npz`, the weights that tell her (determiner: his) from her (object: him) in English.

    python distill/wordlists/train_pronoun_roles.py fiction.train.jsonl.xz people.train.jsonl.xz --importance 1 3

The files are JSON lines (also .xz) with the document in the field "text"; the weights that are shipped come from 185
books of English fiction (Project Gutenberg) and the lead sections of 4,164 Wikipedia articles on people. Needs scipy;
takes a few minutes on one core, and the same files give the same weights.

1. Word classes: words that occur between the same neighbours. Counts of the neighbours at -2, -1, +1, +2 -> positive
   pointwise mutual information -> singular vectors -> k-means on the sphere, with few and with many classes.
2. Examples: every his and him, and with less weight every my and me, their and them, our and us, which tell apart the
   same two roles. "His or her" is left out: its two pronouns share a role, so the swap judges them as one.
3. Logistic regression with an L2 penalty (L-BFGS) on the hashed features of `distill.text.roles`, one intercept for
   each pair of pronouns; that of his and him is kept. The weights are rounded to 8 bits.
"""

import argparse
import json
import lzma
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy.optimize
import scipy.sparse
import scipy.sparse.linalg

from distill.text import roles

BITS = 19
NUM_WORDS = 20_000
NUM_NEIGHBOURS = 2_000
NUM_DIMENSIONS = 100
NUM_COARSE, NUM_FINE = 64, 255
PAIRS = (("his", "him"), ("my", "me"), ("their", "them"), ("our", "us"))
PAIR_WEIGHTS = (1.0, 0.2, 0.2, 0.2)
L2 = 0.5
ITERATIONS = 100

_LABELS = {word: (pair, label) for pair, words in enumerate(PAIRS) for label, word in enumerate(words)}
_PRONOUN = re.compile(rf"\b(?:{'|'.join(_LABELS)})\b", re.IGNORECASE)
_UNDECIDABLE = re.compile(r"\b(?:his|him)(?:\s+or\s+|/)hers?\b|\bhers?(?:\s+or\s+|/)(?:his|him)\b", re.IGNORECASE)


def documents(path: Path) -> Iterator[str]:
    """The texts of a file of JSON lines."""
    with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def word_classes(texts: list[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The most frequent words, and of each its coarse and its fine class; (NUM_WORDS,) uint8."""
    tokens = [[roles.normalise(token) for token in roles.TOKEN.findall(text)] for text in texts]
    counts = Counter(token for text in tokens for token in text)
    words = [word for word, _ in counts.most_common(NUM_WORDS)]
    number = {word: index for index, word in enumerate(words)}
    sequence = np.array([number.get(token, NUM_WORDS) for text in tokens for token in text], np.int32)
    by_distance = []
    for distance in (-2, -1, 1, 2):
        word, neighbour = sequence[max(0, -distance) :], sequence[max(0, distance) :]
        length = min(len(word), len(neighbour))
        word, neighbour = word[:length], neighbour[:length]
        known = (word < NUM_WORDS) & (neighbour < NUM_NEIGHBOURS)
        ones = np.ones(known.sum(), np.float32)
        shape = (len(words), NUM_NEIGHBOURS)
        by_distance.append(scipy.sparse.coo_array((ones, (word[known], neighbour[known])), shape=shape).tocsr())
    together = scipy.sparse.hstack(by_distance).tocoo()
    of_word, of_neighbour = together.sum(axis=1), together.sum(axis=0)
    row, column = together.coords
    information = np.log(together.data * together.data.sum() / (of_word[row] * of_neighbour[column]))
    matrix = scipy.sparse.coo_array((np.maximum(information, 0), (row, column)), shape=together.shape).tocsr()
    left, singular, _ = scipy.sparse.linalg.svds(matrix.astype(np.float64), k=NUM_DIMENSIONS, random_state=0)
    vectors = _unit(left * np.sqrt(singular))
    return words, _k_means(vectors, NUM_COARSE), _k_means(vectors, NUM_FINE)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-9)


def _k_means(vectors: np.ndarray, k: int, iterations: int = 25) -> np.ndarray:
    """Nearest centre by cosine; the centres start at k of the more frequent words."""
    centres = vectors[np.random.default_rng(0).choice(min(5000, len(vectors)), k, replace=False)]
    for _ in range(iterations):
        nearest = (vectors @ centres.T).argmax(axis=1)
        members = scipy.sparse.coo_array((np.ones(len(vectors)), (nearest, np.arange(len(vectors)))), (k, len(vectors)))
        sums = members.tocsr() @ vectors
        centres = np.where(np.abs(sums).sum(axis=1, keepdims=True) > 0, _unit(sums), centres)
    return nearest.astype(np.uint8)


def examples(text: str) -> Iterator[tuple[int, int, int, int]]:
    """(start, end, pair, label) of every pronoun whose role is known from its form."""
    undecidable = [match.span() for match in _UNDECIDABLE.finditer(text)]
    for match in _PRONOUN.finditer(text):
        pair, label = _LABELS[match[0].lower()]
        if any(start <= match.start() < end for start, end in undecidable):
            continue
        if match[0] not in ("US", "Us"):  # the country
            yield match.start(), match.end(), pair, label


def design_matrix(
    texts: list[str], classes: roles.WordClasses
) -> tuple[scipy.sparse.csr_array, np.ndarray, np.ndarray, np.ndarray]:
    """Features (examples, 2^BITS), and (examples,) labels, pairs, and texts' indices."""
    group_features = lru_cache(maxsize=1 << 20)(lambda group, *words: roles.group_features(classes, group, *words))
    hashes: list[int] = []
    facts: list[tuple[int, int, int]] = []
    for index, text in enumerate(texts):
        for start, end, pair, label in examples(text):
            around = roles.context(text, start, end)
            words = around.before + around.after
            hashes += roles.shape_features(around.shape)
            for group, (positions, _) in enumerate(roles.FEATURE_GROUPS):
                hashes += group_features(group, *(words[position] for position in positions))
            facts.append((label, pair, index))
    columns = (np.array(hashes, np.uint32) & ((1 << BITS) - 1)).astype(np.int32)
    width = len(hashes) // len(facts)
    rows = np.arange(0, len(hashes) + 1, width)
    matrix = scipy.sparse.csr_array((np.ones(len(columns), np.float32), columns, rows), shape=(len(facts), 1 << BITS))
    return matrix, *np.array(facts).T


def fit(matrix: scipy.sparse.csr_array, labels: np.ndarray, pairs: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Weights with the least sum(importance * logistic loss) + L2 / 2 * |weights|^2, and the intercept of his/him last.

    (examples, 2^BITS) features, (examples,) labels, pairs, importance -> (2^BITS + 1,).
    """
    size = matrix.shape[1]
    transposed = matrix.T.tocsr()
    intercepts = np.eye(len(PAIRS), dtype=np.float32)[pairs]
    sign = (2 * labels - 1).astype(np.float32)

    def loss_and_gradient(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights = parameters[:size].astype(np.float32)
        margin = sign * (matrix @ weights + intercepts @ parameters[size:].astype(np.float32))
        loss = importance @ np.logaddexp(0, -margin) + L2 / 2 * float(weights @ weights)
        slope = (-sign * importance / (1 + np.exp(margin))).astype(np.float32)
        gradient = np.concatenate([transposed @ slope + L2 * weights, slope @ intercepts])
        return float(loss), gradient.astype(np.float64)

    found = scipy.optimize.minimize(
        loss_and_gradient,
        np.zeros(size + len(PAIRS)),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": ITERATIONS, "maxcor": 8},
    )
    return found.x[: size + 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--importance", nargs="+", type=float, help="of an example of each file; default 1")
    parser.add_argument("--output", type=Path, default=roles.MODEL_FILE)
    options = parser.parse_args()
    by_file = options.importance or [1.0] * len(options.files)
    texts: list[str] = []
    text_importance: list[float] = []
    for path, importance in zip(options.files, by_file, strict=True):
        texts += documents(path)
        text_importance += [importance] * (len(texts) - len(text_importance))
    words, coarse, fine = word_classes(texts)
    print(f"{len(texts)} texts, {len(words)} words in {NUM_COARSE} and {NUM_FINE} classes")
    matrix, labels, pairs, of_text = design_matrix(texts, roles.WordClasses(words, coarse, fine))
    print(f"{matrix.shape[0]} examples of {matrix.indptr[1]} features")
    importance = (np.array(text_importance)[of_text] * np.array(PAIR_WEIGHTS)[pairs]).astype(np.float32)
    parameters = fit(matrix, labels, pairs, importance)
    scale = 127 / np.abs(parameters[:-1]).max()
    rounded = np.round(parameters * scale)
    np.savez_compressed(
        options.output,
        words=np.frombuffer(" ".join(words).encode(), np.uint8),
        coarse=coarse,
        fine=fine,
        weights=rounded[:-1].astype(np.int8),
        bias=np.int32(rounded[-1]),
    )
    right = ((matrix @ rounded[:-1].astype(np.float32) + rounded[-1] > 0) == labels)[pairs == 0]
    print(f"{right.mean():.4f} of his and him recovered in the training text; {options.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
