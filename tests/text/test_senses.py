"""Words that are others here, by hand: of each rule what it stops, and what it must not."""

import pytest

from distill.text import first_names, senses
from distill.text.counterfactual import Swapper
from distill.text.wordlist import load_wordlist

ENGLISH = Swapper(load_wordlist("english_gender"))


@pytest.mark.parametrize(
    "text",
    [
        "The latency is 10 ms.",
        "The latency is 10 ms. Next it stops.",
        "They man the desk and mother me.",
        "To husband resources",
        "MS patients improved.",
        "HER-2 positive tumours were excluded.",
        "An SHE manager read the HIS data.",
        "the hospital information system (HIS)",
        "They man the desk.",
        "Man the lifeboats!",
        "to mother the kids",
        "We will shepherd the bill.",
        "to father a child",
        "Oh man, that was close.",
        "Boy, was it close.",
        "thanks man",
        "Relax, man!",
        "We got an A, man!",
        "Take it to the OR, man.",
        '"No," said Freddy Shepherd.',
        "Judith Butler and B. King",
        "Stephen King wrote it. King wrote more.",
        "The frigate lost her masts.",
        "If s/he agrees, (s)he signs: (wo)man, wo/man.",
        "You guys rock, man up.",
        "He-Man and the bundle of His",
    ],
)
def test_other_words_stay(text):
    assert ENGLISH.swap(text).text == text


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Ms. Lee left.", "Mr. Lee left."),
        ("It was HER idea. TELL HER!", "It was HIS idea. TELL HIM!"),
        ("The man the police saw", "The woman the police saw"),
        ("I gave it to the man. The man, a boy, left.", "I gave it to the woman. The woman, a girl, left."),
        ("Her mother the queen", "His father the king"),
        ("King Henry and the Norwegian King", "Queen Henry and the Norwegian Queen"),
        ("Prom Queen; the king wrote.", "Prom King; the queen wrote."),
        ("She wrote to Mr. King and to Stephen King.", "He wrote to Mrs. King and to Stephen King."),
        ("The woman sailed the ship, and her crew sang.", "The man sailed the ship, and his crew sang."),
        ("That dude left.", "That girl left."),
        ("Husband, father, brother.", "Wife, mother, sister."),
        ("They mother him.", "They mother her."),
    ],
)
def test_the_same_words_are_swapped(text, expected):
    assert ENGLISH.swap(text).text == expected


def test_the_first_names_before_surnames_are_those_of_the_lists_of_names():
    listed = frozenset(load_wordlist("english_names+none").group_of) | frozenset(
        load_wordlist("english_more_names+none").group_of
    )
    assert senses._first_names() == listed | first_names.MORE_FIRST_NAMES
