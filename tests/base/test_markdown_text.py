"""Markdown: foreign text is shown as it is, in its cell; what is written between markers stays there."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.base.markdown_text import between_markers, escape, items, table

SPECIAL = r"\`*_{}[]#|~!$@:"


def unescaped(text: str) -> str:
    """What a reader of Markdown sees: every backslash escape and the entities of HTML undone."""
    text = re.sub(r"\\([^a-z\s])", r"\1", text)
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


@given(st.text(st.sampled_from(f"ab <>&{SPECIAL}")))
def test_escaped_text_is_read_as_it_was(text):
    assert unescaped(escape(text)) == text.strip()


@given(st.text())
def test_escaped_text_is_one_line_without_markup(text):
    shown = escape(text)
    assert len(shown.splitlines()) <= 1
    assert "<" not in shown and ">" not in shown
    assert not re.search(rf"(?<!\\)(?:\\\\)*[{re.escape(SPECIAL[1:])}]", shown)


@pytest.mark.parametrize(("text", "shown"), [("one \r\n two", "one ⏎ two"), ("a\x07b", "a b"), (" x ", "x")])
def test_line_breaks_and_control_characters_are_visible(text, shown):
    assert escape(text) == shown


@given(st.lists(st.lists(st.text(), min_size=2, max_size=2), max_size=3))
def test_a_table_has_its_cells_whatever_stands_in_them(rows):
    lines = table(["first", "sec|ond"], rows)
    assert lines[1] == "|---|---|" and lines[-1] == ""
    for line in (lines[0], *lines[2:-1]):
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3, line


def test_items_are_a_list_and_the_line_that_ends_it():
    assert items(["one", "*two*"]) == ["- one", r"- \*two\*", ""]


def test_between_markers_only_their_content_changes():
    text = "before\n<!-- a -->\nold\n<!-- b -->\nafter\n"
    once = between_markers(text, "<!-- a -->", "<!-- b -->", "new\nlines")
    assert once == "before\n<!-- a -->\nnew\nlines\n<!-- b -->\nafter\n"
    assert between_markers(once, "<!-- a -->", "<!-- b -->", "new\nlines") == once


def test_foreign_text_is_no_markup_and_stays_in_its_line():
    assert escape("a|b\n<b> *c* &") == r"a\|b ⏎ &lt;b&gt; \*c\* &amp;"
    assert escape("\x1b[1m \x00") == r"\[1m"


def test_tables_and_lists_by_hand():
    assert table(["a|b", "c"], [["1", "x\ny"], ["2", "`"]]) == [
        r"| a\|b | c |",
        "|---|---|",
        "| 1 | x ⏎ y |",
        r"| 2 | \` |",
        "",
    ]
    assert items(["one", "_two_"]) == ["- one", r"- \_two\_", ""]


def test_only_what_stands_between_the_markers_changes():
    before, after = "text\n<!-- a -->", "<!-- b -->\nmore <!-- b -->\n"
    once = between_markers(f"{before}old{after}", "<!-- a -->", "<!-- b -->", "new")
    assert once == f"{before}\nnew\n{after}"
    assert between_markers(once, "<!-- a -->", "<!-- b -->", "new") == once
