"""A document and a word list -> its counterfactual and the edit spans.

1. One compiled automaton finds every listed word in each of its letter cases (he, He, HE) -> candidates.
2. Candidates that are only part of a longer word (the, he\u0301) are dropped -> matches.
3. Every match gets its counterpart in the other group; where a word has several, its role in the sentence decides (her
   book: his; saw her: him) -> replacements.
4. The pieces are joined; every character outside the edited words is kept -> text and spans.
"""

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ahocorasick_rs import AhoCorasick, MatchKind

from distill.roles import Ambiguity, PronounModel, Resolver, is_title
from distill.wordlist import WordList, is_word_character

RULE_VERSION = "1"  # raise it whenever the same list and text may give another counterfactual

_PART_SEPARATORS = re.compile(r"([-'\s])")
_SMALL_PARTS = frozenset({"a", "and", "at", "by", "de", "in", "of", "on", "the", "to"})
# What a text may have in place of a character of the list: the curly apostrophe, two more hyphens.
_APOSTROPHES = "'’"
_HYPHENS = "-‐‑"


class Span(NamedTuple):
    """One edited word: [start, end) in the original, [cf_start, cf_end) in the counterfactual, in characters."""

    start: int
    end: int
    cf_start: int
    cf_end: int


@dataclass(frozen=True)
class Counterfactual:
    """A text with its listed words swapped. Without spans, the text is the original."""

    text: str
    spans: tuple[Span, ...]


class Match(NamedTuple):
    """A listed word in a text: [start, end) in characters, the word in lower case, its group's index."""

    start: int
    end: int
    word: str
    group: int


@dataclass(frozen=True)
class _Form:
    """One way to write a listed word, and its counterparts written alike.

    roles: the roles that tell several counterparts apart; "" is otherwise. Empty where there is one counterpart.
    options: by shift - 1, one counterpart for each role.
    as_title: by shift - 1, the counterpart before a name (Lady Anne), where that is one of its own.
    """

    word: str
    group: int
    roles: tuple[str, ...]
    options: tuple[tuple[str, ...], ...]
    as_title: tuple[str, ...]


class Swapper:
    """Finds and swaps the words of a list.

    A word counts where no word character (letter, digit, underscore, combining mark) adjoins it: "he's" holds "he",
    "she-wolf" holds "she". Of several that overlap, the leftmost and then the longest counts. Words in mixed case (hE,
    McHis) are left alone, and so are words that are listed as titles only (Miss Bennet) where they are none.

    wordlist: the groups and their words.
    resolver: tells the roles of words with several counterparts; the default reads English pronouns.
    """

    def __init__(self, wordlist: WordList, resolver: Resolver | None = None) -> None:
        self.wordlist = wordlist
        self.resolver = resolver or PronounModel()
        forms: dict[str, _Form] = {}
        for word, group in wordlist.group_of.items():
            for written, write in _written_forms(word):
                if written not in forms:
                    forms[written] = _form(wordlist, word, group, write)
        self._forms = list(forms.values())
        self._is_compound = [not all(map(is_word_character, written)) for written in forms]
        self._title_only = [bool(form.as_title) and not form.options[0] for form in self._forms]
        self._leftmost_longest = AhoCorasick(list(forms), matchkind=MatchKind.LeftmostLongest)
        self._overlapping = AhoCorasick(list(forms), matchkind=MatchKind.Standard)

    def __reduce__(self) -> tuple:
        return Swapper, (self.wordlist, self.resolver)

    @property
    def cache_key(self) -> str:
        """Hash of everything that decides a counterfactual: the list, the rules here and the resolver."""
        parts = "\n".join((self.wordlist.sha256, RULE_VERSION, self.resolver.version))
        return hashlib.sha256(parts.encode()).hexdigest()

    def matches(self, text: str) -> list[Match]:
        """Every listed word in the text, from left to right."""
        return [
            Match(start, end, self._forms[form].word, self._forms[form].group) for form, start, end in self._find(text)
        ]

    def swap(self, text: str, shift: int = 1) -> Counterfactual:
        """The counterfactual in which a word of group g becomes its counterpart of group (g + shift) mod K."""
        if not 1 <= shift < self.wordlist.num_groups:
            raise ValueError(f"shift {shift} is outside 1 to {self.wordlist.num_groups - 1}")
        found = self._find(text)
        return self._rewrite(text, found, self._choose(text, found), shift)

    def counterfactuals(self, text: str) -> tuple[Counterfactual, ...]:
        """The counterfactuals of every shift, 1 to K - 1."""
        found = self._find(text)
        choices = self._choose(text, found)
        return tuple(self._rewrite(text, found, choices, shift) for shift in range(1, self.wordlist.num_groups))

    def _find(self, text: str) -> list[tuple[int, int, int]]:
        """(form, start, end) of every listed word, leftmost and then longest first."""
        text = _searchable(text)
        found = []
        for candidate in self._leftmost_longest.find_matches_as_indexes(text):
            form, start, end = candidate
            if not _is_whole(text, start, end):
                # A dropped compound ("step-son" in "step-sonship") may hide a listed word in it ("step").
                if self._is_compound[form]:
                    return self._find_among_overlapping(text)
            elif not self._title_only[form] or is_title(text, start, end):
                found.append(candidate)
        return found

    def _find_among_overlapping(self, text: str) -> list[tuple[int, int, int]]:
        """`_find` from every candidate; slower."""
        candidates = self._overlapping.find_matches_as_indexes(text, overlapping=True)
        whole = [(start, -end, form) for form, start, end in candidates if _is_whole(text, start, end)]
        found, position = [], 0
        for start, minus_end, form in sorted(whole):
            if start >= position:
                position = -minus_end
                if not self._title_only[form] or is_title(text, start, position):
                    found.append((form, start, position))
        return found

    def _choose(self, text: str, found: list[tuple[int, int, int]]) -> dict[int, int]:
        """For every match with several counterparts: start -> index of its role, -1 for a title."""
        choices, ambiguities = {}, []
        for index, start, end in found:
            form = self._forms[index]
            if form.as_title and is_title(text, start, end):
                choices[start] = -1
            elif form.roles:
                ambiguities.append(Ambiguity(start, end, form.roles))
        if ambiguities:
            chosen = self.resolver(text, ambiguities)
            choices.update(zip((ambiguity.start for ambiguity in ambiguities), chosen, strict=True))
        return choices

    def _rewrite(
        self, text: str, found: list[tuple[int, int, int]], choices: dict[int, int], shift: int
    ) -> Counterfactual:
        if not found:
            return Counterfactual(text, ())
        pieces: list[str] = []
        spans: list[Span] = []
        position = cf_position = 0
        for index, start, end in found:
            form = self._forms[index]
            choice = choices.get(start, 0)
            word = form.as_title[shift - 1] if choice < 0 else form.options[shift - 1][choice]
            pieces += (text[position:start], word)
            cf_start = cf_position + start - position
            position, cf_position = end, cf_start + len(word)
            spans.append(Span(start, end, cf_start, cf_position))
        pieces.append(text[position:])
        return Counterfactual("".join(pieces), tuple(spans))


