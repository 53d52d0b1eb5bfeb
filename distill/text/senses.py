"""A listed English word in a text -> whether it is that word there, or a verb, an acronym, a surname, an exclamation, a
unit, a ship.

English only, deterministic, without a model. Each rule answers for a few words (`_RULES`), and looks at the words
right around. What it does not know stays as it is listed. Of one text, a surname that stands behind a first name once
is a surname all through it.

Limits: the rules know the commonest frames. "Man" as a verb without an object (they manned; to man and to maintain) and
surnames without a first name or a title (said King) are found only where another mention tells them.
"""

import hashlib
import re
import string
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

from distill.base.files import PACKAGE
from distill.text import first_names

_RULE_VERSION = "3"  # raise it whenever the same text may be judged otherwise
_LISTS = PACKAGE / "wordlists"
_LISTS_OF_NAMES = ("english_names", "english_more_names")
_NAMES = b"".join((_LISTS / f"{name}.tsv").read_bytes() for name in _LISTS_OF_NAMES)
#: Changes with the rules and with the names that surnames are told by.
VERSION = f"{_RULE_VERSION} {hashlib.sha256(_NAMES).hexdigest()}"


class Place(NamedTuple):
    """A listed word in a text: [start, end) in characters, and the word in lower case."""

    start: int
    end: int
    word: str


_Rule = Callable[[str, int, int], bool]  # (text, start, end) -> whether the word is another one here

_REACH = 48


def _words(words: str) -> frozenset[str]:
    return frozenset(words.split())


# ------------------------------------------------------------------------------------------------------------ acronyms

_BETWEEN_CAPITALS = re.compile(r"[^\W\d_]{2,}")
_ACRONYM_AFTER = re.compile(
    r"[-‐‑]\d|[-‐‑]?[+/][-‐‑+]|2\b| (?:bundle|receptor|gene|protein|data|system|systems|manager)s?\b"
)


def _acronym(text: str, start: int, end: int) -> bool:
    """HER-2, an SHE manager, the hospital's information system (HIS); but "it was HER idea"."""
    if not text[start:end].isupper() or end - start < 2:
        return False
    if _ACRONYM_AFTER.match(text, end):
        return True
    in_brackets = text[start - 1 : start] in ("(", "[") and text[end : end + 1] in (")", "]", ",", ";")
    before = _BETWEEN_CAPITALS.findall(text[max(0, start - _REACH) : start])[-1:]
    if in_brackets:
        return not (before and before[0].isupper())
    return bool(before) and before[0] in _DETERMINERS_OF_ACRONYMS and text[start - 1 : start] == " "


_DETERMINERS_OF_ACRONYMS = _words("a an the The An A")

_MS_UNIT = re.compile(r"(?:\d|\b(?:in|of|per|to|few|many|hundred|thousand|±))[\s\xa0-]*$")
_NAME_AFTER = re.compile(r"\.?[\s\xa0]+(?:[a-z]{1,3}[\s\xa0]+){0,2}[\"“'‘(]?[^\W\d_a-z]")
_WORD_AFTER = re.compile(r"\.?[ \xa0]+([a-z][\w'’-]*)")


def _no_title(text: str, start: int, end: int) -> bool:
    """10 ms, MS patients, a Ms of 1200; but Ms. Lee, ms lee, and at the end of a line "thank you, Ms."."""
    written = text[start:end]
    if written.islower() and _MS_UNIT.search(text, max(0, start - 12), start):
        return True
    if _NAME_AFTER.match(text, end):
        # MS Word is in the list of protected phrases; MS in capitals beside a name is Ms. only where all is capitals.
        return written == "MS" and not _next_is_upper(text, end)
    if written.islower():
        after = _WORD_AFTER.match(text, end)
        return not after or after[1] in _FUNCTION_WORDS
    return text[end : end + 1] not in (".", ",", "!", "?") or written == "MS"


