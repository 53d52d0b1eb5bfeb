"""Which occurrences of a listed name are a person's first name: cases by hand, any text, and Wikipedia's people."""

import json
import lzma
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.base.files import PACKAGE
from distill.text import first_names as module
from distill.text.first_names import Candidate, first_names
from distill.text.wordlist import bundled_wordlists


def listed_names() -> dict[str, bool]:
    """The names of `english_names`: name -> whether it is ambiguous."""
    rows = [
        line.split("\t")
        for name in ("english_names", "english_more_names")
        for line in bundled_wordlists()[name].read_text(encoding="utf-8").splitlines()
        if "\tname" in line and not line.startswith("#")
    ]
    return {name: "ambiguous" in when for male, female, when in rows for name in (male, female)}


LISTED = listed_names()
WORD = re.compile(r"(?<!\w)(?:[A-Z][a-z]+|[A-Z]{2,})(?!\w)")


def candidates(text: str) -> list[Candidate]:
    """The listed names of a text, capitalised or in capitals."""
    return [
        Candidate(*word.span(), LISTED[word[0].lower()]) for word in WORD.finditer(text) if word[0].lower() in LISTED
    ]


def marked(text: str) -> str:
    """The text with a + before every first name."""
    found = candidates(text)
    for (start, _, _), is_first in reversed(list(zip(found, first_names(text, found), strict=True))):
        if is_first:
            text = f"{text[:start]}+{text[start:]}"
    return text


CASES = [
    # --- towns, shops, the zodiac
    "She moved to Charlotte and lived near Charlotte; then +Charlotte Smith came.",
    "We ate at Wendy's, and +Wendy left +Wendy's house.",
    "Leo and Virgo are signs of the zodiac.",
    # --- nations, titles of works, public houses, acronyms, French names of men
    "The German Parliament, Swedish actors and a Philippine president",
    "the film Selma and the novel Jane Eyre; +Jane Smith played Selma in the film".replace("Selma in", "+Selma in"),
    "In the Queen Victoria, Queen +Victoria met the King +Harald Hardrada.",
    "nominated for an ARIA Award; +MARY SMITH",
    "Jean-Claude met +Jean Harlow.",
    # --- a first name behind a first name and before no surname is one
    "+Elaine Paige, +Thomas Anders, +Paula Abdul. Anders sang.",
    "+Maria +Luisa sang, and +Maria +Luisa Bemberg; +Anna +Maria too.",
    "J. Carmen and +Mary T. Anders",
    # --- one treatment for what may be one person
    "Frank Marshall met Marshall Field. Marshall said so.".replace("Frank", "+Frank"),
    # --- one person, by first name and surname
    "+Mary's hat. +Tom, +Dick and +Harry came, and +Mary too.",
    "+Henry James wrote it. Then James went home; his brother +William James stayed.",
    "+James Smith wrote it. Then +James went home.",
    "+Sarah +Jane Smith met +John +Paul Jones.",
    "+Mary +Ann came with +Mary +Rose and +Billy +Ray.",
    "+Wilma Glodean Rudolph was born in 1940. Rudolph ran.",
    "M. R. James and W. H. Thomas and +George H. Thomas.",
    "F. +Scott Fitzgerald and J. +Edgar Hoover and +Samuel L. Jackson.",
    'Ottokar "Fritzl" Walter and +Michael (+Mike) Thomas.',
    '+James "+Jimmy" Smith and +James "Slim" Smith and +Ann de Winter and +Ricardo van Lissabon',
    "+Harry Truman and +Daniel O'Connell; the O'Henry and D'Angelo of the day.",
    "We saw Ottoline James there. James spoke.",
    "Then +James spoke. Poor +James! And +James laughed.",
    "+Isaac Brock KB was born in 1769. Brock died in 1812.",
    "+Benjamin Harrison V and +Thomas Martin Jr. and +Henry James, Esq.",
    "von Martin and the de Thomas family",
    # --- titles
    "Mr. James met Mrs. Thomas, Dr. Kelvin, Captain James and General Grant.",
    "Mr. +James Smith, Dr. +Mary Thomas and Captain +Harry Jones met Miss +Mary and Miss Thomas and Miss Grant.",
    "Mr.\nJames and Mrs James and Messrs. James",
    "Sir +Thomas, Lady +Catherine, King +George III, Queen +Victoria, Prince +Henry, Aunt +Rose and Uncle +Mark",
    "Pope +John +Paul II and Queen +Elizabeth +Alexandra +Mary; Sister +Rose and Lord +Henry",
    "Lord Byron spoke, and Lady Russell, and Miss +Violet.",
    "MRS. THOMAS AND +MARY; CHAPTER V. +PETER GOES",
    # --- saints, places, institutions, the Bible
    "St. Mary's is near Lake Victoria, Mount Helen, Fort Henry, Port Arthur, San Diego and Saint George.",
    "George Washington University, Victoria Station, James River, the Stanley Cup, the Summer Olympics.",
    "Jackson, Mississippi, and Charlotte, North Carolina. He moved to Charlotte, Virginia.",
    "He stayed at Rose Hall and at the Emma Clarke House.",
    "John 3:16 and Mark 4:1, James 1:2",
    "the James family, an Oscar, the Oscars, the Elizabeth; Oscar-winning and post-James",
    # --- hyphens
    "Jean-Paul and Zbig-Heinzl and Lloyd-George; +Mary-+Ann Smith and +Mary-+Kate.",
    "He said--+Mary came--and left.",
    # --- names that are also words, places, months
    "Will you come? Will +Mary come? I will. Mark my words. Grace was said. Hope springs. Rose petals fell.",
    "A rose is a rose. Rose petals fell, and Grace, and Faith.",
    "+Rose Smith came. A rose bloomed. +Rose laughed; then +Rose slept. Rose petals fell. He loved +Rose.",
    "+Will Smith came. Will you come? said +Will. Will he?",
    "She lives in Florence. Florence is old. He came from Georgia, and died in Virginia.",
    "+Florence Nightingale was born in Florence. Florence was old then.",
    "He drove to Atlanta, Georgia; +Georgia Smith and her sister +Georgia drove to Savannah, Georgia.",
    "In April 1998, on April 12, the 9th of June, last June and in June.",
    "+June Carter sang with +April Smith in June.",
    "his sister +Rose and her husband +Mark. +Rose and +Mark went.",
    "a girl named +Faith, called +Hope",
    "+Florence Lee and her aunt +Florence left. +Florence slept. They were born in Florence.",
    "Your Grace, the Duke of Kent, the State of Virginia and South Carolina; Christmas Eve",
    '"Yes, +Rose," he said. "+Grace!" cried +Mark.',
    "+Rose's hand was cold. Georgia's laws are old.",
    "General Grant came. Grant said no. Then Grant went.",
    "Ulysses Grant came. Grant said no.",
    "the Rolls-Royce and Anderson-Smith",
]


