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
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache, partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from distill.base.files import PACKAGE

if TYPE_CHECKING:
    import numpy as np

_RULE_VERSION = "4"  # raise it whenever the same weights may give other roles
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
# In a headline: Count Me In, THE OLD LADY SAID. Words that are names or initials too (A, So, May) are out
_NO_NAME = re.compile(
    r"[^\S\n]+(?:(?:all|and|are|at|but|by|dead|died|dies|down|for|found|from|had|has|he|her|him|his|how|if|in|into|is|it"
    r"|its|me|my|not|off|on|or|our|out|over|said|says|she|that|the|their|them|these|they|this|those|to|under|up|us|was|we"
    r"|were|what|when|where|who|whose|why|with|without|you|your)(?![\w-])|i(?=[\s'’]))",
    re.IGNORECASE,
)
_IN_PROSE = re.compile(r"(?<![\w'’-])[a-z][\w'’-]*[^\S\n]+$")  # a word in lower case, before one with a capital
_VERBS_TOO = ("count", "miss")  # which nobody says my to
_SUBJECT = re.compile(r"\b(?:i|we|they|never|don['’]?t|let['’]?s|['’]ll)[^\S\n]+$", re.IGNORECASE)


def is_title(text: str, start: int, end: int) -> bool:
    """Whether the word [start, end) is capitalised before a name (Lady Anne, Mr. de Winter) or follows my (my lady).

    Where all words are capitalised, in headlines, it is none before a word that is no name (Lady in Red, Miss You), and
    miss and count are none behind a subject (I Miss Paris). Behind a word in lower case, any word is a name.
    """
    may_be_verb = text[start:end].lower() in _VERBS_TOO
    if text[start].isupper():
        name = _BEFORE_NAME.match(text, end)
        in_prose = _IN_PROSE.search(text, max(0, start - 30), start)
        if name and text[name.end() - 1].isupper() and (in_prose or not _NO_NAME.match(text, end)):
            return not (may_be_verb and _SUBJECT.search(text, max(0, start - 8), start))
    if may_be_verb:
        return False
    return text[max(0, start - 3) : start].lower() == "my " and not (start > 3 and text[start - 4].isalnum())


class Word(NamedTuple):
    """A word or punctuation mark near the pronoun, as the model sees it. All parts are UTF-8 behind a space.

    coarse, fine: classes of words that occur in like places, named by their numbers; words that are rare have their
        ending instead.
    stem: without what tells the forms of a regular verb apart: earn, earned, earning.
    tail: the last three letters.
    """

    text: bytes
    coarse: bytes
    fine: bytes
    stem: bytes
    tail: bytes