def _searchable(text: str) -> str:
    """The text as the automaton reads it, character for character: lone surrogates are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether no word character adjoins [start, end)."""
    return not (start and is_word_character(text[start - 1])) and not (end < len(text) and is_word_character(text[end]))


def _form(wordlist: WordList, word: str, group: int, write: Callable[[str], str]) -> _Form:
    by_shift = [wordlist.counterparts(word, shift) for shift in range(1, wordlist.num_groups)]
    options = tuple(
        tuple(write(counterpart) for counterpart, role in counterparts if role != "title") for counterparts in by_shift
    )
    as_title = tuple(
        write(counterpart) for counterparts in by_shift for counterpart, role in counterparts if role == "title"
    )
    roles = tuple(role or "" for _, role in by_shift[0] if role != "title")
    return _Form(word, group, roles if len(roles) > 1 else (), options, as_title)


def _written_forms(word: str) -> Iterator[tuple[str, Callable[[str], str]]]:
    """Every way in which a text may write a listed word: (the written word, how to write a counterpart alike)."""
    for letter_case, normal_form, apostrophe, hyphen in itertools.product(
        (str.lower, _capitalised, _title_case, _title_case_but_small, str.upper),
        ("NFC", "NFD"),
        _APOSTROPHES if "'" in word else "'",
        _HYPHENS if "-" in word else "-",
    ):
        characters = str.maketrans({"'": apostrophe, "-": hyphen})

        def write(other: str, letter_case=letter_case, normal_form=normal_form, characters=characters) -> str:
            return unicodedata.normalize(normal_form, letter_case(other)).translate(characters)

        yield write(word), write


def _capitalised(word: str) -> str:
    return word[:1].upper() + word[1:]


def _title_case(word: str) -> str:
    """Step-Mother, Mother-In-Law."""
    return "".join(map(_capitalised, _PART_SEPARATORS.split(word)))


def _title_case_but_small(word: str) -> str:
    """Mother-in-Law."""
    first, *rest = _PART_SEPARATORS.split(word)
    return _capitalised(first) + "".join(part if part in _SMALL_PARTS else _capitalised(part) for part in rest)
