"""Alignment of two tokenisations: against a character-by-character reference, and with a real byte-level tokenizer."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.text.alignment import align, from_original, mask_inside, to_original, token_ends
from distill.text.counterfactual import Span, Swapper
from distill.text.wordlist import load_wordlist


def boundary_map(length: int, spans: list[Span]) -> dict[int, int]:
    """Boundary of the original -> boundary of the counterfactual, walking over the characters; edited ones left out."""
    mapped, cf_position, position = {0: 0}, 0, 0
    starts = {span.start: span for span in spans}
    while position < length:
        if position in starts:
            position, cf_position = starts[position].end, starts[position].cf_end
        else:
            position, cf_position = position + 1, cf_position + 1
        mapped[position] = cf_position
    return mapped


def aligned_pairs(x_offsets, c_offsets, mapped: dict[int, int]) -> list[tuple[int, int]]:
    """Every i, j whose ends the map pairs; a token shares its end with no other, and no later token reaches back."""

    def end_of(offsets, position):
        end = offsets[position][1]
        later = offsets[position + 1 :]
        return end if all(later_start >= end and later_end > end for later_start, later_end in later) else None

    x_ends = [mapped.get(end_of(x_offsets, i)) for i in range(len(x_offsets))]
    c_ends = [end_of(c_offsets, j) for j in range(len(c_offsets))]
    return [
        (i, j)
        for i, x_end in enumerate(x_ends)
        for j, c_end in enumerate(c_ends)
        if x_end is not None and x_end == c_end
    ]


@st.composite
def edited_tokenised(draw):
    """(offsets of x, of c, spans, length of x): random edits, random cuts, some characters of several tokens."""
    spans, position, cf_position = [], 0, 0
    for _ in range(draw(st.integers(0, 4))):
        gap, old, new = draw(st.integers(0, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
        start, cf_start = position + gap, cf_position + gap
        position, cf_position = start + old, cf_start + new
        spans.append(Span(start, position, cf_start, cf_position))
    rest = draw(st.integers(0, 3))
    offsets = [draw(tokenisations(length)) for length in (position + rest, cf_position + rest)]
    return *offsets, spans, position + rest


@st.composite
def tokenisations(draw, length):
    cuts = sorted({0, length, *draw(st.lists(st.integers(0, length), max_size=8))})
    offsets = [(0, 0)] if draw(st.booleans()) else []  # a start token
    for start, end in itertools.pairwise(cuts):
        pieces = draw(st.integers(1, 3)) if end == start + 1 else 1
        offsets += [(start, end)] * pieces
    return offsets


@given(edited_tokenised())
def test_align_equals_the_reference(case):
    x_offsets, c_offsets, spans, length = case
    expected = aligned_pairs(x_offsets, c_offsets, boundary_map(length, spans))
    assert align(x_offsets, c_offsets, spans).tolist() == [list(pair) for pair in expected]


@given(edited_tokenised())
def test_boundary_maps_equal_the_reference(case):
    _, _, spans, length = case
    mapped = boundary_map(length, spans)
    back = {cf: x for x, cf in mapped.items()}
    boundaries = np.arange(-1, length + 1)
    assert from_original(boundaries, spans).tolist() == [mapped.get(b, -1) for b in boundaries]
    assert mask_inside(boundaries, spans).tolist() == [b if b in mapped else -1 for b in boundaries]
    cf_boundaries = np.arange(-1, max(back) + 1)
    assert to_original(cf_boundaries, spans).tolist() == [back.get(b, -1) for b in cf_boundaries]


def test_by_hand():
    """<s>|She| saw| him. -> <s>|He| s|aw| her|. : what follows the start, the pronoun, the verb and him/her aligns."""
    x = [(0, 0), (0, 3), (3, 7), (7, 11), (11, 12)]
    c = [(0, 0), (0, 2), (2, 4), (4, 6), (6, 10), (10, 11)]
    spans = [Span(0, 3, 0, 2), Span(8, 11, 7, 10)]
    assert align(x, c, spans).tolist() == [[0, 0], [1, 1], [2, 3], [3, 4], [4, 5]]


def test_token_ends_by_hand():
    assert token_ends([]).tolist() == []
    assert token_ends([(0, 0), (0, 2), (2, 3)]).tolist() == [0, 2, 3]
    assert token_ends([(0, 1), (0, 1), (0, 1), (1, 2)]).tolist() == [-1, -1, 1, 2]  # pieces of one character
    assert token_ends([(0, 2), (2, 2), (2, 3)]).tolist() == [-1, 2, 3]  # an empty offset repeats the boundary
    assert token_ends([(0, 0), (0, 2), (0, 0)]).tolist() == [0, 2, -1]  # start token, word, end token
    assert token_ends([(0, 2), (1, 2), (2, 4)]).tolist() == [-1, 2, 4]  # overlapping pieces


def test_no_spans_is_the_identity():
    boundaries = np.array([0, 3, -1, 7])
    for mapping in (to_original, from_original, mask_inside):
        assert mapping(boundaries, []).tolist() == boundaries.tolist()


@pytest.fixture(scope="module")
def gpt2(shared_data):
    tokenizers = pytest.importorskip("tokenizers")
    return tokenizers.ByteLevelBPETokenizer(
        str(shared_data("gpt2_tokenizer", "vocab.json")), str(shared_data("gpt2_tokenizer", "merges.txt"))
    )


TEXTS = [
    "The actress said that she would bring her brother.",
    "“She’s 👩🏽‍🚀 and he’s 👨‍👩‍👧,” said her mother-in-law — naïvely.\r\n\tHis fiancée, 王さん, left him…",
    "हिन्दी her देश, Ελλάδα: his ñandú\u0301 🇫🇷 him!",
    "No listed word here, only ☃.",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_real_byte_level_tokens(gpt2, text):
    """The pairs are the reference's; up to each, both texts are whole characters with the same edits."""
    edited = Swapper(load_wordlist("english_gender")).swap(text)
    x, c = gpt2.encode(text), gpt2.encode(edited.text)
    pairs = align(x.offsets, c.offsets, edited.spans).tolist()
    assert pairs == [list(pair) for pair in aligned_pairs(x.offsets, c.offsets, boundary_map(len(text), edited.spans))]
    for i, j in pairs:
        # The bytes up to the token are whole characters, so the boundary can be read off the tokens themselves.
        before_x, before_c = gpt2.decode(x.ids[: i + 1]), gpt2.decode(c.ids[: j + 1])
        assert text.startswith(before_x) and edited.text.startswith(before_c)
        undone = [span.end for span in edited.spans if span.cf_end <= len(before_c)]
        assert len(undone) == sum(span.end <= len(before_x) for span in edited.spans)
    if not edited.spans:
        whole = [position for position, end in enumerate(token_ends(x.offsets)) if end >= 0]
        assert pairs == [[position, position] for position in whole]


def test_most_positions_of_real_text_align(gpt2, shared_data):
    lines = shared_data("wikitext2", "wiki.test.raw").read_text(encoding="utf-8").splitlines()
    swapper = Swapper(load_wordlist("english_gender"))
    aligned = positions = 0
    for text in [line for line in lines if re.search(r"\b(she|her)\b", line)][:100]:
        edited = swapper.swap(text)
        x, c = gpt2.encode(text), gpt2.encode(edited.text)
        aligned += len(align(x.offsets, c.offsets, edited.spans))
        positions += len(x.ids)
    assert aligned / positions > 0.99