class Context(NamedTuple):
    """The words before and after a pronoun, nearest first.

    shape: whether the pronoun is capitalised, what separates it from the next word, whether the two next words are.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    shape: str


_new_context: Callable[[tuple], Context] = partial(tuple.__new__, Context)  # faster than Context(...)
# What may stand between a word and its neighbour without being one: white space, marks of emphasis (*her*, _her_) and
# tags of emphasis and links. Other tags (<br />, </p>) end what they stand behind, as a paragraph does.
_INLINE_TAG = r"</?(?:a|abbr|b|big|cite|code|del|em|font|i|ins|mark|q|s|small|span|strong|sub|sup|tt|u)\b[^<>]{0,200}>"
_SKIPPED = rf"(?:[\s*_~]|{_INLINE_TAG})*?"
# Words (an underscore around one is emphasis), the end of a paragraph (a line break that no lower-case letter follows),
# tags, faces made of marks, and every other mark by itself.
_TOKEN = r"[^\W_]+(?:['’_][^\W_]+)*|\n(?!\s*[a-z])|</?[a-zA-Z][^<>]{0,200}>|<3|[:;=]['-]?[()DPp3/|]+(?!\w)|[^\w\s*~]"
TOKEN = re.compile(_TOKEN)
_IS_INLINE = re.compile(_INLINE_TAG, re.IGNORECASE).fullmatch
WORDS_BEFORE, WORDS_AFTER = 2, 3
# Most often it is a space, and a word follows.
_NEXT_TOKENS = re.compile(rf"(?:(?: (?=[^\W_])|{_SKIPPED}(?!{_INLINE_TAG}))({_TOKEN}))?" * WORDS_AFTER)
# The characters searched for these words; most often the nearer ones are enough.
_REACH = 64
_NEAR = 24
# Pronouns that the counterfactual makes of each other look alike to the model, as they do when it is trained; so do
# the short words that people put at the end of a message.
_ALIKE = {"she": "he", "his": "her", "him": "her", "hers": "her", "herself": "himself"}
_ALIKE |= {f"she'{suffix}": f"he'{suffix}" for suffix in ("s", "d", "ll")}
MESSAGE_ENDS = [
    "af",
    "asap",
    "atm",
    "bc",
    "bruh",
    "btw",
    "fr",
    "frfr",
    "fyi",
    "haha",
    "hahah",
    "hahaha",
    "hahahaha",
    "hehe",
    "icymi",
    "idc",
    "idk",
    "idek",
    "imho",
    "imo",
    "irl",
    "istg",
    "jk",
    "lmao",
    "lmaoo",
    "lmfao",
    "lol",
    "lolol",
    "lool",
    "ngl",
    "nvm",
    "obvs",
    "omfg",
    "omg",
    "ong",
    "pls",
    "plz",
    "pmsl",
    "rip",
    "rn",
    "rofl",
    "rotfl",
    "rt",
    "smh",
    "srsly",
    "tbf",
    "tbh",
    "tho",
    "tmrw",
    "tmw",
    "ttyl",
    "tysm",
    "ugh",
    "wtf",
    "xd",
    "xo",
    "xoxo",
    "xx",
    "xxx",
    "yall",
    "yolo",
]
_ALIKE |= dict.fromkeys(MESSAGE_ENDS, "lol")
FACE, PARAGRAPH, TITLE = "<face>", "\n", "<title>"
# Words without which a sentence hardly goes on in a capital: her In Praise of Philosophy.
_TITLES_BEGIN = frozenset(
    [
        "a",
        "after",
        "all",
        "an",
        "and",
        "as",
        "at",
        "back",
        "before",
        "behind",
        "but",
        "by",
        "down",
        "for",
        "from",
        "how",
        "if",
        "in",
        "into",
        "is",
        "it",
        "let",
        "like",
        "my",
        "no",
        "not",
        "of",
        "off",
        "on",
        "our",
        "out",
        "over",
        "so",
        "that",
        "the",
        "there",
        "these",
        "this",
        "through",
        "to",
        "under",
        "until",
        "up",
        "was",
        "we",
        "what",
        "when",
        "where",
        "who",
        "why",
        "with",
        "without",
        "you",
        "your",
    ]
)
_CURRENCIES = "$£€¥₹"
_YEAR = re.compile(r"(?:1[5-9]|20)\d\d(?:s|['’]s)?").fullmatch
_ORDINAL_ENDINGS = frozenset({"st", "nd", "rd", "th"})


@lru_cache(maxsize=1 << 16)
def normalise(token: str) -> str:
    """Lower case, straight apostrophes, one pronoun for both genders, one face for all; figures, years and ordinals."""
    first = token[0]
    if first.isdigit():
        return "1900" if _YEAR(token) else "0th" if token[-2:] in _ORDINAL_ENDINGS else "0"
    if first.isalpha():
        token = token.lower().replace("’", "'")
        return _ALIKE.get(token, token)
    if len(token) > 1:
        if token == TITLE:
            return TITLE
        return FACE if first in ":;=" or token == "<3" else PARAGRAPH  # what is left are tags
    if first in _CURRENCIES:
        return "£"
    return FACE if first > "\u2190" and unicodedata.category(first) in ("So", "Sk", "Mn", "Cf") else first


_PAIRS_OF_MARKS = {'"': '"', "'": "'", "`": "'`", "“": "”", "‘": "’", "[": "]", "*": "*", "_": "_", "~": "~"}


def without_marks(text: str, start: int, end: int) -> tuple[int, int]:
    """[start, end) of the word with the quotation marks or emphasis that enclose it alone: ``her'' book."""
    while start and end < len(text) and text[end] in _PAIRS_OF_MARKS.get(text[start - 1], ()):
        start, end = start - 1, end + 1
    return start, end


def context(text: str, start: int, end: int) -> Context:
    """What the model knows about the pronoun [start, end)."""
    letter = text[start]
    if text[start - 1 : start] in _PAIRS_OF_MARKS:
        start, end = without_marks(text, start, end)
    next_tokens = _NEXT_TOKENS.match(text, end, end + _REACH)
    assert next_tokens is not None  # it matches nothing, too
    first, second, third = next_tokens.groups(PARAGRAPH)
    if text[end : end + 1] == " " and next_tokens.lastindex:  # a token behind a space, as most often
        mark = "_"
    else:
        gap = text[end : max(end, next_tokens.start(1))]
        mark = "_" if any(map(str.isspace, gap)) else "-" if first == "-" else "."
    is_upper, next_is_upper = letter.isupper(), first[0].isupper()
    shape = f"{'U' if is_upper else 'l'}{mark}{'U' if next_is_upper else 'l'}{'U' if second[0].isupper() else 'l'}"
    if next_is_upper and mark == "_" and not is_upper and first.lower() in _TITLES_BEGIN:
        first = TITLE
    after = normalise(first), normalise(second), normalise(third)
    return _new_context((_words_before(text, start, letter), after, shape))


_ALONE = frozenset(",.;:!?'’\"”")  # marks that are a token by themselves wherever a space or another of them follows


def _words_before(text: str, start: int, letter: str) -> tuple[str, ...]:
    """The words before the pronoun that begins at start with this letter, nearest first."""
    head = text[start - _NEAR if start > _NEAR else 0 : start]
    if head[-1:] == " " and ">" not in head:
        parts = head.rsplit(" ", WORDS_BEFORE + 1)
        if len(parts) == WORDS_BEFORE + 2:
            # Two words between spaces, or a mark or two behind one, as most often.
            farther, nearest, is_known = parts[1], parts[2], True
            if not nearest.isalpha():
                farther, nearest = nearest[:-1] or farther, nearest[-1:]
                is_known = nearest in _ALONE
            if not farther.isalpha():
                farther = farther[-1:]
                is_known = is_known and farther in _ALONE
            if is_known:
                return normalise(nearest), normalise(farther)
    # The search takes in the pronoun's first letter, so that a line break before it is judged by what follows.
    before = TOKEN.findall(head + letter)
    if len(before) < WORDS_BEFORE + 2 or ">" in head:  # the first may be a part of a word
        before = [token for token in TOKEN.findall(text[max(0, start - _REACH) : start] + letter) if not _inline(token)]
    before = [normalise(word) for word in before[-2 : -2 - WORDS_BEFORE : -1]]
    return tuple(before) if len(before) == WORDS_BEFORE else (*before, *("^",) * (WORDS_BEFORE - len(before)))


def _inline(token: str) -> bool:
    return len(token) > 2 and token[0] == "<" and _IS_INLINE(token) is not None


_VERB_ENDING = re.compile(r"(?<=\w\w\w)(?:e|es|ed|ing|s)$")
# Each group of features joins some of the words around the pronoun (b2 b1 her a1 a2 a3) in several ways: of each way
# the parts of these words (see `Word`).
_B1, _B2, _A1, _A2, _A3 = range(WORDS_BEFORE + WORDS_AFTER)
FEATURE_GROUPS: tuple[tuple[tuple[int, ...], tuple[str, ...]], ...] = (
    ((_A1,), ("text", "tail", "coarse", "fine")),
    ((_A2,), ("text", "coarse", "fine")),
    ((_B1,), ("text", "coarse", "fine", "stem")),
    ((_B2,), ("text", "coarse")),
    (
        (_B1, _A1),
        (
            *("text text", "text coarse", "text fine", "coarse text", "fine fine"),
            *("stem coarse", "stem fine", "stem tail"),
        ),
    ),
    ((_A1, _A2), ("text text", "coarse coarse", "fine fine")),
    ((_B2, _B1), ("text text",)),
    ((_B1, _A1, _A2), ("coarse coarse coarse", "stem coarse coarse")),
    ((_A1, _A2, _A3), ("coarse coarse coarse",)),
)


_OF_NEXT_WORD = next(group for group, (positions, _) in enumerate(FEATURE_GROUPS) if positions == (_A1,))
# Windows in which groups are summed together: one look-up instead of several.
_WINDOWS = ((_A1, _A2), (_B1, _B2), (_B1, _A1), (_B1, _A1, _A2), (_A1, _A2, _A3))


def _summed_together() -> list[tuple[tuple[int, ...], list[int]]]:
    """Every window, and the groups of features that it is the first to hold."""
    held: dict[tuple[int, ...], list[int]] = {window: [] for window in _WINDOWS}
    for group, (positions, _) in enumerate(FEATURE_GROUPS):
        held[next(window for window in _WINDOWS if set(positions) <= set(window))].append(group)
    return list(held.items())


_MOST_WORDS = 1 << 16  # that are kept with their classes


class WordClasses(dict[str, Word]):
    """Word -> its parts; those that were asked for are kept.

    words: the words that have classes; coarse and fine: (number of words,) class numbers.
    """

    def __init__(self, words: Sequence[str], coarse: "np.ndarray", fine: "np.ndarray") -> None:
        super().__init__()
        self._number = dict(zip(words, range(len(words)), strict=True))
        self._coarse, self._fine = coarse.data, fine.data

    def __missing__(self, text: str) -> Word:
        if len(self) >= _MOST_WORDS:
            self.clear()
        number = self._number.get(text)
        if number is None:
            coarse = fine = f"?{text[-2:]}"
        else:
            coarse, fine = f"c{self._coarse[number]}", f"f{self._fine[number]}"
        parts = (text, coarse, fine, _VERB_ENDING.sub("", text), text[-3:])
        word = self[text] = Word(*[f" {part}".encode(errors="replace") for part in parts])
        return word


def group_features(classes: WordClasses, group: int, *words: str) -> tuple[int, ...]:
    """Hashes (32 bits) of the features of one group, which joins these words: of "group way part part"."""
    hashes: Iterable[int] = _BEGUN[group]
    for parts_of, word in zip(_PARTS[group], words, strict=True):
        hashes = map(zlib.crc32, parts_of(classes[word]), hashes)
    return tuple(hashes)


# By group and way: the hash so far, of what goes before the words.
_BEGUN = [
    [zlib.crc32(f"{group} {way}".encode()) for way in range(len(ways))]
    for group, (_, ways) in enumerate(FEATURE_GROUPS)
]


def _picked(parts: Sequence[str]) -> Callable[[Word], tuple[bytes, ...]]:
    """What gives these parts of a word."""
    first, *more = map(Word._fields.index, parts)
    return itemgetter(first, *more) if more else itemgetter(slice(first, first + 1))


# By group and word: what gives the word's part in each way.
_PARTS = [[_picked(parts) for parts in zip(*(way.split() for way in ways), strict=True)] for _, ways in FEATURE_GROUPS]


def shape_features(shape: str) -> tuple[int, ...]:
    """Hashes (32 bits) of the features of a context's shape."""
    return zlib.crc32(f"shape {shape}".encode()), zlib.crc32(f"next {shape[1:]}".encode())


