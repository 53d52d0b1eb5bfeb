"""A word with several counterparts and the text around it -> its role in the sentence (her book: his; saw her: him).

English only, deterministic and offline.

- her, determiner or object: a log-linear model over the words around it. `wordlists/train_pronoun_roles.py` learns it
  from text in which the answer is known (his and him, my and me ...) and writes `wordlists/pronoun_roles.npz`.
- his, determiner or pronoun: by the word that follows.
- lady, title or not: by the word that follows.
"""

import hashlib
import io
import re
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from distill.base.files import PACKAGE

_RULE_VERSION = "2"  # raise it whenever the same weights may give other roles
MODEL_FILE = PACKAGE / "wordlists" / "pronoun_roles.npz"


class Ambiguity(NamedTuple):
    """A listed word in a text, and the roles that tell its counterparts apart; start and end in characters."""

    start: int
    end: int
    roles: tuple[str, ...]


class Resolver(Protocol):
    """Chooses a role for every ambiguous word of a text; the role "" holds where no other does.

    A resolver may judge a text's ambiguities together; `version` enters the key of every cache of counterfactuals.
    """

    @property
    def version(self) -> str:
        """Another one whenever the choices are others."""
        ...

    def __call__(self, text: str, ambiguities: Sequence[Ambiguity]) -> Sequence[int]:
        """For every ambiguity the index of the chosen role in its `roles`."""
        ...


_BEFORE_NAME = re.compile(r"\.?[^\S\n]+(?:(?:da|de|des|di|du|la|le|of|van|von)[^\S\n]+)*\w")


def is_title(text: str, start: int, end: int) -> bool:
    """Whether the word [start, end) is capitalised before a name (Lady Anne, Mr. de Winter) or follows my (my lady)."""
    if text[start].isupper():
        name = _BEFORE_NAME.match(text, end)
        if name and text[name.end() - 1].isupper():
            return True
    return text[max(0, start - 3) : start].lower() == "my " and not (start > 3 and text[start - 4].isalnum())


class Word(NamedTuple):
    """A word or punctuation mark near the pronoun, as the model sees it.

    coarse, fine: classes of words that occur in like places, named by their numbers; words that are rare have their
        ending instead.
    """

    text: str
    coarse: str
    fine: str


