"""What is prose: links, addresses, tags and code by hand, and the law that plain prose is all prose."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.text.counterfactual import Swapper
from distill.text.prose import blocks, is_prose
from distill.text.wordlist import load_wordlist

ENGLISH = Swapper(load_wordlist("english_gender"))


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/his/man.html",
        "www.her.com",
        "example.org/her",
        "his@man.com",
        "@her",
        "#her",
        "/home/his/man",
        "~/his",
        "C:\\his\\man",
        "his.txt and man.html",
        "data/his_2/man.csv",
        "`his house` and ``his`` and `print(his)`",
        "```\nhis = man\n```",
        '<a title="his house" href="man">',
        "<!-- his man -->",
        "<code>his man</code>",
        "<script>his = 1</script>",
        "?q=his&man=2",
        "--his=1",
        "self.his()",
    ],
)
def test_no_prose(text):
    edited = ENGLISH.swap(f"So {text}")
    assert edited.text == f"So {text}" and edited.spans == ()
    assert edited.no_prose == len(re.findall(r"\b(?:his|her|man)\b", text))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("he/him or mother/father/son/daughter", "she/her or father/mother/daughter/son"),
        ("and/or his/her car", "and/or her/his car"),
        ("him--and then", "her--and then"),
        ("the man.The boy, love him.his eyes", "the woman.The girl, love her.her eyes"),
        ("a she-wolf", "a he-wolf"),
        ("<b>his</b> house", "<b>her</b> house"),
        ("`his' house", "`her' house"),
        ("1 < 2, he said, and 3 > 2", "1 < 2, she said, and 3 > 2"),
        ("RT @x: he ran. #run he", "RT @x: she ran. #run she"),
        ("(he) [he] 'he' he: he; he!", "(she) [she] 'she' she: she; she!"),
    ],
)
def test_prose(text, expected):
    assert ENGLISH.swap(text).text == expected


@given(st.lists(st.sampled_from(["he", "man", "her", "saw", "the", "dog.", "Then,", "(so)"]), max_size=20))
def test_all_of_plain_prose_is_prose(words):
    text = " ".join(words)
    assert blocks(text) == []
    assert all(is_prose(text, *word.span(), []) for word in re.finditer(r"\w+", text))


@given(st.text(alphabet="<>`@#/.~his \n", max_size=40))
def test_blocks_are_in_order_and_apart(text):
    found = blocks(text)
    assert all(start < end <= len(text) for start, end in found)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(found))