class _Scorer:
    """A log-linear model of one question: the sum of the weights of a context's features.

    weights: (2^bits,) integers, found by the features' hashes; bias: added to every sum.
    """

    def __init__(self, classes: WordClasses, weights: Sequence[int] | memoryview, bias: int) -> None:
        self._bias = bias
        mask = len(weights) - 1

        # The same words and pairs of words come again and again: their sums are kept, up to a limit.
        @lru_cache(maxsize=1 << 16)
        def shape_score(shape: str) -> int:
            return sum(weights[hashed & mask] for hashed in shape_features(shape))

        def group_score(group: int, *words: str) -> int:
            return sum([weights[hashed & mask] for hashed in group_features(classes, group, *words)])

        score_of_one = lru_cache(maxsize=1 << 16)(group_score)

        def sum_within(window: tuple[int, ...], groups: list[int]) -> Callable[..., int]:
            places = [(group, [window.index(position) for position in FEATURE_GROUPS[group][0]]) for group in groups]
            scores = [(score_of_one if len(at) == 1 else group_score, group, at) for group, at in places]
            return lru_cache(maxsize=1 << 16)(
                lambda *words: sum([score(group, *[words[place] for place in at]) for score, group, at in scores])
            )

        self._shape_score = shape_score
        self.of_next = lru_cache(maxsize=1 << 16)(lambda word: score_of_one(_OF_NEXT_WORD, normalise(word)))
        self._sums = [sum_within(window, groups) for window, groups in _summed_together()]

    def __call__(self, around: Context) -> int:
        """Above 0 for the second of the two answers, in units of the rounded weights."""
        (b1, b2), (a1, a2, a3), shape = around
        next_two, last_two, beside, beside_two, next_three = self._sums  # of `_WINDOWS`; a loop takes twice as long
        return (
            self._bias
            + self._shape_score(shape)
            + next_two(a1, a2)
            + last_two(b1, b2)
            + beside(b1, a1)
            + beside_two(b1, a1, a2)
            + next_three(a1, a2, a3)
        )