class Context(NamedTuple):
    """The words before and after a pronoun, nearest first.

    shape: whether the pronoun is capitalised, what separates it from the next word, whether the two next words are.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    shape: str


# Words, punctuation marks, and the end of a paragraph (a line break that no lower-case letter follows).
_TOKEN = r"\w+(?:['’]\w+)*|\n(?!\s*[a-z])|[^\w\s]"
TOKEN = re.compile(_TOKEN)
WORDS_BEFORE, WORDS_AFTER = 2, 3
_NEXT_TOKENS = re.compile(rf"(?:\s*?({_TOKEN}))?" * WORDS_AFTER)
# The characters searched for these words; most often the nearer ones are enough.
_REACH = 64
_NEAR = 24
# Pronouns that the counterfactual makes of each other look alike to the model, as they do when it is trained.
_ALIKE = {"she": "he", "his": "her", "him": "her", "hers": "her", "herself": "himself"}
_ALIKE |= {f"she'{suffix}": f"he'{suffix}" for suffix in ("s", "d", "ll")}
_COORDINATED_AFTER = re.compile(r"(?:\s+or\s+|/)(?:his|hers?|him)\b", re.IGNORECASE)
_COORDINATED_BEFORE = re.compile(r"\b(?:his|hers?|him)(?:\s+or\s+|/)$", re.IGNORECASE)


@lru_cache(maxsize=1 << 16)
def normalise(token: str) -> str:
    """Lower case, straight apostrophes, one number for all, one pronoun for both genders."""
    if token[0].isdigit():
        return "0"
    token = token.lower().replace("’", "'")
    return _ALIKE.get(token, token)


def context(text: str, start: int, end: int) -> Context:
    """What the model knows about the pronoun [start, end)."""
    next_tokens = _NEXT_TOKENS.match(text, end, end + _REACH)
    assert next_tokens is not None  # it matches nothing, too
    after = next_tokens.groups()
    # The search takes in the pronoun's first letter, so that a line break before it is judged by what follows.
    before = TOKEN.findall(text, max(0, start - _NEAR), start + 1)
    if len(before) < WORDS_BEFORE + 2:  # the first may be a part of a word
        before = TOKEN.findall(text, max(0, start - _REACH), start + 1)
    gap = text[end : end + 1]
    shape = ("U" if text[start].isupper() else "l") + ("_" if gap.isspace() else "-" if gap == "-" else ".")
    for word in after[:2]:
        if word:
            shape += "U" if word[0].isupper() else "l"
    before = [normalise(word) for word in before[-2 : -2 - WORDS_BEFORE : -1]]
    return Context(
        tuple(before) if len(before) == WORDS_BEFORE else (*before, *("^",) * (WORDS_BEFORE - len(before))),
        tuple([normalise(word) if word else "$" for word in after]),
        shape,
    )


# Each group of features joins some of the words around the pronoun (b2 b1 her a1 a2 a3) in several ways.
_B1, _B2, _A1, _A2, _A3 = range(WORDS_BEFORE + WORDS_AFTER)
FEATURE_GROUPS: tuple[tuple[tuple[int, ...], Callable[..., tuple[str, ...]]], ...] = (
    ((_A1,), lambda a: (a.text, a.text[-3:], a.coarse, a.fine)),
    ((_A2,), lambda a: (a.text, a.coarse, a.fine)),
    ((_B1,), lambda b: (b.text, b.coarse, b.fine)),
    ((_B2,), lambda b: (b.text, b.coarse)),
    ((_B1, _A1), lambda b, a: (f"{b.text} {a.text}", f"{b.text} {a.coarse}", f"{b.coarse} {a.text}")),
    ((_A1, _A2), lambda a, c: (f"{a.text} {c.text}", f"{a.coarse} {c.coarse}")),
    ((_B2, _B1), lambda d, b: (f"{d.text} {b.text}",)),
    ((_B1, _A1, _A2), lambda b, a, c: (f"{b.coarse} {a.coarse} {c.coarse}",)),
    ((_A1, _A2, _A3), lambda a, c, e: (f"{a.coarse} {c.coarse} {e.coarse}",)),
)


# Windows in which groups are summed together: one look-up instead of several.
_WINDOWS = ((_A1, _A2), (_B1, _B2), (_B1, _A1), (_B1, _A1, _A2), (_A1, _A2, _A3))


def _summed_together() -> list[tuple[tuple[int, ...], list[int]]]:
    """Every window, and the groups of features that it is the first to hold."""
    held: dict[tuple[int, ...], list[int]] = {window: [] for window in _WINDOWS}
    for group, (positions, _) in enumerate(FEATURE_GROUPS):
        held[next(window for window in _WINDOWS if set(positions) <= set(window))].append(group)
    return list(held.items())


class WordClasses:
    """Word -> its classes.

    words: the words that have classes; coarse and fine: (number of words,) class numbers.
    """

    def __init__(self, words: Sequence[str], coarse: np.ndarray, fine: np.ndarray) -> None:
        self._classes = {
            word: (f"c{a}", f"f{b}") for word, a, b in zip(words, coarse.tolist(), fine.tolist(), strict=True)
        }

    def __getitem__(self, text: str) -> Word:
        """The word with its classes."""
        return Word(text, *self._classes.get(text, (f"?{text[-2:]}",) * 2))


def group_features(classes: WordClasses, group: int, *words: str) -> tuple[int, ...]:
    """Hashes (32 bits) of the features of one group, which joins these words."""
    join = FEATURE_GROUPS[group][1]
    return tuple(
        zlib.crc32(f"{group} {way} {feature}".encode(errors="replace"))
        for way, feature in enumerate(join(*(classes[word] for word in words)))
    )


def shape_features(shape: str) -> tuple[int, ...]:
    """Hashes (32 bits) of the features of a context's shape."""
    return zlib.crc32(f"shape {shape}".encode()), zlib.crc32(f"next {shape[1:]}".encode())


