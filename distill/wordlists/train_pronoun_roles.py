"""Learns `pronoun_roles.npz`, the weights that tell the roles of English her and his.

Two questions: her (determiner: his) from her (object: him), and his (determiner: her) from his (pronoun: hers).

    python distill/wordlists/train_pronoun_roles.py fiction.train.jsonl.xz people.train.jsonl.xz --importance 1 3

The files are JSON lines (also .xz) with the document in the field "text"; the weights that are shipped come from 185
books of English fiction (Project Gutenberg) and the lead sections of 4,164 Wikipedia articles on people. Needs scipy;
takes a few minutes on one core, and the same files give the same weights.

1. Word classes: words that occur between the same neighbours. Counts of the neighbours at -2, -1, +1, +2 -> positive
   pointwise mutual information -> singular vectors -> k-means on the sphere, with few and with many classes.
2. Examples: every his and him, and with less weight every my and me, their and them, our and us, which tell apart the
   same two roles; for the second question my and mine, your and yours, their and theirs, our and ours. "His or her" is
   left out: its two pronouns share a role, so the swap judges them as one.
3. More examples, made from these, of what books and encyclopaedias do not have: messages in lower case without
   punctuation, sentences that end in nothing, a face, a tag or "lol", figures (`as_messages`, `with_endings`,
   `with_figures`).
4. Logistic regression with an L2 penalty (L-BFGS) on the hashed features of `distill.text.roles`, one intercept for
   each pair of pronouns; that of his and him is kept, and the mean for the second question. The weights are rounded to
   8 bits.
"""

import argparse
import random
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy.optimize
import scipy.sparse
import scipy.sparse.linalg

from distill.base.row_files import whole_rows
from distill.text import roles

BITS = 19
NUM_WORDS = 20_000
NUM_NEIGHBOURS = 2_000
NUM_DIMENSIONS = 100
NUM_COARSE, NUM_FINE = 64, 255
PAIRS = (("his", "him"), ("my", "me"), ("their", "them"), ("our", "us"))
PAIR_WEIGHTS = (1.0, 0.2, 0.2, 0.2)
ALONE_BITS = 17
ALONE_PAIRS = (("my", "mine"), ("your", "yours"), ("their", "theirs"), ("our", "ours"))
# Of a document's paragraphs, the share that is seen once more in each of the ways of other text.
AUGMENTED = 0.25
MADE_WEIGHT = 0.35
# What an object needs beyond even odds, in units of the rounded weights. The examples without possessives that stand
# alone make objects likelier than they are.
MARGIN = 6
L2 = 0.5
ITERATIONS = 100

_UNDECIDABLE = re.compile(r"\b(?:his|him)(?:\s+or\s+|/)hers?\b|\bhers?(?:\s+or\s+|/)(?:his|him)\b", re.IGNORECASE)
_A_MINE = re.compile(r"\b(?:an?|the|this|that|old|gold|silver|coal|copper|iron|salt|lead|tin|s)\s+$", re.IGNORECASE)


def documents(path: Path) -> Iterator[str]:
    """The texts of a file of JSON lines, or of GAP (.tsv)."""
    if path.suffix == ".tsv":
        yield from (row.split("\t")[1] for row in path.read_text(encoding="utf-8").splitlines()[1:])
        return
    yield from (row["text"] for _, row in whole_rows(path, None))


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


Example = tuple[int, int, int, int]


def examples(text: str, pairs: Sequence[tuple[str, str]] = PAIRS) -> Iterator[Example]:
    """(start, end, pair, label) of every pronoun whose role is known from its form."""
    labels, pattern = _labels(pairs)
    undecidable = [match.span() for match in _UNDECIDABLE.finditer(text)]
    for match in pattern.finditer(text):
        pair, label = labels[match[0].lower()]
        if any(start <= match.start() < end for start, end in undecidable):
            continue
        if match[0].lower() == "mine" and _A_MINE.search(text, max(0, match.start() - 12), match.start()):
            continue  # of coal
        if match[0] not in ("US", "Us"):  # the country
            yield match.start(), match.end(), pair, label


