"""Marked words in a terminal."""

import io

from rich.console import Console

from distill.base.highlight import marked, side_by_side

TEXT = "He saw the queen."
WORDS = [(0, 2, 0), (11, 16, 1)]


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
