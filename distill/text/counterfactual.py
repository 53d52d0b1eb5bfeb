"""A document and a word list -> its counterfactual and the edit spans.

1. One compiled automaton finds every listed word in each of its letter cases (he, He, HE), and every phrase of the list
   -> candidates.
2. Dropped are candidates that are only part of a longer word (the, he\u0301) or of a protected phrase (King Street),
   and names and titles that are none here (Mr. James, Miss) -> matches.
3. Sentences that hold a word to skip are left alone. Every other match gets its counterpart in the other group; where a
   word has several, its role in the sentence decides (her book: his; saw her: him) -> replacements.
4. The pieces are joined; every character outside the edited words is kept -> text and spans.
"""

import hashlib
import itertools
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from ahocorasick_rs import AhoCorasick, MatchKind

from distill.base.long_input import encodable
from distill.text import first_names
from distill.text.conversations import Conversation
from distill.text.roles import Ambiguity, PronounModel, Resolver, is_title
from distill.text.wordlist import WordList, is_word_character

RULE_VERSION = "2"  # raise it whenever the same list and text may give another counterfactual

_PART_SEPARATORS = re.compile(r"([-\s])")
_SMALL_PARTS = frozenset({"a", "al", "and", "at", "by", "de", "in", "of", "on", "the", "to"})
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
    """A text with its listed words swapped. Without spans, the text is the original.

    skipped: number of sentences that were left alone although they hold listed words.
    """

    text: str
    spans: tuple[Span, ...]
    skipped: int = 0


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
    options: by shift - 1, one counterpart for each role; none for a word that is a title or a name only.
    as_title: by shift - 1, the counterpart before a name (Lady Anne), where that is one of its own.
    as_name: by shift - 1, the counterpart of a first name (Guy), where the word may be one.
    ambiguous: whether the name counts only where the context says that it is one.
    """

    word: str
    group: int
    roles: tuple[str, ...]
    options: tuple[tuple[str, ...], ...]
    as_title: tuple[str, ...]
    as_name: tuple[str, ...]
    ambiguous: bool


_Place = tuple[int, int, int]  # (form, start, end) of a listed word


class _Found(NamedTuple):
    """What a text holds.

    words: the listed words, from left to right.
    names: where those begin that are first names here.
    skip: (start, end) of what leaves its sentence alone.
    """

    words: list[_Place]
    names: frozenset[int]
    skip: list[tuple[int, int]]


# What stands in the place of a role's index.
_AS_TITLE, _AS_NAME = -1, -2

_is_word_character = cache(is_word_character)


class Swapper:
    """Finds and swaps the words of a list.

    A word counts where no word character (letter, digit, underscore, combining mark) adjoins it: "he's" holds "he",
    "she-wolf" holds "she". Of several that overlap, the leftmost and then the longest counts, but a protected phrase
    goes before a word that begins earlier. Words in mixed case (hE, McHis) are left alone, and so are words that are
    listed as titles or names only (Miss, Will) where they are none.

    >>> from distill import Swapper, load_wordlist
    >>> swapper = Swapper(load_wordlist("english_gender"))
    >>> (found,) = swapper.counterfactuals("The nurse lost her keys.")
    >>> found.text
    'The nurse lost his keys.'
    >>> swapper.counterfactuals("Nobody was there.")[0].spans
    ()

    wordlist: the groups and their words, and the phrases to protect and to skip.
    resolver: tells the roles of words with several counterparts; the default reads English pronouns.
    """

    def __init__(self, wordlist: WordList, resolver: Resolver | None = None) -> None:
        self.wordlist = wordlist
        self.resolver = resolver or PronounModel()
        forms = _forms(wordlist)
        protected = {
            written
            for phrase in wordlist.protected
            for written, _ in _written_forms(phrase, _LETTER_CASES if phrase == phrase.lower() else _AS_WRITTEN)
        } - forms.keys()
        skip = {written for phrase in wordlist.skip for written, _ in _written_forms(phrase)} - forms.keys() - protected
        patterns = [*forms, *sorted(protected), *sorted(skip)]
        self._forms = list(forms.values())
        self._first_skip = len(forms) + len(protected)
        self._is_compound = [not all(map(is_word_character, pattern)) for pattern in patterns]
        self._may_hide_phrase = _hiding(forms, protected)
        self._is_plain = [bool(form.options[0]) and not (form.as_title or form.as_name) for form in self._forms]
        self._needs_choice = [bool(form.roles or form.as_title or form.as_name) for form in self._forms]
        self._has_names = any(form.as_name for form in self._forms)
        self._leftmost_longest = AhoCorasick(patterns, matchkind=MatchKind.LeftmostLongest)
        self._overlapping = AhoCorasick(patterns, matchkind=MatchKind.Standard)

    def __reduce__(self) -> tuple:
        return Swapper, (self.wordlist, self.resolver)

    @property
    def cache_key(self) -> str:
        """Hash of everything that decides a counterfactual: the list, the rules here and the resolver."""
        parts = (self.wordlist.sha256, RULE_VERSION, first_names.VERSION, self.resolver.version)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def matches(self, text: str) -> list[Match]:
        """Every listed word in the text, from left to right, those of skipped sentences included."""
        if isinstance(text, Conversation):
            found = ((match, text.shift(match.start, match.end)) for match in self.matches(text.messages))
            return [m._replace(start=m.start + by, end=m.end + by) for m, by in found if by is not None]
        return [
            Match(start, end, self._forms[form].word, self._forms[form].group)
            for form, start, end in self._find(text).words
        ]

    def swap(self, text: str, shift: int = 1) -> Counterfactual:
        """The counterfactual in which a word of group g becomes its counterpart of group (g + shift) mod K."""
        if not 1 <= shift < self.wordlist.num_groups:
            raise ValueError(f"shift {shift} is outside 1 to {self.wordlist.num_groups - 1}")
        return self._counterfactuals(text, (shift,))[0]

    def counterfactuals(self, text: str) -> tuple[Counterfactual, ...]:
        """The counterfactuals of every shift, 1 to K - 1."""
        return self._counterfactuals(text, range(1, self.wordlist.num_groups))

    def _counterfactuals(self, text: str, shifts: Sequence[int]) -> tuple[Counterfactual, ...]:
        if isinstance(text, Conversation):
            return tuple(_in_template(text, found) for found in self._counterfactuals(text.messages, shifts))
        words, names, skip = self._find(text)
        skipped = 0
        if skip and words:
            words, skipped = _outside_sentences(text, words, skip)
        if not words:
            return (Counterfactual(text, (), skipped),) * len(shifts)
        choices = self._choose(text, words, names)
        return tuple(self._rewrite(text, words, choices, shift, skipped) for shift in shifts)

    def _find(self, text: str) -> _Found:
        """The listed words, leftmost and then longest first, and what else matters."""
        words, skip = [], []
        num_forms, length = len(self._forms), len(text)
        for place in self._leftmost_longest.find_matches_as_indexes(encodable(text)):
            form, start, end = place
            if (start and _is_word_character(text[start - 1])) or (end < length and _is_word_character(text[end])):
                # A dropped compound ("step-son" in "step-sonship") may hide a listed word in it ("step").
                if self._is_compound[form]:
                    return self._find_among_overlapping(text)
            elif form < num_forms:
                if form in self._may_hide_phrase:
                    return self._find_among_overlapping(text)
                words.append(place)
            elif form >= self._first_skip:
                skip.append((start, end))
        return self._judged(text, words, skip)

    def _find_among_overlapping(self, text: str) -> _Found:
        """`_find` from every candidate; slower."""
        whole = sorted(
            (start, -end, form)
            for form, start, end in self._overlapping.find_matches_as_indexes(encodable(text), overlapping=True)
            if _is_whole(text, start, end)
        )
        num_forms = len(self._forms)
        phrases = [start for start, _, form in whole if num_forms <= form < self._first_skip]
        words, skip, position = [], [], 0
        for start, minus_end, form in whole:
            end = -minus_end
            if start < position:
                continue
            if form < num_forms and bisect_left(phrases, end) > bisect_right(phrases, start):
                continue  # a phrase begins inside
            position = end
            if form < num_forms:
                words.append((form, start, end))
            elif form >= self._first_skip:
                skip.append((start, end))
        return self._judged(text, words, skip)

    def _judged(self, text: str, words: list[_Place], skip: list[tuple[int, int]]) -> _Found:
        """Without the words that are titles or names only, and are neither here."""
        names: frozenset[int] = frozenset()
        if self._has_names:
            candidates = [
                first_names.Candidate(start, end, self._forms[form].ambiguous)
                for form, start, end in words
                if self._forms[form].as_name and not text[start].islower()
            ]
            judged = first_names.first_names(text, candidates)
            names = frozenset(c.start for c, is_name in zip(candidates, judged, strict=True) if is_name)
        plain = self._is_plain
        words = [place for place in words if plain[place[0]] or self._counts(text, *place, names)]
        return _Found(words, names, skip)

    def _counts(self, text: str, form: int, start: int, end: int, names: frozenset[int]) -> bool:
        of_form = self._forms[form]
        return bool(of_form.options[0] or start in names or (of_form.as_title and is_title(text, start, end)))

    def _choose(self, text: str, words: list[_Place], names: frozenset[int]) -> dict[int, int]:
        """For every match with several counterparts: start -> index of its role, or what else it is."""
        choices: dict[int, int] = {}
        ambiguities = []
        for index, start, end in words:
            if not self._needs_choice[index]:
                continue
            form = self._forms[index]
            if start in names:
                choices[start] = _AS_NAME
            elif form.as_title and is_title(text, start, end):
                choices[start] = _AS_TITLE
            elif form.roles:
                ambiguities.append(Ambiguity(start, end, form.roles))
        if ambiguities:
            chosen = self.resolver(text, ambiguities)
            choices.update(zip((ambiguity.start for ambiguity in ambiguities), chosen, strict=True))
        return choices

    def _rewrite(
        self, text: str, words: list[_Place], choices: dict[int, int], shift: int, skipped: int
    ) -> Counterfactual:
        pieces: list[str] = []
        spans: list[Span] = []
        position = cf_position = 0
        for index, start, end in words:
            form = self._forms[index]
            choice = choices.get(start, 0)
            if choice >= 0:
                word = form.options[shift - 1][choice]
            else:
                word = (form.as_title if choice == _AS_TITLE else form.as_name)[shift - 1]
            pieces += (text[position:start], word)
            cf_start = cf_position + start - position
            position, cf_position = end, cf_start + len(word)
            spans.append(Span(start, end, cf_start, cf_position))
        pieces.append(text[position:])
        return Counterfactual("".join(pieces), tuple(spans), skipped)


def _in_template(conversation: Conversation, said: Counterfactual) -> Counterfactual:
    """The counterfactual of what is said in a conversation, put back into its template, where nothing is swapped."""
    pieces: list[str] = []
    spans: list[Span] = []
    position = cf_position = 0
    for start, end, cf_start, cf_end in said.spans:
        by = conversation.shift(start, end)
        if by is None:  # what is one phrase only across two messages
            continue
        pieces += (conversation[position : start + by], said.text[cf_start:cf_end])
        begins = cf_position + start + by - position
        position, cf_position = end + by, begins + cf_end - cf_start
        spans.append(Span(start + by, end + by, begins, cf_position))
    pieces.append(conversation[position:])
    return Counterfactual("".join(pieces), tuple(spans), said.skipped)


# Ends of sentences: a mark that no abbreviation or initial comes before, and a capital behind it; or a line break that
# no lower-case letter follows.
_SENTENCE_END = re.compile(
    r"(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bMrs)(?<!\b[A-Z])[.!?…][\"'”’)\]]*\s+(?=[\W_]*[^\W\d_a-z])|\n(?!\s*[a-z])"
)
_LONGEST_SENTENCE = 2000  # characters that are searched for its beginning


def _outside_sentences(text: str, words: list[_Place], skip: Iterable[tuple[int, int]]) -> tuple[list[_Place], int]:
    """The words outside of the sentences that hold something to skip, and the number of sentences that lost words."""
    sentences: list[tuple[int, int]] = []
    for start, end in skip:
        if sentences and start < sentences[-1][1]:
            continue
        first = max(0, start - _LONGEST_SENTENCE)
        ends = [match.end() for match in _SENTENCE_END.finditer(text, first, end) if match.end() <= start]
        following = _SENTENCE_END.search(text, end)
        sentences.append((ends[-1] if ends else first, following.start() if following else len(text)))
    starts = [start for start, _ in sentences]
    kept, lost = [], set()
    for place in words:
        sentence = bisect_right(starts, place[1]) - 1
        if sentence >= 0 and place[1] < sentences[sentence][1]:
            lost.add(sentence)
        else:
            kept.append(place)
    return kept, len(lost)


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether no word character adjoins [start, end)."""
    return not (start and _is_word_character(text[start - 1])) and not (
        end < len(text) and _is_word_character(text[end])
    )


