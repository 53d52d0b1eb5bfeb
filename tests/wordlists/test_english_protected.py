"""Phrases that no list changes: each is needed, and stays."""

import pytest
from bundled import GENDER, NEUTRAL, RELIGION, phrases_of, whole_word

from distill.text.counterfactual import Swapper
from distill.text.wordlist import load_wordlist

PROTECTED_SENTENCES = [
    ("She lives in King Street.", "He lives in King Street."),
    ("He was born in Queens, a borough.", "She was born in Queens, a borough."),
    ("They met at King's Cross, and she left.", "They met at King's Cross, and he left."),
    ("The king saw a queen bee.", "The queen saw a queen bee."),
    ("The king saw a QUEEN BEE on Queen Street.", "The queen saw a QUEEN BEE on Queen Street."),
    ("Her mother tongue is Welsh; her mother's is not.", "His mother tongue is Welsh; his father's is not."),
    ("Its sister ship sank; her sister swam.", "Its sister ship sank; his brother swam."),
    ("On Mother’s Day he rang his mother.", "On Mother’s Day she rang her father."),
    ("Martin Luther King spoke; the king listened.", "Martin Luther King spoke; the queen listened."),
    ("Stephen King's wife read Little Women.", "Stephen King's husband read Little Women."),
    ("Lady Gaga sang, and the lady listened.", "Lady Gaga sang, and the gentleman listened."),
    ("She works at Duke University.", "He works at Duke University."),
    ("The duke drank Earl Grey.", "The duchess drank Earl Grey."),
    ("a man-of-war and a man of peace", "a man-of-war and a woman of peace"),
    ("The Warner Brothers had no brothers.", "The Warner Brothers had no sisters."),
    ("Every man for himself!", "Every man for himself!"),
    ("no man's land, no man’s horse", "no man's land, no woman’s horse"),
    ("The Lord Chancellor bowed to Lord Byron.", "The Lord Chancellor bowed to Lady Byron."),
    ("the Screen Actors Guild and two waiters", "the Screen Actors Guild and two waitresses"),
    ("Notre-Dame and Notre Dame de Paris", "Notre-Dame and Notre Dame de Paris"),
    ("votes for women, by women", "votes for women, by men"),
    ("Zheng He said that he would sail.", "Zheng He said that she would sail."),
    ("an MS in physics, Ms. Smith", "an MS in physics, Mr. Smith"),
    ("Queen Elizabeth and King George", "King Elizabeth and Queen George"),  # titles of people are swapped
    ("The maternity ward is for her maternal aunt.", "The maternity ward is for his paternal uncle."),
    ("He plays for Queens Park Rangers.", "She plays for Queens Park Rangers."),
    ("kings crossing the street", "queens crossing the street"),
    ("Kings Crossed and a King Streetwise", "Queens Crossed and a Queen Streetwise"),  # whole words only
    ("He came in person with a kid glove.", "She came in person with a kid glove."),
]


@pytest.mark.parametrize("text, expected", PROTECTED_SENTENCES, ids=lambda text: text[:25])
def test_protected_sentences(text, expected):
    assert GENDER.swap(text).text == expected


TABLES = (
    "english_gender+english_occupation_forms",
    "english_gender_neutral",
    "english_religion",
    "english_gender+english_names",
)


def test_protected_phrases_hold_a_listed_word():
    words = whole_word({word for table in TABLES for word in load_wordlist(f"{table}+none").words})
    assert [phrase for phrase in phrases_of("english_protected") if not words.search(phrase)] == []


def test_protected_phrases_are_needed():
    """Without it, some list would change the phrase: as it stands, or with a name behind (Lord Mayor Smith)."""
    bare = [Swapper(load_wordlist(f"{table}+none")) for table in TABLES]
    idle = []
    for phrase in phrases_of("english_protected"):
        texts = [f"It is {phrase}, we said.", f"It is {phrase.title()} Smith, we said."]
        if all(swapper.swap(text).text == text for swapper in bare for text in texts):
            idle.append(phrase)
    assert idle == []


@pytest.mark.parametrize("swapper", [GENDER, NEUTRAL, RELIGION], ids=lambda s: s.wordlist.name)
def test_protected_phrases_stay(swapper):
    for phrase in phrases_of("english_protected"):
        forms = {phrase, phrase.upper()} | ({phrase.capitalize()} if phrase == phrase.lower() else set())
        for form in forms:
            assert swapper.swap(f"It was {form}, we wrote about {form}: {form}").text.count(form) == 3
