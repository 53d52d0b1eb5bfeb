"""A listed first name in a text -> whether it is a person's first name there (Henry James: Henry is, James is none).

English only, deterministic, without a model. What stands around a name says how it is used:

- a surname: behind a first name, an initial or a title (Henry James, W. James, Mr. James), unless another one follows
  (Mr. James Smith);
- part of something else: saints, places, institutions (St. James, Lake Victoria, George Washington University);
- surely a first name: before a surname, or behind a title or a kinship term that takes one (Queen Victoria, his sister
  Rose);
- a person, by first name or surname (said Grant, Miss Grant), or nothing at all.

That is read by `_RULES`, of which the first that applies decides, from the words of
`wordlists/english_first_names.txt`. The occurrences in a document then judge each other, so that a name is treated
alike all through it: "James went" is a surname where "Henry James" went before. A name that is often something else
(rose, will, Florence) is a first name only where its own context or that of another occurrence says so.

On the validation articles on people of Wikipedia (`pytest tests/text/test_first_names.py -k wikipedia -s`), the first
mention of the person's first name is found in 137 of 137 articles, and 60 of 66 mentions of a surname that could be a
first name are left alone.

Limits: a surname that never stands behind a first name or a title is taken for a first name, and a first name that
stands alone but rarely, and often behind "Mr.", for a surname. Names joined by hyphens to unlisted ones (Karl-Heinz)
are left alone.
"""

import enum
import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

from distill.base.files import PACKAGE

_RULE_VERSION = "3"  # raise it whenever the same words may be judged otherwise


class Candidate(NamedTuple):
    """A listed name, capitalised or in capitals, in a text: [start, end) in characters.

    ambiguous: the name is also a common word, a place, or a surname first of all.
    """

    start: int
    end: int
    ambiguous: bool


class _Use(enum.Enum):
    """What the words around an occurrence say of it."""

    FIRST = enum.auto()  # a first name
    MIDDLE = enum.auto()  # one that could be a surname, between a first name and a surname; alone it may be either
    SURNAME = enum.auto()
    AFTER_TITLE = enum.auto()  # behind a title of surnames, alone
    OTHER = enum.auto()  # no person's name, or part of a longer name that stays whole; says nothing of the others
    PERSON = enum.auto()  # a person, by first name or surname
    TITLED = enum.auto()  # behind a title that stands before first names and surnames alike
    PLACE = enum.auto()  # looks like a place; said of ambiguous names only
    NEUTRAL = enum.auto()
    OPENING = enum.auto()  # as NEUTRAL, and the capital says nothing either


def first_names(text: str, candidates: Sequence[Candidate]) -> list[bool]:
    """For every candidate, from left to right: whether it is a person's first name.

    The candidates of one text are judged together.
    """
    names = [text[start:end].lower() for start, end, _ in candidates]
    reader = _Reader(text, {name: ambiguous for name, (_, _, ambiguous) in zip(names, candidates, strict=True)})
    uses = [reader.use(candidate) for candidate in candidates]
    by_name: dict[str, list[_Use]] = {}
    for name, use in zip(names, uses, strict=True):
        by_name.setdefault(name, []).append(use)
    first = {
        name: _first_uses(of_name, reader.is_ambiguous[name], partial(reader.holds, name))
        for name, of_name in by_name.items()
    }
    return [use in first[name] for name, use in zip(names, uses, strict=True)]


def _first_uses(uses: list[_Use], is_ambiguous: bool, in_lower_case: Callable[[], bool]) -> set[_Use]:
    """The uses in which a name is a first name, by all of its uses in the document.

    in_lower_case: whether the document also has the name as a word in lower case.
    """
    counted = (_Use.FIRST, _Use.SURNAME, _Use.AFTER_TITLE, _Use.NEUTRAL, _Use.OPENING, _Use.PERSON, _Use.PLACE)
    first, surname, after_title, neutral, opening, person, place = map(uses.count, counted)
    # A title says less than a first name: to his servants, Edward Rochester is Mr. Edward.
    as_surname = surname + after_title / 3
    introduced = next((use for use in uses if use in (_Use.FIRST, _Use.SURNAME, _Use.NEUTRAL)), None) is _Use.SURNAME
    is_surname = as_surname > first or (as_surname == first and introduced)
    lone = neutral + person + opening
    # Once among many, what looks like a surname may be a misreading.
    if is_surname and (is_ambiguous or introduced or as_surname * _MANY > neutral):
        return set() if lone else {_Use.FIRST, _Use.MIDDLE}  # one treatment for all that may be the same person
    found = {_Use.FIRST, _Use.MIDDLE}
    if first:
        found.add(_Use.TITLED)
    if not is_ambiguous:
        found |= {_Use.PERSON, _Use.NEUTRAL, _Use.OPENING}
        return found | {_Use.AFTER_TITLE} if first and neutral > 3 * after_title else found
    if place >= first + person:
        return found
    if first or person > 1:
        found |= {_Use.PERSON, _Use.NEUTRAL}
        if first + person > 4 or not in_lower_case() or neutral + person > opening:
            found.add(_Use.OPENING)
    elif person and not (neutral or opening):
        found.add(_Use.PERSON)
    return found