@lru_cache
def _labels(pairs: Sequence[tuple[str, str]]) -> tuple[dict[str, tuple[int, int]], re.Pattern[str]]:
    labels = {word: (pair, label) for pair, words in enumerate(pairs) for label, word in enumerate(words)}
    return labels, re.compile(rf"\b(?:{'|'.join(labels)})\b", re.IGNORECASE)


_ALONE = re.compile(r"[.,;:!?)]")

# ------------------------------------------------------------------------------------------------ text of other kinds

_PUNCTUATION = re.compile(r"--|[.,;:!?\"“”()_*—]")
_SENTENCE_END = re.compile(r"(?<=[a-z])[.!?]+[\"”’]?(?=\s|$)")
_ENDINGS = ("", "", "", " 😀", " ❤️❤️", "<br />", "<br>", "</p>", "\n", " lol", " rn", " tbh", " :)", " tho", "...", " #")
_LATER = (
    " today",
    " tomorrow",
    " tonight",
    " yesterday",
    " anymore",
    " again",
    " forever",
    " either",
    " already",
    " rn",
)
_NUMBERS = frozenset(
    ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve", "twenty", "fifty", "hundred"]
)
_ARTICLES = frozenset(["a", "an", "the", "some", "any", "no"])
_OBJECTS = frozenset(["him", "me", "them", "us"])
_BEFORE_A_NOUN = re.compile(
    r"\b(his|him|my|me|their|them|our|us|your) (?:(" + "|".join((*_NUMBERS, *_ARTICLES)) + r") )?(?=[a-z]{3})",
    re.IGNORECASE,
)
_OBJECT_AT_END = re.compile(r"\b(?:him|me|them|us|mine|yours|theirs|ours)(?=[.!?;]|,? (?:and|but|because|when|so)\b)")


def as_messages(paragraph: str, rng: random.Random) -> str:
    """Lower case without punctuation; between sentences nothing, or what people write instead."""
    text = _SENTENCE_END.sub(lambda _: rng.choice(_ENDINGS), paragraph)
    return _PUNCTUATION.sub("", text.replace("--", " ")).lower()


def with_endings(paragraph: str, rng: random.Random) -> str:
    """Every part that ends in an object, or in mine, up to there, with something else behind, one a document."""
    parts, position = [], 0
    for match in _OBJECT_AT_END.finditer(paragraph):
        part = paragraph[max(position, match.start() - 80) : match.end()]
        later = rng.choice(_LATER) if rng.random() < 0.2 else ""
        part += later + rng.choice(_ENDINGS)
        parts.append(part.lower() if rng.random() < 0.5 else part)
        position = match.end()
    return "\n\n".join(parts)


def with_figures(paragraph: str, rng: random.Random) -> str:
    """In place of a number, an article or nothing behind a pronoun, figures, years and ordinals."""
    found = []
    for match in _BEFORE_A_NOUN.finditer(paragraph):
        word, number = match[1].lower(), match[2]
        if number in _NUMBERS:
            figure = f"{rng.choice(('', '', '$', '£'))}{rng.choice((2, 10, 100, 1000))} "
        elif number in _ARTICLES:
            if word not in _OBJECTS or rng.random() > 0.15:
                continue
            figure = f"{rng.choice(('', '', '$', '£'))}{rng.choice((2, 10, 100, 1000))} "
        else:
            if word in _OBJECTS or rng.random() > 0.02:
                continue
            figure = rng.choice(("3rd ", "30th ", "1984 ", "2014 ", "100 "))
        found.append(
            paragraph[max(0, match.start() - 40) : match.end(1)] + " " + figure + paragraph[match.end() :][:40]
        )
    return "\n\n".join(found)


