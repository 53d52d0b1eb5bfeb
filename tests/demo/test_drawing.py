"""HTML of the page: well-formed, all foreign text escaped, bars as long as their shares, files that hold their text."""

import base64
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from distill.demo import drawing
from distill.demo.continuing import Count, Written
from distill.demo.next_word import NextWord, Token
from distill.demo.swapping import ListSeen, swap
from distill.text.wordlist import load_wordlist

HOSTILE = "<script>alert('1')</script> & \"quoted\" ${alert(1)} `x`"
GROUPS = ("male", "female")
GENDER = load_wordlist("english_gender")


def parsed(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html)


def words_of(tree) -> str:
    return "".join(tree.itertext())


def next_word(title, masses):
    likeliest = (Token("he", 0.25, 0), Token("<b>", 0.125, None))
    return NextWord(
        title, masses, "4 times likelier male", (("he", 0.2), ("she", 0.05)), "4 times likelier he", likeliest
    )


@pytest.fixture(scope="module")
def pages():
    """Every kind of page, with hostile text wherever text comes from outside."""
    count = Count(
        {HOSTILE: np.array([3.0, 1.0, 0.0, 4.0])}, (HOSTILE,), {}, {HOSTILE: ((HOSTILE, Written(HOSTILE, [])),)}
    )
    return {
        "heading": drawing.heading(HOSTILE),
        "mistake": drawing.mistake(HOSTILE),
        "next word": drawing.next_word_page([next_word(HOSTILE, (0.4, 0.1))], GROUPS, HOSTILE),
        "continue": drawing.count_page(count, GROUPS, HOSTILE),
        "nothing": drawing.count_page(Count(), GROUPS, "x"),
        "swap": drawing.swap_page(swap(f"She said {HOSTILE}\nan earl", GENDER), GROUPS),
        "list": drawing.list_page(ListSeen(None, (HOSTILE,)), HOSTILE),
        "sound list": drawing.list_page(ListSeen(GENDER, (), (HOSTILE,)), HOSTILE),
        "report": drawing.report_page("report/0", HOSTILE),
    }


def test_foreign_text_stays_text(pages):
    for name, page in pages.items():
        tree = parsed(page)  # raises where something is not closed, or not escaped
        assert not list(tree.iter("script")), name
        assert not list(tree.iter("b")), name
        assert not [key for element in tree.iter() for key in element.attrib if key.startswith("on")], name
        if name not in ("nothing", "report"):
            assert HOSTILE in words_of(tree), name


def test_bars_are_on_one_scale_and_say_their_share():
    page = drawing.next_word_page([next_word("a", (0.4, 0.1)), next_word("b", (0.2, 0.05))], GROUPS, "It")
    tree = parsed(page)
    bars = [rect for rect in tree.iter("rect") if rect.get("class", "").startswith("bar ")]
    widths = [float(bar.get("width").rstrip("%")) for bar in bars]
    assert np.array(widths) / widths[0] == pytest.approx([1, 0.25, 0.5, 0.125], abs=1e-3)
    assert [bar.get("class") for bar in bars] == ["bar g0", "bar g1"] * 2
    for share in ("male 40%", "female 10%", "male 20%", "female 5%"):
        assert share in words_of(tree)
    assert "a: 4 times likelier male" in words_of(tree)


def test_listed_words_are_marked_among_the_likeliest(pages):
    tree = parsed(pages["next word"])
    items = [li for li in tree.iter("li") if li.find("span") is not None]
    assert [(li.find("mark") is not None, words_of(li)) for li in items] == [(True, "he25%"), (False, "<b>12.5%")]
    assert items[0].find("mark").get("title") == "male"


def test_counts_stand_with_their_interval(pages):
    text = words_of(parsed(pages["continue"]))
    assert "3 (38% [14%, 69%])" in text
    assert "8 texts of each model so far, behind one prompt" in text


def test_a_file_holds_its_text(pages):
    swapped = swap(f"She said {HOSTILE}\nan earl", GENDER)
    links = {a.get("download"): a.get("href") for a in parsed(pages["swap"]).iter("a")}
    for name, content in (("counterfactual.txt", swapped.counterfactual), ("counterfactual.jsonl", swapped.json)):
        assert base64.b64decode(links[name].partition("base64,")[2]).decode() == content
        assert links[name].startswith("data:")


def test_edits_are_marked_in_both_texts(pages):
    marks = [(words_of(mark), mark.get("title")) for mark in parsed(pages["swap"]).iter("mark")]
    assert marks[3:] == [
        ("She", "female"), ("an", "follows its form"), ("earl", "male"),
        ("He", "male"), ("a", "follows its form"), ("countess", "female"),
    ]  # fmt: skip


def test_the_report_is_framed_where_nothing_may_run(pages):
    (frame,) = parsed(pages["report"]).iter("iframe")
    assert (frame.get("src"), frame.get("sandbox")) == ("report/0", "")


def test_the_style_has_the_colours_of_the_report_for_light_and_dark():
    style = drawing.style_sheet()
    blocks = re.findall(r"^(\.dark )?\.distill \{([^}]*--ink:[^}]*)\}", style, flags=re.MULTILINE)
    assert [bool(dark) for dark, _ in blocks] == [False, True]
    names = [set(re.findall(r"(--[\w-]+):", block)) for _, block in blocks]
    assert names[0] == names[1] >= {"--ink", "--g0", "--g1", "--g2", "--g3", "--paper"}
    assert set(re.findall(r"var\((--[\w-]+)\)", style)) <= names[0]
    assert "url(" not in style
    assert "@import" not in style
