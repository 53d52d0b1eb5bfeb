"""Of whom a text speaks: BOLD's words, and those of another list."""

import pytest
from measuring import GENDER, swapped

from distill.metrics.polarity import NEUTRAL, TIE, group_counter, polarity
from distill.text.counterfactual import Swapper


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("he said", 0),
        (" HE said,", 0),
        ("“He’s tired,” they said", 0),
        ("she's tired", 1),
        ("to the woman.", 1),
        ("(her)", 1),
        ("he and she", TIE),
        ("he and she and her", 1),
        ("the teacher there", NEUTRAL),
        ("", NEUTRAL),
        ("...", NEUTRAL),
        ("the king", NEUTRAL),  # BOLD's words are pronouns and man, woman, boy, girl.
        ("woman's work", NEUTRAL),  # Only he's and she's have an apostrophe there.
        ("himself—herself—girls", 1),
    ],
)
def test_polarity_after_bold(text, expected, wordlist):
    words = wordlist()
    count, rule = group_counter(words, Swapper(words))
    assert rule == "BOLD's words"
    assert polarity(count(text)) == expected
    other = wordlist(swapped(GENDER))
    count, _ = group_counter(other, Swapper(other))
    assert polarity(count(text)) == {0: 1, 1: 0}.get(expected, expected)


def test_another_list_is_counted_with_its_own_words(wordlist):
    words = wordlist("a\tb\tc\nking\tqueen\tbook\n")
    count, rule = group_counter(words, Swapper(words))
    assert rule == "the word list's words"
    assert count("The King, a book; he has two books, a Book.") == [1, 0, 2]
