"""A document and a word list -> its counterfactual and the edit spans.

1. One compiled automaton finds every listed word in each of its letter cases (he, He, HE), and every phrase of the
   list, where a word begins -> candidates.
2. Dropped are candidates that are only part of a longer word (hero, he\u0301) or of a protected phrase (King Street),
   what stands in links, tags and code, names and titles that are none here (Mr. James, Miss), and words that are
   others here (man the desk) -> matches.
3. A document that holds a word to skip is left alone (or its sentence, see `skip`). Every other match gets its
   counterpart in the other group; where a word has several, its role in the sentence decides (her book: his; saw her:
   him) -> replacements.
4. The article before a counterpart and the possessive behind it follow its form (an earl, a countess) -> edits.
5. The pieces are joined; every character outside the edits is kept -> text and spans.
"""

import hashlib
import itertools
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

from ahocorasick_rs import AhoCorasick, BytesAhoCorasick, MatchKind

from distill.base.errors import UserError
from distill.base.long_input import encodable
from distill.text import first_names, prose, senses
from distill.text.conversations import Conversation
from distill.text.roles import Ambiguity, PronounModel, Resolver, is_title
from distill.text.wordlist import WordList, capitalised, is_word_character

RULE_VERSION = "4"  # raise it whenever the same list and text may give another counterfactual

# What a word to skip leaves alone.
DOCUMENT, SENTENCE, NOTHING = "document", "sentence", "nothing"
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


# Faster than Span(...) and Ambiguity(...).
_new_span: Callable[[tuple[int, int, int, int]], Span] = partial(tuple.__new__, Span)
_new_ambiguity: Callable[[tuple[int, int, tuple[str, ...]]], Ambiguity] = partial(tuple.__new__, Ambiguity)