_GIVE = [
    "wish",
    "wished",
    "wishing",
    "give",
    "gave",
    "giving",
    "offered",
    "sent",
    "lent",
    "owes",
    "owed",
    "paid",
    "showed",
    "taught",
    "brought",
    "bought",
    "granted",
    "promised",
    "handed",
    "asked",
    "denied",
    "tell",
    "told",
    "cost",
    "caused",
]
_GIVEN = [
    "luck",
    "joy",
    "happiness",
    "success",
    "well",
    "hell",
    "permission",
    "access",
    "support",
    "advice",
    "credit",
    "trouble",
    "pleasure",
    "flowers",
    "chocolates",
    "lessons",
    "french",
    "english",
    "poems",
    "stories",
    "lies",
    "questions",
    "millions",
    "food",
    "water",
    "shelter",
    "asylum",
    "immunity",
    "money",
    "hope",
    "courage",
    "strength",
    "time",
]


_PAY = [
    "charged",
    "charge",
    "charges",
    "cost",
    "costs",
    "paid",
    "pays",
    "pay",
    "owed",
    "owes",
    "owe",
    "fined",
    "fine",
    "lent",
    "sent",
    "gave",
    "gives",
    "offered",
    "bet",
    "handed",
    "tipped",
    "saved",
    "loaned",
    "earned",
    "netted",
]
_SUMS = ("1000 dollars", "50 dollars", "20 euros", "10 bucks", "100 pounds", "$5", "£100 .", "$2000 for it", "5 years")


def gifts(rng: random.Random) -> str:
    """What books hardly have: wished him luck."""
    who = ("he", "they", "we", "i", "she")
    pairs = [(verb, noun) for verb in _GIVE for noun in _GIVEN] + [(verb, sum_) for verb in _PAY for sum_ in _SUMS]
    return "\n\n".join(f"{rng.choice(who)} {verb} {rng.choice(('him', 'them', 'me'))} {noun}" for verb, noun in pairs)


def augmented(text: str, rng: random.Random) -> Iterator[str]:
    """A document, and what of it is seen again as text of other kinds."""
    yield text
    paragraphs = text.split("\n")
    yield "\n".join(as_messages(p, rng) for p in paragraphs if rng.random() < AUGMENTED)
    yield "\n\n".join(with_endings(p, rng) for p in paragraphs if rng.random() < AUGMENTED)
    yield "\n\n".join(with_figures(p, rng) for p in paragraphs)


# ------------------------------------------------------------------------------------------------------------ learning