_CERTAIN = 1000  # a score that needs no further evidence
_PREDICATE = re.compile(  # with her gone, he cried
    r"\s+(?:abroad|absent|alive|alone|around|asleep|aside|away|awake|back|behind|below|dead|drunk|gone|here|home|ill|in"
    r"|inside|missing|out|outside|present|sick|there|unconscious|upstairs|downstairs)(?:\s*[,;.!?)]|\s*$|\s+(?:and|but|or)\b)"
)
# "A friend of his" is a pronoun, unless much speaks against it ("a man of his word").
_DOUBLE_GENITIVE = re.compile(
    r"\b(?:an?|that|this|those|these|some|any|no|another|every|each|one|two|several|many)\s+(?:[\w'’-]+\s+){1,3}of\s+$",
    re.IGNORECASE,
)
_MUCH = 100
_LOWER_CASE = re.compile(r" ([a-z]+)(?![\w'’-])")
_NOUN = -30  # what the next word says alone, below which nothing else makes a possessive stand alone


class PronounModel:
    """Roles of English her and his.

    path: the weights: an .npz with words, coarse and fine (see `WordClasses`), weights ((2^bits,) int8) and bias (int)
        for determiner or object, alone_weights and alone_bias for determiner or pronoun.
    """

    def __init__(self, path: Path = MODEL_FILE) -> None:
        self.path = path

    @cached_property
    def _content(self) -> bytes:
        return self.path.read_bytes()

    @cached_property
    def version(self) -> str:
        """Changes with the weights and with the rules."""
        return f"{_RULE_VERSION} {hashlib.sha256(self._content).hexdigest()}"

    @cached_property
    def _models(self) -> tuple[_Scorer, _Scorer]:
        """Object or determiner, alone or determiner; read when the first word asks."""
        import numpy as np

        with np.load(io.BytesIO(self._content), allow_pickle=False) as arrays:
            classes = WordClasses(arrays["words"].tobytes().decode().split(" "), arrays["coarse"], arrays["fine"])
            return (
                _Scorer(classes, arrays["weights"].data, int(arrays["bias"])),
                _Scorer(classes, arrays["alone_weights"].data, int(arrays["alone_bias"])),
            )

    def __reduce__(self) -> tuple:
        return PronounModel, (self.path,)

    def __call__(self, text: str, ambiguities: Sequence[Ambiguity]) -> list[int]:
        """For every ambiguity the index of the chosen role in its `roles`."""
        return [self._choose(text, start, end, roles) for start, end, roles in ambiguities]

    def object_score(self, text: str, start: int, end: int) -> int:
        """Evidence that the pronoun [start, end) is an object (him) and no determiner (his); above 0, it is."""
        around = context(text, start, end)
        if around.after[0] == TITLE:
            return -_CERTAIN
        if around.before[0] in ("with", "without") and _PREDICATE.match(text, end):
            return _CERTAIN
        return self._models[0](around)

    def alone_score(self, text: str, start: int, end: int) -> int:
        """Evidence that the possessive [start, end) stands alone (hers) and opens no noun phrase (her); above 0, so."""
        return self._models[1](context(text, start, end))

    def _choose(self, text: str, start: int, end: int, roles: tuple[str, ...]) -> int:
        role = role_by_rule(text, start, end)
        if not role:
            start, end = with_coordinated(text, start, end)
            if "object" in roles:
                role = "object" if self.object_score(text, start, end) > 0 else "determiner"
            else:
                role = "pronoun" if self._stands_alone(text, start, end) else "determiner"
        if role in roles:
            return roles.index(role)
        return roles.index("") if "" in roles else 0

    def _stands_alone(self, text: str, start: int, end: int) -> bool:
        """Whether the possessive [start, end) opens no noun phrase: the book is his."""
        noun = _LOWER_CASE.match(text, end)
        if noun and self._models[1].of_next(noun[1]) < _NOUN and text[max(0, start - 3) : start - 1] != "of":
            return False  # most often
        if not noun:
            start, end = without_marks(text, start, end)
            following = _FOLLOWING.match(text, end)
            assert following is not None  # it matches nothing, too
            mark, word, joined = following.groups()
            if mark:  # a quotation mark closes where it is attached
                return mark in _CLOSING or (mark in _QUOTES and text[end] == mark) or normalise(mark) == FACE
            if not word:
                return True
            if joined or (word[0].isupper() and not text[start].isupper()):  # his on-screen wife; his May speech
                return False
        if _OWNED_TOGETHER.match(text, end):  # his and Katie's house
            return False
        behind_of = text[max(0, start - 4) : start].endswith(("of ", "of\n"))
        score = self.alone_score(text, start, end)
        if behind_of and -_MUCH < score <= 0:
            return _DOUBLE_GENITIVE.search(text, max(0, start - 48), start) is not None
        return score > 0