@dataclass(frozen=True)
class Counterfactual:
    """A text with its listed words swapped. Without spans, the text is the original.

    spans: of the words, and of the articles (an earl) and possessives (ladies' room) that follow their form.
    skipped: number of sentences that hold listed words and a word to skip. They, or the document, were left alone.
    no_prose: number of listed words that were left alone because they stand in links, addresses, tags or code.
    """

    text: str
    spans: tuple[Span, ...]
    skipped: int = 0
    no_prose: int = 0


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
    skip: (start, end) of the words to skip.
    no_prose: how many listed words stand in links, tags or code.
    """

    words: list[_Place]
    names: frozenset[int]
    skip: list[tuple[int, int]]
    no_prose: int


# What stands in the place of a role's index.
_AS_TITLE, _AS_NAME = -1, -2

_NOT_LISTED = -1  # in the place of a form: what differs from a compound of the list in its spaces, hyphens or accents

# What a character beside a word may be.
_NO_MARK, _IN_WORD, _MARK = range(3)


class _Kinds(dict[str, int]):
    """Character -> what it is beside a word; a look-up for every candidate is faster than a function that caches."""

    def __missing__(self, character: str) -> int:
        kind = _IN_WORD if is_word_character(character) else _MARK if character in prose.MARKS else _NO_MARK
        self[character] = kind
        return kind


_KINDS = _Kinds()


def _is_word_character(character: str) -> bool:
    return _KINDS[character] == _IN_WORD


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
    skip: what a word to skip leaves alone where it stands beside listed words: its whole document (half a document
        about a pregnant man is worse than none), its sentence, or nothing.

    Raises UserError for a `skip` that is none of these, and for a list that cannot be matched: roles in another
    language than English, which the default resolver does not read, and words of a script that puts no spaces between
    words.
    """

    def __init__(
        self,
        wordlist: WordList,
        resolver: Resolver | None = None,
        skip: Literal["document", "sentence", "nothing"] = "document",
    ) -> None:
        _refuse_wrong_arguments(wordlist, skip)
        self.wordlist = wordlist
        self.resolver = resolver or PronounModel()
        self.skip = skip
        _refuse_what_is_not_read(wordlist, self.resolver)
        protected = {
            written
            for phrase in wordlist.protected
            for written, _ in _written_forms(phrase, _LETTER_CASES if phrase == phrase.lower() else _AS_WRITTEN)
        }
        skipping = {written for phrase in wordlist.skip for written, _ in _written_forms(phrase)}
        listed = {written: form for written, form in _forms(wordlist).items() if written not in protected}
        simple = {written for written in listed if written.isalnum() and written not in skipping}
        forms = dict(sorted(listed.items(), key=lambda form: form[0] not in simple))
        patterns = [*forms, *sorted(protected), *sorted(skipping - forms.keys() - protected)]
        self._forms = list(forms.values())
        self._first_skip = len(forms) + len(protected)
        self._skipping = frozenset(place for place, pattern in enumerate(patterns) if pattern in skipping)
        self._first_compound = len(simple)  # from here on are phrases, and words that skip their sentence too
        self._compounds = {pattern: place for place, pattern in enumerate(patterns) if place >= self._first_compound}
        self._longest = max(map(len, patterns))
        self._is_plain = [bool(form.options[0]) and not (form.as_title or form.as_name) for form in self._forms]
        self._needs_choice = [bool(form.roles or form.as_title or form.as_name) for form in self._forms]
        # By shift - 1 and form; None where a choice decides.
        self._only_counterparts = [
            [
                None if needs_choice else form.options[shift][0]
                for form, needs_choice in zip(self._forms, self._needs_choice, strict=True)
            ]
            for shift in range(wordlist.num_groups - 1)
        ]
        self._has_names = any(form.as_name for form in self._forms)
        # The rules for English are for lists that say that they are English.
        self._is_english = wordlist.language == "en"
        self._doubts = [
            [senses.look(form.word, written, slashed) if self._is_english else None for written, form in forms.items()]
            for slashed in (False, True)
        ]
        self._looks = [
            [look if plain else senses.always for look, plain in zip(doubts, self._is_plain, strict=True)]
            for doubts in self._doubts
        ]
        self._inflected = (
            {index for index, (written, form) in enumerate(forms.items()) if _may_inflect(written, form)}
            if self._is_english
            else frozenset()
        )
        code_page = _code_page(patterns)
        self._candidates = None if code_page is None else _Candidates(patterns, code_page)
        self._overlapping = AhoCorasick(patterns, matchkind=MatchKind.Standard)

    def __reduce__(self) -> tuple:
        return Swapper, (self.wordlist, self.resolver, self.skip)

    @property
    def cache_key(self) -> str:
        """Hash of everything that decides a counterfactual: the list, the rules here and the resolver."""
        language = self.wordlist.metadata.get("language", "")
        parts = (
            self.wordlist.sha256,
            RULE_VERSION,
            first_names.VERSION,
            senses.VERSION,
            self.resolver.version,
            language,
            self.skip,
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def model(self) -> Any:
        """The language model that its resolver asks; `None` where rules decide."""
        return getattr(self.resolver, "model", None)

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
        words, names, skip, no_prose = self._find(text)
        skipped = 0
        if skip and words and self.skip != NOTHING:
            outside, skipped = _outside_sentences(text, words, skip)
            words = outside if self.skip == SENTENCE or not skipped else []
        if not words:
            return (Counterfactual(text, (), skipped, no_prose),) * len(shifts)
        choices = self._choose(text, words, names)
        return tuple(Counterfactual(*self._rewrite(text, words, choices, shift), skipped, no_prose) for shift in shifts)

    def _find(self, text: str) -> _Found:
        """The listed words, leftmost and then longest first, and what else matters."""
        if self._candidates is None:
            return self._find_among_overlapping(text)
        words, skip, beside_marks, seen = [], [], [], []
        padded, emphasised = f" {text} ", "_" in text
        kinds, looks, first_compound = _KINDS, self._looks[_is_slashed(text)], self._first_compound
        for form, start, behind in self._candidates(text):
            before, after, end = kinds[padded[start]], kinds[padded[behind]], behind - 1
            if before or after:
                if (before == _IN_WORD or after == _IN_WORD) and not (emphasised and _is_whole(text, start, end)):
                    # A dropped compound ("step-son" in "step-sonship") may hide a listed word in it ("step").
                    if form >= first_compound and self._begin_within(text, start, end):
                        return self._find_among_overlapping(text)
                    continue
                # A mark that ends a sentence or a clause, as most do, joins the word to nothing.
                if before == _MARK or (after == _MARK and padded[behind + 1] not in prose.RUN_ENDS):
                    beside_marks.append((start, end))
            if form >= first_compound:
                form = self._compounds.get(text[start:end], _NOT_LISTED)
                if self._hides_another(text, form, start, end):
                    return self._find_among_overlapping(text)
                if form in self._skipping:
                    skip.append((start, end))
                if form == _NOT_LISTED or form >= len(self._forms):
                    continue
            place = form, start, end
            words.append(place)
            if (look := looks[form]) and look(text, end):
                seen.append(place)
        return self._judged(text, words, skip, beside_marks, seen)

    def _hides_another(self, text: str, form: int, start: int, end: int) -> bool:
        """Whether a protected phrase begins in a listed compound, and goes before it, or anything in one not listed."""
        if form >= len(self._forms):
            return False
        within = self._begin_within(text, start, end)
        if form == _NOT_LISTED:
            return bool(within)
        return any(begin > start and len(self._forms) <= other < self._first_skip for other, begin, _ in within)

    def _begin_within(self, text: str, start: int, end: int) -> list[_Place]:
        """What of the list begins in [start, end]; at its end, if a candidate took the space that belongs to it."""
        near = encodable(text[start : end + self._longest])
        return [
            (form, start + first, start + last)
            for form, first, last in self._overlapping.find_matches_as_indexes(near, overlapping=True)
            if start + first <= end and _is_whole(text, start + first, start + last)
        ]

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
            if form in self._skipping:
                skip.append((start, end))
        looks, spans = self._looks[_is_slashed(text)], [(start, end) for _, start, end in words]
        seen = [place for place in words if (look := looks[place[0]]) and look(text, place[2])]
        return self._judged(text, words, skip, spans, seen)

    def _judged(
        self,
        text: str,
        words: list[_Place],
        skip: list[tuple[int, int]],
        beside_marks: list[tuple[int, int]],
        seen: list[_Place],
    ) -> _Found:
        """Without the words in links and code, those that are titles or names only and are neither, and other words.

        beside_marks: (start, end) of at least the words that a mark of `prose.MARKS` joins to something.
        seen: at least the words that may be none, or names.
        """
        if not words:
            return _Found(words, frozenset(), skip, 0)
        found = len(words)
        words = _in_prose(text, words, beside_marks)
        no_prose = found - len(words)
        if no_prose:
            kept = set(words)
            seen = [place for place in seen if place in kept]
        if not seen:
            return _Found(words, frozenset(), skip, no_prose)
        names = self._names(text, seen)
        left_alone = {
            start
            for form, start, end in seen
            if not self._is_plain[form] and not self._counts(text, form, start, end, names)
        }
        if self._is_english:
            left_alone |= self._others(text, [place for place in seen if place[1] not in left_alone], names)
        if left_alone:
            words = [place for place in words if place[1] not in left_alone]
        return _Found(words, names, skip, no_prose)

    def _names(self, text: str, seen: list[_Place]) -> frozenset[int]:
        """Where those begin that are first names here."""
        if not self._has_names:
            return frozenset()
        candidates = [
            first_names.Candidate(start, end, self._forms[form].ambiguous)
            for form, start, end in seen
            if self._forms[form].as_name and not text[start].islower()
        ]
        judged = first_names.first_names(text, candidates)
        return frozenset(c.start for c, is_name in zip(candidates, judged, strict=True) if is_name)

    def _others(self, text: str, seen: list[_Place], names: frozenset[int]) -> set[int]:
        """Where those begin that are other words here: man the desk."""
        doubts = self._doubts[_is_slashed(text)]
        doubtful = [
            senses.Place(start, end, self._forms[form].word)
            for form, start, end in seen
            if (look := doubts[form]) and start not in names and look(text, end)
        ]
        if not doubtful:
            return set()
        return {place.start for place, other in zip(doubtful, senses.others(text, doubtful), strict=True) if other}

    def _counts(self, text: str, form: int, start: int, end: int, names: frozenset[int]) -> bool:
        of_form = self._forms[form]
        return bool(of_form.options[0] or start in names or (of_form.as_title and is_title(text, start, end)))

    def _choose(self, text: str, words: list[_Place], names: frozenset[int]) -> dict[int, int]:
        """For every match with several counterparts: start -> index of its role, or what else it is."""
        choices: dict[int, int] = {}
        ambiguities = []
        needs_choice = self._needs_choice
        for index, start, end in [place for place in words if needs_choice[place[0]]]:
            form = self._forms[index]
            if start in names:
                choices[start] = _AS_NAME
            elif form.as_title and is_title(text, start, end):
                choices[start] = _AS_TITLE
            elif form.roles:
                ambiguities.append(_new_ambiguity((start, end, form.roles)))
        if ambiguities:
            chosen = self.resolver(text, ambiguities)
            choices.update(zip((ambiguity.start for ambiguity in ambiguities), chosen, strict=True))
        return choices

    def _rewrite(
        self, text: str, words: list[_Place], choices: dict[int, int], shift: int
    ) -> tuple[str, tuple[Span, ...]]:
        pieces: list[str] = []
        spans: list[tuple[int, int, int, int]] = []
        edits: tuple[_Edit, ...]
        inflected, counterparts = self._inflected, self._only_counterparts[shift - 1]
        position = cf_position = 0
        for index, start, end in words:
            word = counterparts[index]
            if word is None:
                form, choice = self._forms[index], choices.get(start, 0)
                if choice >= 0:
                    word = form.options[shift - 1][choice]
                else:
                    word = (form.as_title if choice == _AS_TITLE else form.as_name)[shift - 1]
            if index in inflected and (
                text[start - 2 : start] in _BEHIND_ARTICLES or text[end : end + 1] in _APOSTROPHES_AFTER
            ):
                edits = _in_form(text, start, end, word)
            elif start >= position:
                pieces += (text[position:start], word)
                cf_start = cf_position + start - position
                position, cf_position = end, cf_start + len(word)
                spans.append((start, end, cf_start, cf_position))
                continue
            else:
                continue
            for edit_start, edit_end, new in edits:
                if edit_start < position:  # an article that is a word of the list itself
                    continue
                pieces += (text[position:edit_start], new)
                cf_start = cf_position + edit_start - position
                position, cf_position = edit_end, cf_start + len(new)
                spans.append((edit_start, edit_end, cf_start, cf_position))
        pieces.append(text[position:])
        return "".join(pieces), tuple(map(_new_span, spans))


_Edit = tuple[int, int, str]  # [start, end) and what comes there
_VOWEL_SOUND = re.compile(
    r"(?!eu|ew|one\b|once|uni(?!m|n)|us[aeiu]|ut[aeio]|ur[aeiou]|ub[ei])[aeiou]|heir|honou?r|honest|hour",
    re.IGNORECASE,
)
_OPENING_QUOTE = re.compile(r"(?:^|[^\w'’])['‘]\w[^\n]*$")


def _in_form(text: str, start: int, end: int, word: str) -> tuple[_Edit, ...]:
    """The edits that put a counterpart in the place of [start, end): itself, its article, its possessive."""
    edit = (start, end, word)
    if text[start - 2 : start] in _BEHIND_ARTICLES:
        article = _article(text, start, end, word)
        if article:
            return (article, edit)
    if text[end : end + 1] in _APOSTROPHES_AFTER and (possessive := _possessive(text, start, end, word)):
        return (edit, possessive)
    return (edit,)


def _may_inflect(written: str, form: _Form) -> bool:
    """Whether a counterpart may take another article, or another possessive, than a word that is written so."""
    has_vowel_sound, ends_in_s = _has_vowel_sound(written), written[-1:] in "sS"
    return any(
        _has_vowel_sound(word) != has_vowel_sound or (word[-1:] in "sS") != ends_in_s
        for words in (*form.options, form.as_title, form.as_name)
        for word in words
    )


_BEHIND_ARTICLES = frozenset({"a ", "A ", "n ", "N "})
_APOSTROPHES_AFTER = frozenset(_APOSTROPHES)
_ARTICLE = re.compile(r"(?<![\w'’.&/-])an? $", re.IGNORECASE)


def _article(text: str, start: int, end: int, word: str) -> _Edit | None:
    """The other article, where the text's is right before the word and wrong before its counterpart."""
    found = _ARTICLE.search(text, max(0, start - 4), start)
    if not found:
        return None
    was, becomes = _has_vowel_sound(text[start:end]), _has_vowel_sound(word)
    article = found[0][:-1]
    if was == becomes or was != (len(article) == 2):
        return None
    new = article + ("N" if article.isupper() and word.isupper() and len(word) > 1 else "n") if becomes else article[0]
    return found.start(), found.end() - 1, new


def _has_vowel_sound(word: str) -> bool:
    return _VOWEL_SOUND.match(word) is not None


_QUOTES_BEFORE = frozenset("'‘`")


def _possessive(text: str, start: int, end: int, word: str) -> _Edit | None:
    """ladies' room: gentlemen's room; gentlemen's room: ladies' room; princess' crown: prince's crown."""
    own = text[start:end]
    if own.lower() in ("his", "hers") or text[start - 1 : start] in _QUOTES_BEFORE:
        return None
    ends_in_s, will = own[-1:] in "sS", word[-1:] in "sS"
    if ends_in_s == will or _OPENING_QUOTE.search(text, text.rfind("\n", 0, start) + 1, start):
        return None
    letter = "S" if word.isupper() and len(word) > 1 else "s"
    after = text[end + 1 : end + 2]
    if ends_in_s:
        if after.isalnum():
            return None
        return end, end + 1, text[end] + letter
    is_plural = own[-3:].lower() == "men"
    if is_plural and after in ("s", "S") and not text[end + 2 : end + 3].isalnum():
        return end, end + 2, text[end]
    return None


# Scripts that put no spaces between words: Han, Hiragana, Katakana, Thai, Lao, Burmese, Khmer.
_NO_SPACES = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def _refuse_wrong_arguments(wordlist: object, skip: object) -> None:
    """Raises UserError for what a `Swapper` takes for none of its arguments."""
    if not isinstance(wordlist, WordList):
        raise UserError(
            f"a Swapper takes a word list, not {wordlist!r:.100}; give load_wordlist(NAME), as of 'english_gender'"
        )
    if skip not in (DOCUMENT, SENTENCE, NOTHING):
        raise UserError(f"skip is {skip!r:.100}, but must be '{DOCUMENT}', '{SENTENCE}' or '{NOTHING}'")


def _refuse_what_is_not_read(wordlist: WordList, resolver: Resolver) -> None:
    """Raises UserError for rows that would be matched wrongly, or never."""
    language = wordlist.language
    for row in wordlist.rows:
        where = f"{row.file or wordlist.name}, line {row.line}"
        found = next((word for word in row.words if _NO_SPACES.search(word)), None)
        if found is not None:
            raise UserError(
                f"{where}: {found!r} is in a script that puts no spaces between words, and words are found between "
                "spaces: it would hardly ever be found; leave the row out"
            )
        is_read = row.when is None or (not isinstance(resolver, PronounModel) and row.when not in (_TITLE, _NAME))
        if language not in ("", "en") and not is_read:
            raise UserError(
                f"{where}: the role {row.when!r} is told by a model of English, but the list's language is "
                f"{language!r}; write rows without a role, or phrases that tell the words apart (el niño, la niña)"
            )


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
    return Counterfactual("".join(pieces), tuple(spans), said.skipped, said.no_prose)


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


def _is_slashed(text: str) -> bool:
    """Whether a text may have she and he in one word: s/he, (s)he."""
    return "/" in text or (")" in text and ")he" in text)


def _in_prose(text: str, words: list[_Place], beside_marks: list[tuple[int, int]]) -> list[_Place]:
    """The words that do not stand in links, tags or code."""
    blocks = prose.blocks(text)
    if blocks:
        return [place for place in words if prose.is_prose(text, place[1], place[2], blocks)]
    if beside_marks and not any(map(text.__contains__, prose.SIGNS)):
        beside_marks = [(start, end) for start, end in beside_marks if text[end : end + 1] in prose.JOINED]
    odd = {start for start, end in beside_marks if not prose.is_prose(text, start, end, blocks)}
    return [place for place in words if place[1] not in odd] if odd else words


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether no word character adjoins [start, end); the underscores around an emphasised word are none."""
    before, after = text[start - 1 : start], text[end : end + 1]
    if before and _is_word_character(before) and not (before == "_" and _opens_emphasis(text, start, end)):
        return False
    return not (after and _is_word_character(after) and not (after == "_" and _closes_emphasis(text, start, end)))


_EMPHASIS_OPENS = re.compile(r"(?<![^\W_])_{1,3}$")
_EMPHASIS_CLOSES = re.compile(r"_{1,3}(?![^\W_])")
_LONGEST_EMPHASIS = 200  # characters


def _opens_emphasis(text: str, start: int, end: int) -> bool:
    """Whether the underscore before the word opens emphasis, which is closed in the same line: _her idea_."""
    if not _EMPHASIS_OPENS.search(text, max(0, start - 4), start):
        return False
    line_end = text.find("\n", end, end + _LONGEST_EMPHASIS)
    rest = text[end - 1 : line_end if line_end >= 0 else end + _LONGEST_EMPHASIS]
    return any(not rest[found.start() - 1].isspace() for found in _EMPHASIS_CLOSES.finditer(rest, 1))


def _closes_emphasis(text: str, start: int, end: int) -> bool:
    """Whether the underscore behind the word closes emphasis, which was opened in the same line: _not her_."""
    if not _EMPHASIS_CLOSES.match(text, end):
        return False
    first = max(text.rfind("\n", 0, start) + 1, start - _LONGEST_EMPHASIS)
    head = text[first : start + 1]
    return any(not head[found.end()].isspace() for found in re.finditer(r"(?<![^\W_])_{1,3}(?=.)", head))


# Encodings of one byte a character; Windows' hold what Latin-1 lacks.
_CODE_PAGES = ("latin-1", *(f"cp{number}" for number in range(1250, 1258)))


def _code_page(patterns: Iterable[str]) -> str | None:
    """The first code page that holds all letters of a list; there is none for some scripts, and for several at once."""
    letters = "".join(filter(str.isalnum, set().union(*patterns)))
    return next((page for page in _CODE_PAGES if len(letters.encode(page, "ignore")) == len(letters)), None)


class _Candidates:
    """Finds where the words and phrases of a list may stand: where a word begins.

    Every other "he" of a text is a part of a word (the, she), and to drop it takes longer than to find it. So the
    automaton looks for " he", in a copy of the text that has a byte for every character, and a space for all that are
    no letters or digits: it finds “he and -he, too. In the copy, other characters look alike; who asks compares with
    the text: "step-son" is found in "step son", and "he" behind a letter that the code page lacks.

    patterns: what is looked for; code_page: one that holds all their letters.
    """

    def __init__(self, patterns: Iterable[str], code_page: str) -> None:
        self._code_page = code_page
        self._spaced = bytes(
            byte if is_word_character(character) and character != "_" else ord(" ")
            for byte, character in enumerate(bytes(range(256)).decode(code_page, "replace"))
        )
        copies = [self._copy(f" {pattern}") for pattern in patterns]
        self._automaton = BytesAhoCorasick(copies, matchkind=MatchKind.LeftmostLongest)

    def _copy(self, text: str) -> bytes:
        return text.encode(self._code_page, "replace").translate(self._spaced)

    def __call__(self, text: str) -> list[tuple[int, int, int]]:
        """The leftmost and then longest candidates: (pattern, start, end + 1)."""
        return self._automaton.find_matches_as_indexes(self._copy(f" {text}"))


def _forms(wordlist: WordList) -> dict[str, _Form]:
    """Every way in which a text may write the words of a list."""
    roles_of: dict[str, set[str | None]] = {}
    for row in wordlist.rows:
        for _, word in row.listed:
            roles_of.setdefault(word, set()).add(row.when)
    ambiguous = {word for row in wordlist.rows if row.ambiguous for word in row.words}
    forms: dict[str, _Form] = {}
    language = wordlist.language
    all_cases = _TURKISH_CASES if language in ("tr", "az") else _LETTER_CASES
    for word, group in wordlist.group_of.items():
        # "will" and "mark" are no names.
        letter_cases = all_cases[1:] if roles_of[word] == {_NAME} else all_cases
        if language == "de" and word in _GERMAN_YOU:
            letter_cases = letter_cases[:1]
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


def _title_case(word: str) -> str:
    """Step-Mother, Mother-In-Law."""
    return "".join(map(capitalised, _PART_SEPARATORS.split(word)))


def _title_case_but_small(word: str) -> str:
    """Mother-in-Law."""
    first, *rest = _PART_SEPARATORS.split(word)
    return capitalised(first) + "".join(part if part in _SMALL_PARTS else capitalised(part) for part in rest)


_LETTER_CASES = (str.lower, capitalised, _title_case, _title_case_but_small, str.upper)
_AS_WRITTEN = (str, str.upper)
# Capitalised, these are forms of the polite "you".
_GERMAN_YOU = frozenset({"sie", "ihr", "ihre", "ihrem", "ihren", "ihrer", "ihres", "ihnen"})
_TURKISH_CAPITALS = str.maketrans("iı", "İI")


def _turkish(letter_case: Callable[[str], str]) -> Callable[[str], str]:
    """The letter case with dotted and dotless capitals: a letter that it changes is changed as Turkish does."""

    def write(word: str) -> str:
        dotted = word.translate(_DOTTED)
        return "".join(
            letter if new == old else letter.translate(_TURKISH_CAPITALS).upper()
            for letter, old, new in zip(word, dotted, letter_case(dotted), strict=True)
        )

    return write


_DOTTED = str.maketrans("ı", "i")  # whose capital is one letter for Python, too
_TURKISH_CASES: tuple[Callable[[str], str], ...] = (str.lower, *map(_turkish, _LETTER_CASES[1:]))
_FOR_SEVERAL_PARTS = frozenset(cases[place] for cases in (_LETTER_CASES, _TURKISH_CASES) for place in (2, 3))


def _written_forms(
    word: str, letter_cases: Sequence[Callable[[str], str]] = _LETTER_CASES
) -> Iterator[tuple[str, Callable[[str], str]]]:
    """Every way in which a text may write a listed word: (the written word, how to write a counterpart alike)."""
    if not _PART_SEPARATORS.search(word):  # then they are as capitalised
        letter_cases = [case for case in letter_cases if case not in _FOR_SEVERAL_PARTS]
    for letter_case, normal_form, apostrophe, hyphen in itertools.product(
        letter_cases,
        ("NFC",) if word.isascii() else ("NFC", "NFD"),
        _APOSTROPHES if "'" in word else "'",
        _HYPHENS if "-" in word else "-",
    ):
        if (normal_form, apostrophe, hyphen) == ("NFC", "'", "-"):  # as the list has them
            yield letter_case(word), letter_case
            continue
        characters = str.maketrans({"'": apostrophe, "-": hyphen})

        def write(other: str, letter_case=letter_case, normal_form=normal_form, characters=characters) -> str:
            return unicodedata.normalize(normal_form, letter_case(other)).translate(characters)

        yield write(word), write