def _word_tables(path: Path) -> dict[str, frozenset[str]]:
    """The tables of a file of words, by name; the file says what each is for."""
    tables: dict[str, list[str]] = {}
    words: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            words = tables[line.strip("[]")] = []
        elif not line.startswith("#"):
            words += line.split()
    return {name: frozenset(word.replace("_", " ") for word in words) for name, words in tables.items()}


# What each of these is for, and an example of most, stands in the file.
_FILE = PACKAGE / "wordlists" / "english_first_names.txt"
_WORDS = _word_tables(_FILE)
#: Changes with the rules and with their words.
VERSION = f"{_RULE_VERSION} {hashlib.sha256(_FILE.read_bytes()).hexdigest()}"
_SURNAME_TITLES, _FIRST_TITLES = _WORDS["surname_titles"], _WORDS["first_titles"]
_ROYAL_TITLES, _EITHER_TITLES = _WORDS["royal_titles"], _WORDS["either_titles"]
_TITLES_OF_SURNAMES_TOO, _LORDS = _WORDS["titles_of_surnames_too"], _WORDS["lords"]
_KIN, _NAMING = _WORDS["kin"], _WORDS["naming"]
_SURNAMES, _NO_USUAL_SURNAMES = _WORDS["surnames"], _WORDS["no_usual_surnames"]
_DOUBLE_NAMES = _WORDS["double_names"] | {
    f"{first} {second}" for first in _WORDS["first_of_two_names"] for second in _WORDS["second_of_two_names"]
}
_SECOND_NAMES = _WORDS["second_names"] | _WORDS["second_of_two_names"] | _NO_USUAL_SURNAMES
_WORKS = _WORDS["works"]
_PARTICLES = _WORDS["particles"]
_LINKS = _PARTICLES | _WORDS["particles_within"]
_CALENDAR = _WORDS["calendar"]
_NO_SURNAMES = _WORDS["no_surnames"] | _CALENDAR
_SPEECH = _WORDS["speech"]
_OPENERS = _WORDS["openers"] | _NO_SURNAMES | _SPEECH | _KIN
_NATIONS, _ABBREVIATIONS = _WORDS["nations"], _WORDS["abbreviations"]
_BEFORE_SAINT_OR_PLACE = _WORDS["before_saint_or_place"]
_NO_PERSON, _NO_PERSON_THERE = _WORDS["no_person"], _WORDS["no_person_there"]
_PLACE_PREPOSITIONS = _WORDS["place_prepositions"]
_ONLY_OF_PLACES = _PLACE_PREPOSITIONS - _WORDS["place_prepositions_of_persons_too"]
_ARTICLES, _POSSESSIVES, _PARTS = _WORDS["articles"], _WORDS["possessives"], _WORDS["parts"]
_OF_PLACES, _BEFORE_TIME, _REGIONS = _WORDS["of_places"], _WORDS["before_time"], _WORDS["regions"]
_HUMAN_VERBS = _WORDS["human_verbs"] | _SPEECH
_AFTER_SUBJECT = _WORDS["after_subject"]
_BEFORE_PERSON = _WORDS["before_person"] | _SPEECH
_PERSONAL_THINGS = _WORDS["personal_things"]
_TOWNS, _MOVING = _WORDS["towns"], _WORDS["moving"]
_BRANDS, _ZODIAC = _WORDS["brands"], _WORDS["zodiac"]
#: First names, in lower case, that `english_names` has no pair for.
MORE_FIRST_NAMES = _WORDS["more_first_names"]

