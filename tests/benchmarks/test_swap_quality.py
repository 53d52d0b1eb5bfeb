"""The table of how right the counterfactuals are counts what it says, on a text small enough to count by hand."""

import re

import pytest
import swap_quality


def by_words(**other: str):
    """A swap of whole words in lower case or capitalised, one word at a time."""
    pattern = re.compile(rf"\b(?:{'|'.join(other)})\b", re.IGNORECASE)

    def swap_word(match: re.Match) -> str:
        new = other[match[0].lower()]
        return new.capitalize() if match[0][0].isupper() else new

    return lambda texts: [pattern.sub(swap_word, text) for text in texts]


always_his = by_words(her="his", his="her", him="her", hers="his")


def test_blanking_hides_what_the_word_was_but_where_nobody_could_tell():
    text = "His dog saw him. He or she fed his or her cat, and HIM too."
    assert swap_quality.blank(text) == (
        "Her dog saw her. He or she fed her or her cat, and HER too.",
        {0: "his", 3: "him", 13: "him"},  # by the number of the word; the eighth is undecidable
    )


def test_recovered_counts_what_comes_back_by_word():
    found = swap_quality.recovered(always_his, ["His dog saw him.", "He fed his cat.", "Nobody came."])
    assert found == {
        **{"n": 3, "right": pytest.approx(2 / 3), "left": 0},
        **{"his n": 2, "his lost": 0, "him n": 1, "him lost": 1},
    }


def test_recovered_tells_words_that_were_left_alone():
    found = swap_quality.recovered(list, ["His dog saw him."])
    assert (found["n"], found["left"]) == (0, 2)


def test_there_and_back_counts_the_four_words():
    # him -> her -> his and hers -> his -> her do not come back; his, her and the rest do.
    texts = ["His dog saw him and her.", "It is hers.", "Nobody came."]
    assert swap_quality.there_and_back(always_his, texts) == {"n": 4, "right": 2 / 4}


def test_endings_are_put_behind_the_sentences_that_end_in_him():
    sentences = swap_quality.ending_sentences(["I saw him. Did you see him? He ran.\nshe hid him", "Call him!"])
    assert sentences == ["I saw him", "Did you see him", "Call him"]


def test_endings_lost_is_the_share_that_does_not_come_back_by_ending():
    def by_full_stop(texts):
        to_her = [re.sub(r"\bhim\b", "her", text) for text in texts if "him" in text]
        return to_her or [re.sub(r"\bher\b", "his", re.sub(r"\bher(?=\.| lol)", "him", text)) for text in texts]

    lost = swap_quality.endings_lost(by_full_stop, ["I saw him", "Call him"])
    assert lost["a full stop"] == lost['" lol"'] == 0
    assert lost["nothing"] == lost["an emoji"] == lost["lower case, a line break"] == 1


def test_a_contenders_cells_are_its_shares_and_counts():
    cases = [("her dog", "his dog"), ("saw her", "saw him")]
    found = swap_quality.measure(always_his, {"GAP": ["His dog saw him."]}, cases)
    assert found["cases"] == {"n": 2, "right": 1}
    lines = swap_quality.report({"ours": found, "other": swap_quality.measure(list, {"GAP": ["His dog."]}, cases)})
    assert "| GAP | 50.0% of 2 | - |" in lines  # what swaps nothing has no share
    assert "| GAP | 100.0% of 1 | - |" in lines  # of him
    assert "| nothing | 100.0% of 1 | - |" in lines
    assert "| right | 1 of 2 | 0 of 2 |" in lines


def test_cases_are_read_with_their_line_breaks(tmp_path):
    path = tmp_path / "cases.tsv"
    path.write_text("# input, output\nher\\ndog\this\\ndog\n\n", encoding="utf-8")
    assert swap_quality.read_cases(path) == [("her\ndog", "his\ndog")]
