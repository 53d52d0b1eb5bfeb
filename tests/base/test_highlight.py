"""Marked words in a terminal: where they stand, in which group, and nothing that a terminal would obey."""

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from distill.base.highlight import marked, side_by_side

TEXT = "He saw the queen."
WORDS = [(0, 2, 0), (11, 16, 1)]


@given(st.text(), st.booleans())
def test_no_control_character_comes_through(text, colours):
    words = [(0, len(text) // 2, 0)] if text else []
    assert all(character.isprintable() for character in marked(text, words, colours).plain)


def test_more_groups_than_colours():
    assert marked("a" * 12, [(i, i + 1, i) for i in range(12)], colours=True).plain == "a" * 12


def test_a_table_has_a_column_for_each_heading():
    console = Console(file=io.StringIO(), width=40)
    table = side_by_side(["text", "counterfactual"], console)
    table.add_row(marked("he", [(0, 2, 0)], False), marked("she", [(0, 3, 1)], False))
    console.print(table)
    shown = console.file.getvalue()
    assert all(word in shown for word in ("text", "counterfactual", "[he]", "[she]"))


def test_words_are_marked_by_group():
    assert marked(TEXT, WORDS, colours=False).plain == "[He] saw the [queen]."
    assert marked(TEXT, WORDS, colours=False, groups=("male", "female")).plain == "[male: He] saw the [female: queen]."
    coloured = marked(TEXT, WORDS, colours=True)
    assert coloured.plain == TEXT
    assert [coloured.plain[span.start : span.end] for span in coloured.spans] == ["He", "queen"]
    assert len({span.style for span in coloured.spans}) == 2


def test_what_a_terminal_would_obey_is_shown():
    assert marked("a\x1b[31m\tb\x07he", [(9, 11, 0)], colours=False).plain == r"a\x1b[31m\x09b\x07[he]"


def test_texts_side_by_side():
    out = io.StringIO()
    rows = side_by_side(["before", "after"])
    rows.add_row(marked(TEXT, WORDS, colours=False), "She saw the king.")
    Console(file=out, width=80).print(rows)
    assert all(word in out.getvalue() for word in ("before", "after", "[He] saw the [queen].", "She saw the king."))