_SET = re.compile(r"\b(?:s?he|they)/(?:him|her|them)(?:/(?:his|hers?|theirs?)\b)?", re.IGNORECASE)
_JOINED_AFTER = re.compile(r"(?: or |/| and/or | \(or )(?:his|hers?|him)\b\)?", re.IGNORECASE)
_JOINED_BEFORE = re.compile(r"\b(?:his|hers?|him)(?: or |/| and/or | \(or )$", re.IGNORECASE)


_MAY_JOIN_AFTER = frozenset({" o", " a", " (", "/h", "/H", " O", " A"})
_MAY_JOIN_BEFORE = frozenset({"r ", "s/", "r/", "m/", "R ", "S/", "R/", "M/"})


def role_by_rule(text: str, start: int, end: int) -> str:
    """The role that a set of pronouns (she/her/hers) or the other of a pair (him or her) tells; empty without one."""
    if role := role_in_a_set(text, start, end):
        return role
    around = with_coordinated(text, start, end)
    return _role_in_a_pair(text[slice(*around)].lower()) if around != (start, end) else ""


def role_in_a_set(text: str, start: int, end: int) -> str:
    """The role in a set of pronouns that somebody goes by (she/her/hers), or empty outside of one."""
    if not (start and text[start - 1] == "/"):
        return ""
    found = _SET.search(text, max(0, start - 9), end + 8)
    if not found or found.start() > start or found.end() < end:
        return ""
    return "object" if text.count("/", found.start(), start) == 1 else "pronoun"