# Lone occurrences for each that looks like a surname.
_MANY = 30
# The characters before a name that are read.
_REACH = 48
_HYPHENS = frozenset("-‐‑")
_HYPHEN = re.compile(r"[-‐‑]")
_PLACE_ENDS = frozenset(",.;)")
_SENTENCE_ENDS = frozenset('.!?:…"”*')
_OPENING_MARKS = "\"“‘'([*"
_MARKS = ".,;:!?…\"”’')]*" + _OPENING_MARKS
_QUOTES_BEFORE, _QUOTES_AFTER = frozenset("\"“‘'("), frozenset("\"”’')")
_NAME_BEFORE = re.compile(r"[A-Z][\w.'’-]* \S+$")
_RULER = re.compile(r"([A-Z][\w.'’-]*) of $")
_THE_QUEEN = re.compile(r"\bthe (?:King|Queen) $")
_DAY_OF = re.compile(r"\d(?:st|nd|rd|th) (?:day )?of $")
_NICKNAME = re.compile(r"[\"”’')][ \xa0]+[A-Z]")
_MIDDLE_NAME = re.compile(r"[ \xa0]\w[\w'’-]*\.?[ \xa0]")
_NAMED = re.compile(
    r"(?:,|\b(?:also|and|baby|be|been|boy|brother|child|daughter|friend|girl|husband|is|lad|man|one|sister|son|was|were"
    r"|wife|woman)) \w+ $"
)
_PART_BEFORE = re.compile(r"(?:[^\W_]+[-‐‑])+$")
_PART_AFTER = re.compile(r"(?:[-‐‑][^\W_]+){1,4}")
_DASH = re.compile(r"--|[—–]")
_INITIALS = re.compile(r"(?:[A-Z]\.)*[A-Z]")
_REGNAL = re.compile(r"(?:X{0,2}(?:IX|IV|V?I{1,3}|V)|X{1,2})\.?")
_NO_NAME_ENDING = re.compile(r"(?:ly|ing|ed|ish|ese|ian|ean|ican|['’]s|['’]t|['’]d|['’]ve|['’]ll)$", re.IGNORECASE)
_NO_INITIALS = frozenset("AIOVX")  # words and chapter numbers
_FOLLOWING = re.compile(
    r"[ \xa0]+"
    r"(?:[\"“'‘(][^\W\d_][\w ]{0,16}[\"”'’)][ \xa0]+)?"  # James "Jimmy" Smith
    r"((?:[a-z]{1,6}\.?[ \xa0]+){0,3})"
    r"(?:[dlDLO]['’]|al-|el-)?"
    r"([^\W\d_](?:[\w&]|['’.-](?=\w))*)"
)
_RUN = re.compile(r"(?:[ \xa0]+[A-Z][\w'’.-]*){1,4}")
_CHAPTER_AND_VERSE = re.compile(r"[ \xa0]\d+:\d")
_CAPITALISED = re.compile(r"[ \xa0][A-Z][a-z]")
_NUMBER = re.compile(r",?[ \xa0]\d")
_REGION = re.compile(r",[ \xa0]((?:(?:New|North|South|West)[ \xa0])?[A-Z]\w+)")
_WORD_AFTER = re.compile(r"[ \xa0]+([^\W\d_]+)")
_OWN = re.compile(r"['’]s\b(?:[ \xa0]+([^\W\d_]+))?")
_CALLED_OUT = re.compile(r"[,.!?]+(?:--|—)?[\"”’']")
_AND_OWN = re.compile(r",? and (?:I|his|her|he|she)\b|, (?:who|whose|whom)\b")


_PERSONAL = frozenset({_Use.FIRST, _Use.MIDDLE, _Use.SURNAME, _Use.AFTER_TITLE, _Use.PERSON})


class _Chain(NamedTuple):
    """The candidate just read, to whose bearer the next one may belong.

    end: where it ended; person: whether it is a person there; royal: whether a title that takes first names only
    stands before it (Pope John Paul); there: whether an article or a preposition of place does.
    """

    end: int = -1
    person: bool = False
    royal: bool = False
    there: bool = False