def design_matrix(
    texts: list[str], classes: roles.WordClasses, pairs: Sequence[tuple[str, str]], bits: int
) -> tuple[scipy.sparse.csr_array, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features (examples, 2^bits), and (examples,) labels, pairs, texts' indices, and whether the text was made."""
    group_features = lru_cache(maxsize=1 << 20)(lambda group, *words: roles.group_features(classes, group, *words))
    hashes = array("I")
    facts: list[tuple[int, int, int, int]] = []
    rng = random.Random(0)
    for index, text in enumerate(texts):
        for made, view in enumerate(augmented(text, rng)):
            for start, end, pair, label in examples(view, pairs):
                if pairs is PAIRS and label == 0 and _ALONE.match(view, end):
                    continue  # "a friend of his," is no example of a determiner
                around = roles.context(view, start, end)
                words = around.before + around.after
                hashes.extend(roles.shape_features(around.shape))
                for group, (positions, _) in enumerate(roles.FEATURE_GROUPS):
                    hashes.extend(group_features(group, *(words[position] for position in positions)))
                facts.append((label, pair, index, made > 0))
    columns = (np.frombuffer(hashes, np.uint32) & ((1 << bits) - 1)).astype(np.int32)
    width = len(hashes) // len(facts)
    rows = np.arange(0, len(hashes) + 1, width)
    matrix = scipy.sparse.csr_array((np.ones(len(columns), np.float32), columns, rows), shape=(len(facts), 1 << bits))
    return matrix, *np.array(facts).T


def fit(matrix: scipy.sparse.csr_array, labels: np.ndarray, pairs: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Weights with the least sum(importance * logistic loss) + L2 / 2 * |weights|^2, and the pairs' intercepts last.

    (examples, 2^bits) features, (examples,) labels, pairs, importance -> (2^bits + number of pairs,).
    """
    size = matrix.shape[1]
    transposed = matrix.T.tocsr()
    num_pairs = int(pairs.max()) + 1
    intercepts = np.eye(num_pairs, dtype=np.float32)[pairs]
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
        np.zeros(size + num_pairs),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": ITERATIONS, "maxcor": 8},
    )
    return found.x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--importance", nargs="+", type=float, help="of an example of each file; default 1")
    parser.add_argument("--output", type=Path, default=roles.MODEL_FILE)
    parser.add_argument("--half", action="store_true", help="of GAP, every other text, to be tested on the rest")
    options = parser.parse_args()
    by_file = options.importance or [1.0] * len(options.files)
    texts: list[str] = [gifts(random.Random(0))]
    text_importance: list[float] = [1.0]
    for path, importance in zip(options.files, by_file, strict=True):
        of_file = list(documents(path))
        texts += of_file[::2] if options.half and path.suffix == ".tsv" else of_file
        text_importance += [importance] * (len(texts) - len(text_importance))
    words, coarse, fine = word_classes(texts)
    print(f"{len(texts)} texts, {len(words)} words in {NUM_COARSE} and {NUM_FINE} classes")
    classes = roles.WordClasses(words, coarse, fine)
    importance = np.array(text_importance)
    weights, bias = learnt(texts, importance, classes, PAIRS, PAIR_WEIGHTS, BITS)
    alone_weights, alone_bias = learnt(texts, importance, classes, ALONE_PAIRS, (1.0,) * len(ALONE_PAIRS), ALONE_BITS)
    np.savez_compressed(
        options.output,
        words=np.frombuffer(" ".join(words).encode(), np.uint8),
        coarse=coarse,
        fine=fine,
        weights=weights,
        bias=bias,
        alone_weights=alone_weights,
        alone_bias=alone_bias,
    )
    print(f"{options.output.stat().st_size:,} bytes")


def learnt(
    texts: list[str],
    text_importance: np.ndarray,
    classes: roles.WordClasses,
    word_pairs: Sequence[tuple[str, str]],
    pair_weights: Sequence[float],
    bits: int,
) -> tuple[np.ndarray, np.int32]:
    """Rounded weights (2^bits,) int8 and the bias in their units: that of his and him, else the mean of the pairs."""
    matrix, labels, pairs, of_text, made = design_matrix(texts, classes, word_pairs, bits)
    print(f"{'/'.join(word_pairs[0])} ...: {matrix.shape[0]} examples of {matrix.indptr[1]} features", flush=True)
    importance = (text_importance[of_text] * np.array(pair_weights)[pairs] * np.where(made, MADE_WEIGHT, 1)).astype(
        np.float32
    )
    parameters = fit(matrix, labels, pairs, importance)
    size = matrix.shape[1]
    bias = parameters[size] if word_pairs is PAIRS else parameters[size:].mean()
    scale = 127 / np.abs(parameters[:size]).max()
    weights = np.round(parameters[:size] * scale)
    scores = matrix @ weights.astype(np.float32) + np.round(bias * scale)
    right = ((scores > 0) == labels)[pairs == 0].mean()
    print(f"{right:.4f} of {' and '.join(word_pairs[0])} recovered in the training text", flush=True)
    margin = MARGIN if word_pairs is PAIRS else 0
    return weights.astype(np.int8), np.int32(np.round(bias * scale) - margin)


if __name__ == "__main__":
    main()
