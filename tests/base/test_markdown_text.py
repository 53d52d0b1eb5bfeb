"""Markdown: foreign text stays text."""

from distill.base.markdown_text import between_markers, escape, items, table


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
