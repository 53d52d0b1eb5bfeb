"""What is too long to be held whole: its parts."""

import io
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from distill.base.long_input import parts, stream_parts


@given(st.text(alphabet="ab .\n\u00e9\U0001f469", max_size=200), st.integers(2, 30))
def test_parts_are_the_text_and_cut_behind_lines_before_sentences_before_words(text, longest):
    found = list(parts(text, longest))
    assert "".join(found) == text
    assert list(stream_parts(io.StringIO(text, newline=""), longest)) == [part for part in found if part]
    for part, following in pairwise(found):
        assert longest // 2 < len(part) <= longest
        second_half = (part + following)[longest // 2 : longest]
        mark = next((mark for mark in ("\n", ". ", " ") if mark in second_half), "")
        assert part.endswith(mark)
        assert mark or len(part) == longest