@pytest.mark.parametrize("expected", CASES)
def test_by_hand(expected):
    assert marked(expected.replace("+", "")) == expected


def test_the_cases_hold_many_names():
    names = [candidates(case.replace("+", "")) for case in CASES]
    assert all(names)
    assert sum(map(len, names)) > 150


def test_a_title_of_servants_follows_the_rest_of_the_document():
    assert marked("Mr. Edward came. 'Dear Mr. Edward!'") == "Mr. Edward came. 'Dear Mr. Edward!'"
    rest = "+Edward Rochester rode. " + "Then +Edward slept. " * 5
    assert marked("Mr. Edward came. " + rest.replace("+", "")) == "Mr. +Edward came. " + rest


def test_one_stray_surname_among_many_first_names():
    lone = "Then +Gilbert laughed. " * 40
    assert marked(lone.replace("+", "") + "He read Mr. Gilbert.").startswith(lone)
    # Unless the surname introduces its bearer, as in an encyclopaedia.
    text = "+Paul Simon sings. " + "Then Simon laughed. " * 40
    assert marked(text.replace("+", "")) == text


def test_letter_case_and_spaces():
    assert marked("HENRY JAMES and James") == "+HENRY JAMES and James"
    assert marked("Henry\u00a0James, then James") == "+Henry\u00a0James, then James"
    assert marked("Mary\tSmith\r\nMary") == "+Mary\tSmith\r\n+Mary"


def test_no_candidates():
    assert first_names("", []) == []
    assert first_names("Nobody here.", []) == []


def test_every_rule_decides_a_case(monkeypatch):
    rules = ("_RULES_OF_PLAIN_NAMES", "_RULES_OF_AMBIGUOUS_NAMES")
    every, decided = {rule for name in rules for rule in getattr(module, name)}, set()

    def told(rule):
        def asked(seen):
            if (use := rule(seen)) is not None:
                decided.add(rule)
            return use

        return asked

    for name in rules:
        monkeypatch.setattr(module, name, tuple(map(told, getattr(module, name))))
    for case in CASES:
        assert marked(case.replace("+", "")) == case
    assert decided == every