class PronounModel:
    """Roles of English her and his.

    path: the weights: an .npz with words, coarse and fine (see `WordClasses`), weights ((2^bits,) int8) and bias (int).
    """

    def __init__(self, path: Path = MODEL_FILE) -> None:
        self.path = path
        content = path.read_bytes()
        self.version = f"{_RULE_VERSION} {hashlib.sha256(content).hexdigest()}"
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            classes = WordClasses(arrays["words"].tobytes().decode().split(" "), arrays["coarse"], arrays["fine"])
            weights = arrays["weights"].tolist()
            self._bias = int(arrays["bias"])
        mask = len(weights) - 1

        # The same words and pairs of words come again and again: their sums are kept, up to a limit.
        @lru_cache(maxsize=1 << 16)
        def shape_score(shape: str) -> int:
            return sum(weights[hashed & mask] for hashed in shape_features(shape))

        @lru_cache(maxsize=1 << 16)
        def group_score(group: int, *words: str) -> int:
            return sum(weights[hashed & mask] for hashed in group_features(classes, group, *words))

        def sum_within(window: tuple[int, ...], groups: list[int]) -> Callable[..., int]:
            places = [(group, [window.index(position) for position in FEATURE_GROUPS[group][0]]) for group in groups]
            return lru_cache(maxsize=1 << 16)(
                lambda *words: sum(group_score(group, *[words[place] for place in at]) for group, at in places)
            )

        self._shape_score = shape_score
        self._sums = [(itemgetter(*window), sum_within(window, groups)) for window, groups in _summed_together()]

    def __reduce__(self) -> tuple:
        return PronounModel, (self.path,)

    def __call__(self, text: str, ambiguities: Sequence[Ambiguity]) -> list[int]:
        """For every ambiguity the index of the chosen role in its `roles`."""
        return [self._choose(text, *ambiguity) for ambiguity in ambiguities]

    def object_score(self, text: str, start: int, end: int) -> int:
        """Evidence that the pronoun [start, end) is an object (him) and no determiner (his); above 0, it is."""
        before, after, shape = context(text, start, end)
        words = before + after
        score = self._bias + self._shape_score(shape)
        for window, total in self._sums:
            score += total(*window(words))
        return score

    def _choose(self, text: str, start: int, end: int, roles: tuple[str, ...]) -> int:
        start, end = with_coordinated(text, start, end)
        if "object" in roles:
            role = "object" if self.object_score(text, start, end) > 0 else "determiner"
        else:
            role = "pronoun" if _stands_alone(text, end) else "determiner"
        for choice in (role, ""):
            if choice in roles:
                return roles.index(choice)
        return 0


def with_coordinated(text: str, start: int, end: int) -> tuple[int, int]:
    """ "his or her" stands where a single pronoun could: the two share their role."""
    if after := _COORDINATED_AFTER.match(text, end):
        end = after.end()
    if before := _COORDINATED_BEFORE.search(text, max(0, start - 8), start):
        start = before.start()
    return start, end


_NEXT_WORD = re.compile(r"([^\w]*)([\w'’]*)")
_OPENING_QUOTES = frozenset({'"', "“", "'", "‘"})
# After a possessive pronoun that stands alone come function words or the end of a clause. Words that may also begin a
# noun phrase ("his will", "his not going", "his too short coat") are not among them.
_AFTER_PRONOUN = """
    a again all alone also am an and are as at be because been before but by can could did do does for from had has have
    he if in into is it may must nor now of on or shall she should since than that the then they this though to
    until upon was we were when where which while who with without would you
"""
_ALONE_BEFORE = frozenset(_AFTER_PRONOUN.split())


def _stands_alone(text: str, end: int) -> bool:
    """Whether the possessive that ends here opens no noun phrase: the book is his."""
    next_word = _NEXT_WORD.match(text, end)
    assert next_word is not None  # it matches nothing, too
    gap, word = next_word.groups()
    if not word or not gap[:1].isspace():
        return True
    if gap.strip():
        return gap.strip() not in _OPENING_QUOTES  # his "friend"
    return word.lower() in _ALONE_BEFORE