def _hiding(forms: Iterable[str], protected: Iterable[str]) -> frozenset[int]:
    """Indices of the forms in which a protected phrase may begin, beyond their own beginning."""
    phrases, hiding = sorted(protected), set()
    known = set(phrases)
    for index, form in enumerate(forms):
        for at in range(1, len(form)):
            if is_word_character(form[at - 1]) or not is_word_character(form[at]):
                continue
            rest = form[at:]
            near = bisect_left(phrases, rest)
            if (near < len(phrases) and phrases[near].startswith(rest)) or any(
                rest[:length] in known for length in range(1, len(rest))
            ):
                hiding.add(index)
    return frozenset(hiding)


def _forms(wordlist: WordList) -> dict[str, _Form]:
    """Every way in which a text may write the words of a list."""
    roles_of: dict[str, set[str | None]] = {}
    for row in wordlist.rows:
        for word in row.words:
            roles_of.setdefault(word, set()).add(row.when)
    ambiguous = {word for row in wordlist.rows if row.ambiguous for word in row.words}
    forms: dict[str, _Form] = {}
    for word, group in wordlist.group_of.items():
        # "will" and "mark" are no names.
        letter_cases = _LETTER_CASES[1:] if roles_of[word] == {_NAME} else _LETTER_CASES
        for written, write in _written_forms(word, letter_cases):
            if written not in forms:
                forms[written] = _form(wordlist, word, group, write, word in ambiguous)
    return forms