def test_the_tables_are_words_in_lower_case_and_each_is_used():
    path = PACKAGE / "wordlists" / "english_first_names.txt"
    tables = module._word_tables(path)
    used = set(re.findall(r"""_WORDS\["(\w+)"\]""", Path(module.__file__).read_text(encoding="utf-8")))
    assert used == set(tables) and all(tables.values())
    for name, words in tables.items():
        assert name == "regions" or all(word == word.lower() for word in words), name
    written = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith(("#", "["))]
    assert sum(len(line.split()) for line in written) == sum(map(len, tables.values()))  # no word twice in a table


def test_the_tables_fit_the_names():
    ambiguous = {name for name in LISTED if LISTED[name]}
    assert set(LISTED) - ambiguous >= module._SURNAMES
    assert ambiguous >= module._NO_USUAL_SURNAMES
    assert module._SURNAME_TITLES.isdisjoint(module._FIRST_TITLES | module._EITHER_TITLES)
    assert module._FIRST_TITLES >= module._ROYAL_TITLES
    assert module._EITHER_TITLES >= module._TITLES_OF_SURNAMES_TOO


WORDS = "Mary James Rose Will Henry JAMES Grace Mark Grant Smith Mr. St. Sir the in of his sister said will rose"
MARKS = "J. II de van 12 12:3 -- - ' 's ’s , . ! ? ( ) “ ” \" … Georgia Virginia University Street"
SPACES = ("\n", " ", "  ", "\u00a0", "\r\n", "\t", "İ", "\ud800", "é", "e\u0301", "\0")
PIECES = st.sampled_from([*WORDS.split(), *MARKS.split(), *SPACES])


@given(st.lists(PIECES, max_size=40).map("".join) | st.lists(PIECES, max_size=40).map(" ".join) | st.text())
def test_any_text(text):
    found = candidates(text)
    judged = first_names(text, found)
    assert len(judged) == len(found)
    assert set(judged) <= {True, False}
    assert first_names(text, found) == judged
    # A line break before the text changes nothing: both begin a sentence.
    assert first_names(f"\n{text}", [Candidate(start + 1, end + 1, mark) for start, end, mark in found]) == judged


@given(st.text(min_size=1), st.data())
def test_any_candidates(text, data):
    """Even candidates that are no words are answered, one by one."""
    ends = st.integers(0, len(text))
    spans = data.draw(st.lists(st.tuples(ends, ends, st.booleans()), max_size=5))
    found = [Candidate(min(a, b), max(a, b), mark) for a, b, mark in spans]
    assert len(first_names(text, found)) == len(found)


@pytest.mark.parametrize("piece", ["Mary ", "Mary-", "Mary, ", "Rose. ", "Mary" + " " * 50, "Henry James ", "(Mary "])
def test_time_grows_with_length(piece):
    """No pattern may look at all of the rest each time: of four times the text it would take sixteen times as long."""

    def seconds(number: int) -> float:
        text, begun = piece * number, time.process_time()
        found = candidates(text)
        assert len(first_names(text, found)) == len(found) >= number
        return time.process_time() - begun

    short = seconds(4_000)
    assert seconds(16_000) < 8 * short + 0.05


# ------------------------------------------------------------------------------------------------------- real people


@pytest.fixture
def people(shared_data):
    """(page, text) of the validation articles on people."""
    with lzma.open(shared_data("corpus", "wikipedia_people.validation.jsonl.xz"), "rt", encoding="utf-8") as lines:
        return [(row["page"], row["text"]) for row in map(json.loads, lines)]


RULERS = {"king", "queen", "pope", "prince", "princess", "emperor", "empress", "saint", "sultan"}


def test_people_of_wikipedia(people):
    """An article's person has the first name and the surname of its title; `-s` shows the figures."""
    first, surname = [], []
    for page, text in people:
        parts = re.sub(r"\(.*?\)", "", page).lower().split()
        if len(parts) < 2 or parts[0] in RULERS:
            continue
        found = candidates(text)
        judged = [
            (text[start:end].lower(), is_first)
            for (start, end, _), is_first in zip(found, first_names(text, found), strict=True)
        ]
        if parts[0] in LISTED and not LISTED[parts[0]]:
            first += [is_first for name, is_first in judged if name == parts[0]][:1]
        if parts[-1] not in parts[:-1]:
            surname += [not is_first for name, is_first in judged if name == parts[-1]]
    print(f"\nfirst mention of the first name found: {sum(first)} of {len(first)} articles")
    print(f"surname left alone: {sum(surname)} of {len(surname)} occurrences")
    assert len(first) > 100
    assert sum(first) >= 0.97 * len(first)
    assert len(surname) > 50
    assert sum(surname) >= 0.85 * len(surname)