class _Before(NamedTuple):
    """What stands before a name.

    word: the word before it, without punctuation, if nothing but space stands between; else empty.
    opens: whether the name opens a sentence, a line or a quotation.
    word_opens: whether the word before it does.
    comma: whether a comma stands before it; of_list: the capitalised word before the comma, within a sentence.
    nickname: whether a nickname in quotation marks or brackets stands before it (Friedrich "Fritz" Walter).
    """

    word: str = ""
    opens: bool = False
    word_opens: bool = False
    comma: bool = False
    of_list: str = ""
    nickname: bool = False


def _before(text: str, start: int) -> _Before:
    head = text[max(0, start - _REACH) : start]
    body = head.rstrip()
    if not body:
        return _Before(opens=True)
    if len(body) == len(head):  # a quotation mark, a bracket, a dash
        return _Before(opens=head[-1] not in "([/,;")
    line_break = "\n" in head[len(body) :]
    chunk = _DASH.split(body.split()[-1])[-1]
    word = chunk.strip(_MARKS)
    if not word:
        return _Before(opens=True)
    rest = body[: len(body) - len(chunk)]
    last = rest.rstrip()
    word_opens = not last or "\n" in rest[len(last) :] or last[-1] in _SENTENCE_ENDS or chunk[0] in _OPENING_MARKS
    trail = chunk[chunk.rfind(word) + len(word) :]
    if trail == "." and (word.lower() in _ABBREVIATIONS or _INITIALS.fullmatch(word)):
        return _Before(word, word_opens=word_opens)
    if line_break and not word.islower():
        return _Before(opens=True)
    if not trail:
        return _Before(word, word_opens=word_opens)
    if trail[0] in _QUOTES_AFTER and chunk[0] in _QUOTES_BEFORE and _NAME_BEFORE.search(body):
        return _Before(nickname=True)
    in_list = trail == "," and word[0].isupper() and not word_opens
    return _Before(opens=trail[0] not in ",;)’'", comma=trail == ",", of_list=word if in_list else "")