def with_coordinated(text: str, start: int, end: int) -> tuple[int, int]:
    """ "his or her", "his (or her)" and "his/her" stand where a single pronoun could: the two share their role."""
    if text[end : end + 2] in _MAY_JOIN_AFTER and (after := _JOINED_AFTER.match(text, end)):
        end = after.end()
    if text[start - 2 : start] in _MAY_JOIN_BEFORE and (
        before := _JOINED_BEFORE.search(text, max(0, start - 12), start)
    ):
        opened = text[before.start() : start].count("(")
        start, end = before.start(), end + (opened and text[end : end + 1] == ")")
    return start, end


def _role_in_a_pair(words: str) -> str:
    """The role of two pronouns that share it, as one of them tells: "his or her" are determiners, for him is no his."""
    roles = [role for word, role in (("him", "object"), ("hers", "pronoun")) if re.search(rf"\b{word}\b", words)]
    return roles[0] if roles else "determiner" if "his" in words else ""


# What follows a possessive within its line: a mark, or a word and whether a hyphen joins it to the next.
_FOLLOWING = re.compile(
    rf"(?:[^\S\n]|[*_~]|\n(?=\s*[a-z])|{_INLINE_TAG})*(?:(</?[a-zA-Z]+|[^\w\s*~])|([^\W_]+)(-\w)?)?"
)
# Marks before which a noun phrase has ended.
_CLOSING = frozenset((*".,;:!?)]}…–—-/", "<br", "</p", "<p"))
_QUOTES = frozenset("\"'”’»`")
_OWNED_TOGETHER = re.compile(r" (?:and|or|&) (?:\w+ ){0,2}\w+['’]s\b")