def _next_is_upper(text: str, end: int) -> bool:
    following = _BETWEEN_CAPITALS.search(text, end, end + _REACH)
    return following is not None and following[0].isupper()


_FUNCTION_WORDS = _words("""
    a after an and are as at be because been before but by can did do does for from had has have he her his i if in into
    is it may me more my no not of off on or our over per she since so than that the their them then there these they
    this those to under until up was we were when where which while who with would you
""")

# -------------------------------------------------------------------------------------------------------- exclamations

_EXCLAIMED_BEFORE = re.compile(
    r"(?:^|(?<=[\s\"“'‘(.!?,*]))(?:oh|o|aw+|ah+|hey|damn|dang|whoa|wow|oo+h|ugh|gosh|jeez|yo|yeah|yep|nah|hell|shit|fuck"
    r"|bloody hell|come on|c['’]mon|thanks|sorry|please|dude|okay|ok|lol|bro),? $",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[.!?…]|\s*$|[\"”]|\s*\n")
_OPENS = re.compile(r"(?:^|[.!?\n\"“*]\s*)$")


_CRIES = _words("oh o aw aww ah ahh damn whoa")
_NO_CRY_ENDS = frozenset(string.ascii_lowercase) - {cry[-1] for cry in _CRIES}  # known without a look at the word


def _said_before(text: str, start: int) -> str:
    """The word right before, in lower case, without marks."""
    words = text[max(0, start - 9) : start].rstrip(" ,").rsplit(" ", 1)
    return words[-1].strip("\"“‘'(*").lower()


def _exclaimed(text: str, start: int, end: int) -> bool:
    """Oh man, that was close. Boy, was I wrong. Relax, man!"""
    after = text[end : end + 1]
    if after == " " and (text[start - 2 : start - 1] in _NO_CRY_ENDS or _said_before(text, start) not in _CRIES):
        return False
    if after not in (",", ".", "!", "?", "") and not _CLAUSE_END.match(text, end):
        before = _EXCLAIMED_BEFORE.search(text, max(0, start - 14), start)
        return before is not None and before[0].lower().startswith(("oh", "o ", "aw", "ah", "damn", "whoa", "wow"))
    head = text[max(0, start - 14) : start]
    if _EXCLAIMED_BEFORE.search(head):
        return True
    if after in (",", "!") and _OPENS.search(head if start <= 14 else head[1:]):
        return text[start].isupper() or start == 0
    return (
        head.endswith(", ") and (after in (".", "!", "?", "")) and not text[end : end + 1].isalpha() and _called(head)
    )


def _called(head: str) -> bool:
    """Whether what goes before the comma is no part of a list, as of a short biography: husband, father, brother."""
    return not _LISTED_BEFORE.search(head)


_LISTED_BEFORE = re.compile(
    r"\b(?:a|an|the|and|or|boy|girl|woman|child|men|women"
    r"|(?i:husband|wife|father|mother|dad|mum|mom|son|daughter|sister|uncle|aunt)), $"
)


# --------------------------------------------------------------------------------------------------------------- verbs

_OBJECT_AFTER = re.compile(
    r" (?:the|a|an|our|their|his|her|my|your|its|this|these|those|all|every|each|both|them|him|me|it|us"
    r"|any|many|several|two|resources|energies|strength|supplies|funds|checkpoints|barricades)\b"
)
_VERB_BEFORE = re.compile(
    r"\b(?:to|will|would|shall|should|can|could|may|might|must|cannot|can't|couldn't|won't|didn't|don't|doesn't|not|help"
    r"|helped|helps|who|they|we|you|i|'ll|’ll|'d|’d|let's|and|or|never|always) $",
    re.IGNORECASE,
)
_AUXILIARY_BEFORE = re.compile(
    r"\b(?:will|would|shall|should|can|could|may|might|must|cannot"
    r"|(?:can|couldn|won|didn|don|doesn|wouldn)['’]t|['’]ll) $",
    re.IGNORECASE,
)
_IMPERATIVE = re.compile(r"(?:^|[.!?\n\"“:]\s*)$")


def _verb(text: str, start: int, end: int) -> bool:
    """Man the desk; to mother him; will shepherd the bill; but "the man the police sought"."""
    if not _OBJECT_AFTER.match(text, end):
        return False
    head = text[max(0, start - 14) : start]
    if _AUXILIARY_BEFORE.search(head):
        return True
    if text[start].isupper():
        return _IMPERATIVE.search(head) is not None and text[start:end] not in ("Mother", "Father", "Husband", "King")
    return _VERB_BEFORE.search(head) is not None


# ------------------------------------------------------------------------------------------------------------ surnames

_TITLE_BEFORE = re.compile(
    r"(?:^|[^\w.])(?:Mr|Mrs|Ms|Dr|Prof|Professor|Doctor|Rev|Reverend|Hon|Sgt|Sergeant|Capt|Captain|Lt|Lieutenant|Col|"
    r"Colonel|Gen|General|Maj|Major|Det|Detective|Inspector|Officer|Judge|Justice|Senator|Sen|Rep|Gov|Governor|Mayor|"
    r"Chancellor|President|Coach|Director|Agent|Nurse|Sheriff|Constable|Councillor|Miss|Mister|Messrs|Madame|Herr|"
    r"MR|MRS|MS|DR)\.? $"
)
_INITIAL_BEFORE = re.compile(r"\b[A-Z]\.(?: ?[A-Z]\.)* $")
_NAME_BEFORE = re.compile(r"(?:^|[\s\"“'‘(\[—,-])([^\W\d_a-z][\w'’-]+) $")
_FOLLOWED_BY_NAME = re.compile(r"[ \xa0]+(?:[^\W\d_a-z]|of\b)")
_NO_FIRST_NAMES = _words("""
    african american ancient anglo aztec arab asian beauty black blue british burger celtic chess child christian crown
    dairy dance dancing danish dark dead disco drag drama dutch east elf english emperor evil fairy fisher forest former
    french future german gold golden great greek green grey high holy homecoming ice incumbent indian iranian irish
    israelite italian japanese junior last late lion little london lost may mighty monkey moon new norman northern
    norwegian old old-time persian pharaoh philosopher polish pop portuguese prom proud red reigning roman royal russian
    saxon scottish scream sea silver snow southern spanish spider star sun swedish swiss the thai then tribal turkish
    viking virgin warrior welsh west white wicked winter witch young zulu
    american-born dear good my our his her their its your poor brave noble vice deputy assistant honorary hereditary
    co acting associate arch auxiliary
""")


def _is_first_name(word: str) -> bool:
    return word.lower() in _first_names()


@cache
def _first_names() -> frozenset[str]:
    # The words of the two lists, and nothing else of them: to check their rows takes as long as to swap megabytes.
    lines = _NAMES.decode("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line[:1] not in ("", "#") and not line.startswith("male\t")]
    return frozenset(word for words in rows for word in words[:2]) | first_names.MORE_FIRST_NAMES


def _surname(text: str, start: int, end: int, strict: bool) -> bool:
    """Stephen King, Mr. Shepherd, B. King; but King Henry, the Norwegian King, Prom Queen.

    strict: whether only a known first name counts, and no other capitalised word.
    """
    if not text[start].isupper() or (text[start:end].isupper() and not _is_upper_around(text, start)):
        return False
    if text[start - 1 : start] not in (" ", "\xa0"):
        return False
    if _FOLLOWED_BY_NAME.match(text, end):
        return False
    head = text[max(0, start - 32) : start].replace("\xa0", " ")
    if _TITLE_BEFORE.search(head) or _INITIAL_BEFORE.search(head):
        return True
    before = _NAME_BEFORE.search(head)
    if not before:
        return False
    name = before[1]
    if name.lower() in _NO_FIRST_NAMES:
        return False
    if _is_first_name(name):
        return True
    if strict or len(name) < 3 or name.isupper() or name.lower() in _FUNCTION_WORDS:
        return False
    opens = before.start(1) == 0 or _OPENS.search(head[: before.start(1)])
    return not opens and not first_names.is_no_first_name(name)


def _is_upper_around(text: str, start: int) -> bool:
    before = _BETWEEN_CAPITALS.findall(text[max(0, start - _REACH) : start])
    return bool(before) and before[-1].isupper()


# --------------------------------------------------------------------------------------------------------------- ships

_SHIP = re.compile(
    r"\b(?:ships?|boats?|vessels?|yachts?|schooners?|frigates?|steamers?|steamships?|battleships?|submarines?|cruisers?"
    r"|destroyers?|corvettes?|tankers?|freighters?|trawlers?|brigs?|sloops?|gunboats?|liners?|HMS|USS|RMS|HMCS|HMAS)\b"
)
_OF_A_SHIP = re.compile(
    r" (?:crew|hull|keel|sails?|decks?|masts?|rigging|bows?|stern|engines?|guns|maiden voyage|sister ships?|armament"
    r"|cargo|displacement|holds?|port side|starboard|home port|first voyage|sea trials|draught|propellers?|boilers)\b"
)
_DONE_BY_A_SHIP = re.compile(
    r" (?:was|were|had been|has been|is)? ?(?:sailed|steamed|sank|docked|launched|commissioned|decommissioned|scrapped"
    r"|sunk|laid down|torpedoed|refitted|rammed|wrecked|ran aground|run aground|moored|anchored|struck from|foundered"
    r"|displaced|converted|renamed)\b"
)
_WOMAN_NEAR = re.compile(
    r"\b(?:woman|girl|lady|mother|wife|daughter|sister|Mrs|Miss|Ms|queen|princess|actress|herself)\b"
)


def _ship(text: str, start: int, end: int) -> bool:
    """The frigate lost her masts; she was launched in 1912; but the ship was hers, and she sailed it."""
    if not (_OF_A_SHIP.match(text, end) or _DONE_BY_A_SHIP.match(text, end)):
        return False
    head = text[max(0, start - 300) : start]
    return _SHIP.search(head) is not None and not _WOMAN_NEAR.search(head)


# ------------------------------------------------------------------------------------------------------------- written

_SLASHED = re.compile(r"(?:\bs/|\(s\)|\bwo/|\(wo\)|\bfe/|\(fe\))$", re.IGNORECASE)


def _of_both(text: str, start: int, end: int) -> bool:
    """S/he, (s)he, wo/man, (fe)male."""
    return text[start - 1 : start] in ("/", ")") and _SLASHED.search(text, max(0, start - 4), start) is not None


_PRONOUNS = _words("he she him her his hers himself herself")
_RULES: dict[str, tuple[_Rule, ...]] = {
    **dict.fromkeys(_PRONOUNS, (_acronym,)),
    "he": (_of_both, _acronym),
    "she": (_acronym, _ship),
    "her": (_acronym, _ship),
    "male": (_of_both,),
    "males": (_of_both,),
    "men": (_of_both,),
    "ms": (_no_title,),
    "mr": (_acronym,),
    "sis": (_acronym,),
    "man": (_of_both, _exclaimed, _verb, partial(_surname, strict=True)),
    "boy": (_exclaimed,),
    "brother": (_exclaimed, partial(_surname, strict=True)),
    "bro": (_exclaimed, _acronym),
    "dude": (_exclaimed,),
    **dict.fromkeys(_words("father mother husband"), (_verb,)),
    "shepherd": (_verb, partial(_surname, strict=False)),
    **dict.fromkeys(
        _words(
            "king kings prince earl duke baron lord abbot priest monk guy queen groom sultan marquis butler bachelor"
        ),
        (partial(_surname, strict=False),),
    ),
}
_FAMILY_NAMES = _words("""
    huntsman foreman postman alderman boatman churchman fisherman horseman doorman oarsman helmsman marksman merman
    dairyman spaceman steward wizard hero laird squire master count lad lass laddie workman
""")
_RULES |= {word: (partial(_surname, strict=True),) for word in _FAMILY_NAMES}


Look = Callable[[str, int], object]  # (text, end) of a listed word -> whether it may be another one
# What follows she or her that could be said of a ship.
_SAID_OF_A_SHIP: Look = re.compile(f"{_OF_A_SHIP.pattern}|{_DONE_BY_A_SHIP.pattern}").match


def always(_text: str, _end: int) -> bool:
    """The look that leaves nothing out."""
    return True


def look(word: str, written: str, slashed: bool) -> Look | None:
    """What tells where a listed word that is written so is worth a look, in texts with or without slashes; None where
    it never is: pronouns in the letters of prose hardly are."""
    rules = list(_RULES.get(word, ()))
    if written != written.upper():
        rules = [rule for rule in rules if rule is not _acronym]
    if not written[:1].isupper():
        rules = [rule for rule in rules if not isinstance(rule, partial)]
    if not rules:
        return None
    if rules == [_verb]:
        return _OBJECT_AFTER.match
    if rules == [_of_both]:
        return always if slashed else None
    if word not in _PRONOUNS or written == written.upper():
        return always
    return _SAID_OF_A_SHIP if word in ("she", "her") else None


def others(text: str, places: Sequence[Place]) -> list[bool]:
    """For every place of a word of `_RULES`, all of one text: whether it is another word there."""
    judged = []
    surnames: set[str] = set()
    for start, end, word in places:
        told = False
        for rule in _RULES[word]:
            if rule(text, start, end):
                told = True
                if isinstance(rule, partial):
                    surnames.add(word)
                break
        judged.append(told)
    # One that stands in a protected phrase (Stephen King) is among no places.
    capitalised: dict[str, set[int]] = {}
    for (start, _, word), judgement in zip(places, judged, strict=True):
        if not judgement and word in _SURNAME_RULES and text[start].isupper():
            capitalised.setdefault(word, set()).add(start)
    surnames.update(
        word for word, none in capitalised.items() if word not in surnames and _is_somebodys(text, word, none)
    )
    if surnames:
        judged = [
            judgement or (place.word in surnames and _may_be_the_surname(text, place))
            for judgement, place in zip(judged, places, strict=True)
        ]
    return judged


def _is_somebodys(text: str, word: str, none: set[int]) -> bool:
    """Whether a word with a rule for surnames is one somewhere in the text; none: where it is known to be none."""
    rule, written, start = _SURNAME_RULES[word], word.capitalize(), -1
    if text.count(written) == sum(text.startswith(written, start) for start in none):
        return False  # all are known, as most often
    while (start := text.find(written, start + 1)) >= 0:
        end = start + len(written)
        if start in none:
            continue
        if not _is_letter(text[start - 1 : start]) and not _is_letter(text[end : end + 1]) and rule(text, start, end):
            return True
    return False


_SURNAME_RULES = {
    word: next(rule for rule in rules if isinstance(rule, partial))
    for word, rules in _RULES.items()
    if any(isinstance(rule, partial) for rule in rules)
}


def _is_letter(character: str) -> bool:
    """Whether a character, or none, is a letter, a digit or an underscore."""
    return character.isalnum() or character == "_"


_ARTICLE_BEFORE = re.compile(
    r"\b(?:the|a|an|my|our|his|her|their|your|this|that|every|each|no|de|of the)\s$", re.IGNORECASE
)


def _may_be_the_surname(text: str, place: Place) -> bool:
    """Whether a word that is a surname in this text may be so here: capitalised, alone, and without an article."""
    start, end, _ = place
    if not text[start].isupper() or _FOLLOWED_BY_NAME.match(text, end):
        return False
    return not _ARTICLE_BEFORE.search(text, max(0, start - 7), start)