class _Occurrence:
    """A name in its place, as the rules see it.

    start, end: of the name and the listed names that hyphens join to it.
    written: the name alone, as it is written; name: the same in lower case.
    before: what stands before it; word: the word there in lower case; capital: whether that has a capital.
    chain: the candidate before, where this one may belong to its bearer.
    may_be_surname: whether it is a usual surname, too.
    full: whether a surname, another first name, or a monarch's number follows.
    """

    __slots__ = (
        *("reader", "text", "start", "end", "written", "name", "ambiguous"),
        *("before", "word", "capital", "chain", "may_be_surname", "full"),
    )

    def __init__(
        self, reader: "_Reader", extent: tuple[int, int], written: str, ambiguous: bool, before: _Before, chain: _Chain
    ) -> None:
        self.reader, self.text = reader, reader.text
        self.start, self.end = extent
        self.written, self.name, self.ambiguous = written, written.lower(), ambiguous
        self.before, self.word, self.capital = before, before.word.lower(), before.word[:1].isupper()
        self.chain = chain
        self.may_be_surname = reader.may_be_surname(self.name)
        self.full = self._is_full_name()

    def _is_full_name(self) -> bool:
        following = _FOLLOWING.match(self.text, self.end)
        if not following:
            return False
        links, word = following.groups()
        if not word[0].isupper() or not _LINKS.issuperset(links.replace(".", "").split()):
            return False
        if _REGNAL.fullmatch(word):  # Henry V, but Benjamin Harrison V
            titled = self.chain.royal or self.word in _FIRST_TITLES
            return titled or (word != "I" and not self.chain.person)
        is_initial = len(word) == 1 and self.text[following.end() : following.end() + 1] == "."
        if word.lower() in _NO_SURNAMES and not is_initial:
            return False
        in_capitals = self.written.isupper()
        if 1 < len(word) < 6 and word.isupper() and not in_capitals:  # John Smith KB
            return False
        # In a heading in capitals, the next word may be anything.
        return not (in_capitals and word.isupper() and word.lower() not in self.reader.is_ambiguous)

    def behind(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """The match of a pattern that ends in $, shortly before the name."""
        return pattern.search(self.text, max(0, self.start - _REACH), self.start)

    def ahead(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """The match of a pattern behind the name."""
        return pattern.match(self.text, self.end)


# ------------------------------------------------------------------------------------------------------------- rules
#
# Each says how a name is used, or None where it does not apply. They are asked in the order of `_RULES`, and the first
# that applies decides.

_Rule = Callable[[_Occurrence], _Use | None]


def _saint_or_place(seen: _Occurrence) -> _Use | None:
    """St. James, Lake Victoria."""
    return _Use.OTHER if seen.word in _BEFORE_SAINT_OR_PLACE and seen.capital else None


def _beside_a_number(seen: _Occurrence) -> _Use | None:
    """John 3:16 is a verse; 4 April and June 5 are days."""
    is_day = seen.ambiguous and (seen.word[:1].isdigit() or seen.ahead(_NUMBER))
    return _Use.OTHER if is_day or seen.ahead(_CHAPTER_AND_VERSE) else None


def _before_its_region(seen: _Occurrence) -> _Use | None:
    """Jackson, Mississippi is a town; "James, Virginia and Ann" are people."""
    region = seen.ahead(_REGION)
    if not region or region[1] not in _REGIONS:
        return None
    may_be_place = seen.ambiguous or seen.chain.there or seen.before.opens
    ends_there = seen.text[region.end() : region.end() + 1] != " "
    return _Use.OTHER if may_be_place or ends_there else None


def _nation(seen: _Occurrence) -> _Use | None:
    """A German Parliament."""
    return _Use.OTHER if seen.name in _NATIONS else None


def _joined_of_men(seen: _Occurrence) -> _Use | None:
    """Jean-Claude is a man's, and Jean alone is listed as a woman's."""
    return _Use.OTHER if seen.text[seen.start : seen.end].lower().startswith("jean-") else None


def _acronym(seen: _Occurrence) -> _Use | None:
    """An ARIA Award."""
    return _Use.OTHER if seen.written.isupper() and len(seen.written) > 2 and seen.ahead(_CAPITALISED) else None


def _work(seen: _Occurrence) -> _Use | None:
    """The film Selma."""
    return _Use.OTHER if seen.word in _WORKS else None


def _of_an_institution(seen: _Occurrence) -> _Use | None:
    """George Washington University; at Rose Hall."""
    run = seen.ahead(_RUN)
    for word in run[0].split() if run else ():
        name = word.rstrip(".'’-").lower()
        if name in _NO_PERSON or (seen.chain.there and name in _NO_PERSON_THERE):
            return _Use.OTHER
        if len(name) < len(word) and len(name) > 2:  # a sentence or a clause ends
            return None
    return None


def _nickname(seen: _Occurrence) -> _Use | None:
    """James "Jimmy" Smith."""
    if (
        seen.text[seen.start - 1 : seen.start] in _QUOTES_BEFORE
        and seen.ahead(_NICKNAME)
        and _NAME_BEFORE.search(seen.text, max(0, seen.start - _REACH), seen.end)
    ):
        return _Use.FIRST
    return None


def _behind_first_title(seen: _Occurrence) -> _Use | None:
    """King Henry, Aunt Rose; but the Queen Victoria is a public house."""
    if not (seen.capital and seen.word in _FIRST_TITLES):
        return None
    return _Use.OTHER if seen.behind(_THE_QUEEN) and not seen.full else _Use.FIRST


def _full_behind_title(seen: _Occurrence) -> _Use | None:
    """Mr. James Smith, Miss Rose Smith."""
    is_titled = seen.capital and (seen.word in _SURNAME_TITLES or seen.word in _EITHER_TITLES)
    return _Use.FIRST if seen.full and is_titled else None


def _behind_surname_title(seen: _Occurrence) -> _Use | None:
    """Mr. James."""
    if not (seen.capital and seen.word in _SURNAME_TITLES):
        return None
    return _Use.AFTER_TITLE if seen.may_be_surname else _Use.NEUTRAL


def _behind_either_title(seen: _Occurrence) -> _Use | None:
    """Miss Rose is by her first name, Miss Grant by either, Lord Henry by his first name as others are."""
    if not (seen.capital and seen.word in _EITHER_TITLES):
        return None
    if seen.ambiguous:
        return _Use.FIRST if seen.name in _NO_USUAL_SURNAMES else _Use.TITLED
    if seen.name not in _SURNAMES or (seen.word == "lord" and seen.name in _LORDS):
        return _Use.NEUTRAL
    return _Use.TITLED if seen.word in _TITLES_OF_SURNAMES_TOO else _Use.NEUTRAL


def _behind_an_article(seen: _Occurrence) -> _Use | None:
    """A rose, the James; but the Henry James of the novels."""
    return _Use.OTHER if seen.word in _ARTICLES and (seen.ambiguous or not seen.full) else None


def _second_first_name(seen: _Occurrence) -> _Use | None:
    """Mary Ann, Billy Ray; Pope John Paul."""
    if not seen.chain.person:
        return None
    may_be_second = seen.full or seen.name in _SECOND_NAMES or seen.end > seen.start + len(seen.written)
    is_first = (may_be_second and not seen.may_be_surname) or seen.chain.royal
    return _Use.FIRST if is_first or f"{seen.word} {seen.name}" in _DOUBLE_NAMES else None


def _behind_a_first_name(seen: _Occurrence) -> _Use | None:
    """Henry James, Thomas Anders; but Henry James Smith."""
    if not seen.chain.person:
        return None
    return _Use.MIDDLE if seen.full else _Use.SURNAME


def _behind_a_nickname(seen: _Occurrence) -> _Use | None:
    """Friedrich "Fritz" Walter."""
    if not seen.before.nickname:
        return None
    return _Use.SURNAME if seen.may_be_surname and not seen.full else _Use.NEUTRAL


def _behind_a_particle(seen: _Occurrence) -> _Use | None:
    """Ann de James; but de Henry James."""
    if seen.word not in _PARTICLES or seen.full:
        return None
    return _Use.SURNAME if seen.may_be_surname else _Use.OTHER


def _behind_an_initial(seen: _Occurrence) -> _Use | None:
    """W. James; but J. Edgar Hoover."""
    initial = seen.before.word
    if not _INITIALS.fullmatch(initial) or initial in _NO_INITIALS:
        return None
    return _Use.FIRST if seen.full else _Use.SURNAME


def _behind_kin(seen: _Occurrence) -> _Use | None:
    """His sister Rose."""
    return _Use.FIRST if seen.word in _KIN and seen.before.word.islower() else None


def _so_named(seen: _Occurrence) -> _Use | None:
    """A girl named Rose."""
    return _Use.FIRST if seen.word in _NAMING and seen.behind(_NAMED) else None


def _town(seen: _Occurrence) -> _Use | None:
    """Moved to Charlotte, near Charlotte; but in Charlotte Smith, and to Charlotte."""
    if seen.ambiguous or seen.full or seen.name not in _TOWNS:
        return None
    moved = seen.word == "to" and (verb := seen.behind(_VERB_AND_TO)) is not None and verb[1].lower() in _MOVING
    return _Use.OTHER if moved or seen.word in _ONLY_OF_PLACES or seen.word == "from" else None


def _brand(seen: _Occurrence) -> _Use | None:
    """At Wendy's; but at Wendy's house."""
    if seen.name not in _BRANDS or seen.word not in _BEFORE_BRAND:
        return None
    own = seen.ahead(_OWN)
    return _Use.OTHER if own and not own[1] else None


def _sign(seen: _Occurrence) -> _Use | None:
    """Leo and Virgo."""
    is_sign = seen.name == "leo" and any(word.strip(_MARKS).lower() in _ZODIAC for word in seen.reader.words)
    return _Use.OTHER if is_sign and not seen.full else None


_VERB_AND_TO = re.compile(r"(\w+)(?: back| away| out)? to $")
_BEFORE_BRAND = frozenset(["at", "from", "to", "the", "a", "near", "like", "of", "for", "into", "in", "and"])


def _full_name(seen: _Occurrence) -> _Use | None:
    """James Smith."""
    return _Use.FIRST if seen.full else None


def _surname_of_an_unlisted_name(seen: _Occurrence) -> _Use | None:
    """Ottoline James; Lloyd-George."""
    if not seen.may_be_surname:
        return None
    joined = _HYPHEN.split(seen.text[seen.start : seen.end])
    is_double = len(joined) > 1 and all(seen.reader.may_be_surname(part.lower()) for part in joined)
    return _Use.SURNAME if is_double or _is_unlisted_name(seen) else None


def _in_a_place(seen: _Occurrence) -> _Use | None:
    """In Florence."""
    return _Use.PLACE if seen.word in _ONLY_OF_PLACES else None


def _of_a_place(seen: _Occurrence) -> _Use | None:
    """Duke of Kent, Sisters of Charity; but The Art of Frank Wright."""
    ruler = seen.behind(_RULER) if seen.word == "of" else None
    return _Use.PLACE if ruler and (ruler[1].lower() in _OF_PLACES or not seen.full) else None


def _date(seen: _Occurrence) -> _Use | None:
    """Last June, the 4th of June."""
    return _Use.OTHER if seen.word in _BEFORE_TIME or seen.behind(_DAY_OF) else None


def _thing_of_somebody(seen: _Occurrence) -> _Use | None:
    """Your Grace, the old man's Will."""
    return _Use.OTHER if seen.word in _POSSESSIVES or seen.word.endswith(("'s", "’s")) else None


def _part_of_a_longer_name(seen: _Occurrence) -> _Use | None:
    """South Carolina, Christmas Eve."""
    in_calendar = seen.word in _CALENDAR and not seen.before.word_opens
    return _Use.OTHER if seen.capital and (seen.word in _PARTS or in_calendar) else None


def _full_name_within_a_sentence(seen: _Occurrence) -> _Use | None:
    """We saw Grant Smith."""
    return _Use.FIRST if seen.full and not (seen.before.opens or seen.capital) else None


def _full_name_where_all_have_capitals(seen: _Occurrence) -> _Use | None:
    """Grant Smith went; but "Will James go?", and Summer Rain where the text has rain, too."""
    if not seen.full:
        return None
    match = seen.ahead(_FOLLOWING)
    assert match is not None  # or else the name were not full
    following = match[2].lower()
    is_question = seen.written == "Will" and following in seen.reader.is_ambiguous
    return _Use.OTHER if is_question or seen.reader.holds(following) else _Use.FIRST


def _behind_an_unlisted_name(seen: _Occurrence) -> _Use | None:
    """Ottoline Grant."""
    return _Use.SURNAME if _is_unlisted_name(seen) else None


def _person(seen: _Occurrence) -> _Use | None:
    """Said Grant; Grant and his wife; Rose's eyes; Grant smiled; and, with a quotation mark behind: Come, Rose!"""
    if seen.word in _BEFORE_PERSON or seen.ahead(_AND_OWN):
        return _Use.PERSON
    if (own := seen.ahead(_OWN)) and own[1] in _PERSONAL_THINGS:
        return _Use.PERSON
    if (after := seen.ahead(_WORD_AFTER)) and after[1] in _HUMAN_VERBS:
        return _Use.PERSON
    is_called = (seen.before.comma or seen.before.opens) and seen.ahead(_CALLED_OUT)
    return _Use.PERSON if is_called else None


def _behind_its_town(seen: _Occurrence) -> _Use | None:
    """Atlanta, Georgia."""
    town = seen.before.of_list.lower()
    if not town or town in _OPENERS or not seen.reader.is_ambiguous.get(town, True):
        return None
    return _Use.PLACE if seen.text[seen.end : seen.end + 1] in _PLACE_ENDS else None


def _opens_a_sentence(seen: _Occurrence) -> _Use | None:
    """Grant went; but Rose petals fell, and "Will!"."""
    if not seen.before.opens:
        return None
    if after := seen.ahead(_WORD_AFTER):
        is_subject = after[1] in _AFTER_SUBJECT or after[1].endswith("ed")
        return _Use.NEUTRAL if is_subject else _Use.OTHER
    return _Use.NEUTRAL if seen.ahead(_OWN) else _Use.OPENING


def is_no_first_name(word: str) -> bool:
    """Whether a capitalised word is none that may be a first name: a word that opens sentences, a nation, an adverb."""
    return word.lower() in _OPENERS or word.lower() in _NATIONS or _NO_NAME_ENDING.search(word) is not None


def _is_unlisted_name(seen: _Occurrence) -> bool:
    """Whether the capitalised word before is a first name that no list holds."""
    word = seen.before.word
    if len(word) < 2 or not seen.capital or word.isupper() or not word.isalpha():
        return False
    if is_no_first_name(word):
        return False
    return not seen.before.word_opens or not seen.reader.holds(seen.word)


_RULES: tuple[_Rule, ...] = (
    _saint_or_place,
    _beside_a_number,
    _before_its_region,
    _nation,
    _joined_of_men,
    _acronym,
    _work,
    _of_an_institution,
    _town,
    _brand,
    _sign,
    _nickname,
    _behind_first_title,
    _full_behind_title,
    _behind_surname_title,
    _behind_either_title,
    _behind_an_article,
    _second_first_name,
    _behind_a_first_name,
    _behind_a_nickname,
    _behind_a_particle,
    _behind_an_initial,
    _behind_kin,
    _so_named,
)
_RULES_OF_PLAIN_NAMES = (*_RULES, _full_name, _surname_of_an_unlisted_name)
_RULES_OF_AMBIGUOUS_NAMES = (
    *_RULES,
    _in_a_place,
    _of_a_place,
    _date,
    _thing_of_somebody,
    _part_of_a_longer_name,
    _full_name_within_a_sentence,
    _full_name_where_all_have_capitals,
    _behind_an_unlisted_name,
    _person,
    _behind_its_town,
    _opens_a_sentence,
)


def _use(seen: _Occurrence) -> _Use:
    """What the first rule that applies says."""
    for rule in _RULES_OF_AMBIGUOUS_NAMES if seen.ambiguous else _RULES_OF_PLAIN_NAMES:
        if (use := rule(seen)) is not None:
            return use
    return _Use.NEUTRAL


# ------------------------------------------------------------------------------------------------------------ reader


class _Reader:
    """Reads the uses of one text's candidates, from left to right.

    is_ambiguous: for every name of the candidates, in lower case.
    """

    def __init__(self, text: str, is_ambiguous: dict[str, bool]) -> None:
        self.text = text
        self.is_ambiguous = is_ambiguous
        self._chain = _Chain()

    @cached_property
    def words(self) -> frozenset[str]:
        """The text's words where white space delimits them."""
        return frozenset(self.text.split())

    def holds(self, word: str) -> bool:
        """Whether the word, spelled so, is one of the text's words."""
        return word in self.words

    def may_be_surname(self, name: str) -> bool:
        """Whether a name, in lower case, is a usual surname, too."""
        return self.is_ambiguous.get(name, False) or name in _SURNAMES

    def use(self, candidate: Candidate) -> _Use:
        """How the next candidate is used."""
        start, end, ambiguous = candidate
        extent = self._extent(start, end)
        if not extent:
            self._chain = _Chain()
            return _Use.OTHER
        before = _before(self.text, extent[0])
        chain = self._chain if self._continues(extent[0], before) else _Chain()
        word = before.word.lower()
        there = chain.there or word in _PLACE_PREPOSITIONS or word in _ARTICLES
        chain = _Chain(chain.end, chain.person, chain.royal, there)
        use = _use(_Occurrence(self, extent, self.text[start:end], ambiguous, before, chain))
        self._chain = _Chain(
            extent[1],
            person=use in _PERSONAL or (not ambiguous and use is not _Use.OTHER),
            royal=chain.royal or word in _ROYAL_TITLES,
            there=there,
        )
        return use

    def _continues(self, start: int, before: _Before) -> bool:
        """Whether at most a middle name or an initial stands between the candidate just read and the next."""
        between = self.text[self._chain.end : start] if 0 <= start - self._chain.end < _REACH else ""
        if between in (" ", "\xa0"):
            return True
        is_name = before.word[:1].isupper() and before.word.lower() not in _OPENERS
        return is_name and _MIDDLE_NAME.fullmatch(between) is not None

    def _extent(self, start: int, end: int) -> tuple[int, int] | None:
        """The name and the listed names that hyphens join to it (Mary-Ann), or None if it is part of another word."""
        text = self.text
        if start > 1 and text[start - 1] in "'’@" and text[start - 2].isalpha():  # O'Henry, d'Angelo
            return None
        parts = ""
        if text[start - 1 : start] in _HYPHENS and (
            joined := _PART_BEFORE.search(text[max(0, start - _REACH) : start])
        ):
            start, parts = start - len(joined[0]), joined[0]
        if joined := _PART_AFTER.match(text, end):
            end, parts = joined.end(), parts + joined[0]
        others = _HYPHEN.split(parts) if parts else ()
        if any(part and (part.islower() or part.lower() not in self.is_ambiguous) for part in others):
            return None
        return start, end
