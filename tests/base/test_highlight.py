"""Marked words in a terminal: where they stand, in which group, and nothing that a terminal would obey."""

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from distill.base.highlight import marked, side_by_side

TEXT = "He saw her."
WORDS = [(0, 2, 0), (7, 10, 1)]


def test_without_colours_the_words_stand_in_brackets():
    assert marked(TEXT, WORDS, colours=False).plain == "[He] saw [her]."
    assert marked(TEXT, WORDS, colours=False, groups=["male", "female"]).plain == "[male: He] saw [female: her]."


def test_with_colours_the_text_is_as_it_was_and_groups_look_different():
    text = marked(TEXT, WORDS, colours=True)
    assert text.plain == TEXT
    styles = {TEXT[span.start : span.end]: span.style for span in text.spans}
    assert set(styles) == {"He", "her"} and len(set(styles.values())) == 2


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