_TITLE, _NAME = "title", "name"  # roles that are told by other means than the resolver


def _form(wordlist: WordList, word: str, group: int, write: Callable[[str], str], ambiguous: bool) -> _Form:
    by_shift = [wordlist.counterparts(word, shift) for shift in range(1, wordlist.num_groups)]
    options = tuple(
        tuple(write(counterpart) for counterpart, role in counterparts if role not in (_TITLE, _NAME))
        for counterparts in by_shift
    )
    as_title, as_name = (
        tuple(write(counterpart) for counterparts in by_shift for counterpart, role in counterparts if role == wanted)
        for wanted in (_TITLE, _NAME)
    )
    roles = tuple(role or "" for _, role in by_shift[0] if role not in (_TITLE, _NAME))
    return _Form(word, group, roles if len(roles) > 1 else (), options, as_title, as_name, ambiguous)


def _capitalised(word: str) -> str:
    return word[:1].upper() + word[1:]


def _title_case(word: str) -> str:
    """Step-Mother, Mother-In-Law."""
    return "".join(map(_capitalised, _PART_SEPARATORS.split(word)))


def _title_case_but_small(word: str) -> str:
    """Mother-in-Law."""
    first, *rest = _PART_SEPARATORS.split(word)
    return _capitalised(first) + "".join(part if part in _SMALL_PARTS else _capitalised(part) for part in rest)


_LETTER_CASES = (str.lower, _capitalised, _title_case, _title_case_but_small, str.upper)
_AS_WRITTEN = (str, str.upper)


def _written_forms(
    word: str, letter_cases: Sequence[Callable[[str], str]] = _LETTER_CASES
) -> Iterator[tuple[str, Callable[[str], str]]]:
    """Every way in which a text may write a listed word: (the written word, how to write a counterpart alike)."""
    if not _PART_SEPARATORS.search(word):  # then they are as _capitalised
        letter_cases = [case for case in letter_cases if case not in (_title_case, _title_case_but_small)]
    for letter_case, normal_form, apostrophe, hyphen in itertools.product(
        letter_cases,
        ("NFC",) if word.isascii() else ("NFC", "NFD"),
        _APOSTROPHES if "'" in word else "'",
        _HYPHENS if "-" in word else "-",
    ):
        characters = str.maketrans({"'": apostrophe, "-": hyphen})

        def write(other: str, letter_case=letter_case, normal_form=normal_form, characters=characters) -> str:
            return unicodedata.normalize(normal_form, letter_case(other)).translate(characters)

        yield write(word), write
