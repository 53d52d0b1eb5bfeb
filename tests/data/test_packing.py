"""Blocks of aligned views: nothing lost, nothing mixed up, nothing stale."""

import dataclasses
import os
import tracemalloc
from collections import Counter
from itertools import product

import numpy as np
import pytest
from chat_templates import TEMPLATES, chat_tokenizer
from forked import fork, until
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import TOY_TEXT

from distill.base.errors import UserError
from distill.base.integrity import file_is_whole
from distill.data import corpus, packing
from distill.data.corpus import Corpus
from distill.data.counts import PackingCounts
from distill.data.packing import pack, packed_blocks
from distill.models.architecture import special_tokens
from distill.objective.chunks import IGNORED
from distill.text.alignment import partner_positions
from distill.text.conversations import Messages, rendered
from distill.text.counterfactual import Swapper
from distill.text.wordlist import load_wordlist

WORDS = ["he", "she", "his", "her", "him", "The nurse", "a book", "king", "queens", "naïve", "👩‍⚕️", "and", ".", "\n"]
documents_strategy = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=40).map(" ".join), max_size=12)


@pytest.fixture(scope="module")
def swapper():
    return Swapper(load_wordlist("english_gender"))


def pieces_of(block, view):
    """(tokens, labels, boundaries) of each piece in one view of a block, found by where positions restart."""
    valid = block.labels[view] != IGNORED
    starts = np.flatnonzero((block.position_ids[view] == 0) & valid)
    stops = [*starts[1:], int(valid.sum())]
    return [
        (block.input_ids[view, a:b], block.labels[view, a:b], block.boundaries[view, a:b])
        for a, b in zip(starts, stops, strict=True)
    ]


def rebuild(blocks, view, tokenizer):
    """All texts that the blocks hold, by following tokens from piece to piece (order of documents is not kept)."""
    start, end = special_tokens(tokenizer)
    texts = []
    for block in blocks:
        view_here = view if view < len(block.input_ids) else 0
        for tokens, labels, _ in pieces_of(block, view_here):
            assert tokens[0] == start
            assert (labels[:-1] == tokens[1:]).all()
            texts.append((list(tokens[1:]), labels[-1] == end))
    return texts


@settings(max_examples=40, deadline=None)
@given(documents_strategy, st.sampled_from([16, 64, 256]))
def test_every_token_of_both_texts_is_in_a_block_once(swapper, toy_tokenizer, documents, length):
    counts = PackingCounts()
    blocks = list(pack(documents, toy_tokenizer, swapper, length, counts))
    for view in (0, 1):
        want = []
        for d in documents:
            text = swapper.swap(d).text if view else d
            want += toy_tokenizer(text, add_special_tokens=False)["input_ids"]
        got = [t for tokens, _ in rebuild(blocks, view, toy_tokenizer) for t in tokens]
        assert not Counter(got) - Counter(want)
        assert len(got) == len(want) or counts.dropped_pieces
    assert counts.documents == len(documents)
    whole = sum(last for _, last in rebuild(blocks, 0, toy_tokenizer))
    assert whole + counts.dropped_pieces >= len(documents)
    assert not counts.dropped_pieces or length == 16  # no edit is longer than the others


@settings(max_examples=40, deadline=None)
@given(documents_strategy, st.sampled_from([16, 64]))
def test_one_document_a_block_holds_the_same_pieces_alone(swapper, toy_tokenizer, documents, length):
    """The pieces of a packing, each in a block of its own; positions go on to its end."""
    packed, alone = PackingCounts(), PackingCounts()
    blocks = list(pack(documents, toy_tokenizer, swapper, length, packed))
    apart = list(pack(documents, toy_tokenizer, swapper, length, alone, one_document=True))

    def texts(blocks):
        views = [[pieces_of(block, view) for view in range(len(block.input_ids))] for block in blocks]
        pieces = [piece for view in views for piece in zip(*view, strict=True)]
        return sorted([[array.tolist() for array in kind[:2]] for kind in piece] for piece in pieces)

    assert texts(apart) == texts(blocks)
    assert all((block.position_ids == np.arange(length)).all() for block in apart)
    assert len(apart) == alone.pieces == alone.blocks
    assert dataclasses.replace(alone, blocks=packed.blocks, edited_blocks=packed.edited_blocks) == packed


TURNED = {
    "he": {"she"}, "she": {"he"}, "his": {"her", "hers"}, "her": {"his", "him"}, "him": {"her"}, "king": {"queen"},
    "queens": {"kings"},
}  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(documents_strategy)
def test_partners_have_read_counterparts(swapper, toy_tokenizer, documents):
    """Decoding both views up to aligned positions gives a text and its own counterfactual."""
    aligned = 0
    for block in pack(documents, toy_tokenizer, swapper, 128, PackingCounts()):
        if len(block.input_ids) == 1:
            continue
        partner = partner_positions(block.boundaries)
        for i in np.flatnonzero(partner[0, 0] >= 0):
            j = partner[0, 0, i]
            assert partner[1, 0, j] == i
            left, right = (
                toy_tokenizer.decode(row[at - position + 1 : at + 1])
                for row, at, position in (
                    (block.input_ids[0], i, block.position_ids[0, i]),
                    (block.input_ids[1], j, block.position_ids[1, j]),
                )
            )
            for word, other in zip(left.split(), right.split(), strict=True):
                assert other in TURNED.get(word, {word})
            aligned += 1
    assert aligned or not any(swapper.matches(document) for document in documents)


def test_a_long_document_is_cut_where_both_views_may_be_cut(swapper, toy_tokenizer):
    counts = PackingCounts()
    blocks = list(pack([TOY_TEXT * 3], toy_tokenizer, swapper, 32, counts))
    assert counts.pieces > 3
    assert counts.dropped_pieces == 0
    for block in blocks:
        assert block.input_ids.shape == (2, 32)
        for (_, _, left), (_, _, right) in zip(pieces_of(block, 0), pieces_of(block, 1), strict=True):
            assert left[0] == right[0] >= 0
            assert left[-1] == right[-1] >= 0  # every piece ends at a shared boundary


def test_unedited_documents_keep_one_view(swapper, toy_tokenizer):
    counts = PackingCounts()
    blocks = list(pack(["Nothing happened at all."] * 5 + ["she said"] * 2, toy_tokenizer, swapper, 64, counts))
    assert sorted(len(b.input_ids) for b in blocks) == [1, 2]
    assert (counts.edited_documents, counts.edited_blocks) == (2, 1)


def test_without_a_swapper_there_is_one_view(toy_tokenizer):
    blocks = list(pack([TOY_TEXT], toy_tokenizer, None, 64, PackingCounts()))
    assert {len(b.input_ids) for b in blocks} == {1}


def test_partner_positions_against_a_loop():
    rng = np.random.default_rng(0)
    boundaries = np.full((3, 20), -1)
    for v in range(3):
        some = np.sort(rng.choice(40, size=15, replace=False))
        boundaries[v, np.sort(rng.choice(20, size=15, replace=False))] = some
    partner = partner_positions(boundaries)
    for v in range(3):
        for s in (1, 2):
            other = boundaries[(v + s) % 3]
            for i in range(20):
                same = [j for j in range(20) if boundaries[v, i] >= 0 and other[j] == boundaries[v, i]]
                assert partner[v, s - 1, i] == (same[0] if same else -1)


@pytest.mark.parametrize("beginning", [0, 9_000_000])
def test_partners_take_no_more_memory_far_into_a_document(beginning):
    boundaries = np.array([[3, -1, 9, 14], [3, 5, 14, -1]], np.int32)
    tracemalloc.start()
    partner = partner_positions(np.where(boundaries >= 0, boundaries + beginning, -1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert partner.tolist() == [[[0, -1, -1, 2]], [[0, -1, 3, -1]]]
    assert peak < 1_000_000
    assert partner_positions(np.zeros((2, 0), np.int32)).shape == (2, 1, 0)


def test_the_cache_is_used_and_never_stale(swapper, toy_tokenizer, tmp_path):
    asked = []

    def build(text="she saw him", swapper=swapper, length=32, key="k"):
        def documents():
            asked.append(text)
            return [text]

        return packed_blocks(Corpus(key, documents), toy_tokenizer, swapper, length, tmp_path)

    first, counts = build()
    second, counts_again = build()
    assert len(asked) == 1
    assert counts == counts_again
    assert (first[0].input_ids == second[0].input_ids).all()
    other_list = dataclasses.replace(
        load_wordlist("english_gender"), rows=load_wordlist("english_gender").rows[:1], sha256="0" * 64
    )
    for change in ({"swapper": Swapper(other_list)}, {"swapper": None}, {"length": 40}, {"key": "other"}):
        before = len(asked)
        build(**change)
        assert len(asked) == before + 1, change


def test_blocks_of_one_document_have_a_cache_of_their_own(toy_tokenizer, tmp_path):
    texts = Corpus("key", lambda: iter(["One text.", "Another text."]))
    packed, _ = packed_blocks(texts, toy_tokenizer, None, 64, tmp_path)
    apart, _ = packed_blocks(texts, toy_tokenizer, None, 64, tmp_path, one_document=True)
    again, _ = packed_blocks(texts, toy_tokenizer, None, 64, tmp_path, one_document=True)
    assert (len(packed), len(apart), len(again)) == (1, 2, 2)


def test_a_half_written_cache_is_not_used(swapper, toy_tokenizer, tmp_path):
    packed_blocks(Corpus("k", lambda: ["she"]), toy_tokenizer, swapper, 32, tmp_path)
    next(tmp_path.glob("*.json")).unlink()  # as if killed before the last write
    next(tmp_path.glob("*.arrow")).write_bytes(b"half")
    blocks, _ = packed_blocks(Corpus("k", lambda: ["she"]), toy_tokenizer, swapper, 32, tmp_path)
    assert len(blocks) == 1


def test_text_without_a_listed_word_is_refused(swapper, toy_tokenizer, tmp_path):
    corpus = Corpus("k", lambda: ["Nothing happened."])
    with pytest.raises(UserError, match=r"none of the 1 documents .* word list 'english_gender'"):
        packed_blocks(corpus, toy_tokenizer, swapper, 32, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(packed_blocks(corpus, toy_tokenizer, None, 32, tmp_path)[0]) == 1


BOOK = "He saw her. She was pregnant. He left."


def test_a_corpus_in_which_all_is_skipped_is_refused_with_the_reason(toy_tokenizer, tmp_path):
    """A book is one document, and one word to skip takes all of it out."""
    wordlist = load_wordlist("english_gender")
    for skip, books, hint in (
        ("document", [BOOK, "It rained."], r"1 of 2\) is left alone .*passage_chars, or .* skip: sentence"),
        ("sentence", ["She was pregnant."], r"1 of 1\) is left alone .*; set skip: nothing"),
    ):
        with pytest.raises(UserError, match=hint) as told:
            packed_blocks(Corpus("k", lambda b=books: b), toy_tokenizer, Swapper(wordlist, skip=skip), 32, tmp_path)
        assert "nothing to swap" in str(told.value) and "none of the" not in str(told.value)
    links = Corpus("k", lambda: ["See https://x.org/her and https://x.org/she."])
    with pytest.raises(UserError, match=r"part of a link, a tag or code \(2 times\) or means"):
        packed_blocks(links, toy_tokenizer, Swapper(wordlist), 32, tmp_path)


@pytest.mark.parametrize("skipped, edited, warned", [(0, 2, False), (1, 1, False), (3, 2, True)])
def test_more_skipped_documents_than_edited_ones_are_warned_of(skipped, edited, warned, toy_tokenizer, capsys):
    counts, swapper = PackingCounts(), Swapper(load_wordlist("english_gender"))
    list(pack([BOOK] * skipped + ["She left."] * edited + ["It rained."], toy_tokenizer, swapper, 32, counts))
    packing.tell_packed(counts, swapper)
    packing.tell_packed(counts, None)
    told = capsys.readouterr().err
    assert told.count("warning: ") == warned
    assert ("3 of the 5 documents" in told and "corpus.passage_chars" in told) == warned


def test_two_runs_may_pack_into_one_cache(tmp_path, monkeypatch, toy_tokenizer):
    """Each waits for the other in the middle of its packing."""
    documents = ["the king saw the queen ."] * 40

    def work(mine: str, other: str) -> None:
        def read():
            yield from documents[:20]
            (tmp_path / mine).touch()
            until((tmp_path / other).exists)
            yield from documents[20:]

        blocks, counts = packing.packed_blocks(corpus.Corpus("key", read), toy_tokenizer, None, 16, tmp_path / "cache")
        assert len(blocks) == counts.blocks and counts.documents == 40

    children = [fork(lambda names=names: work(*names)) for names in (("one", "two"), ("two", "one"))]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    files = sorted((tmp_path / "cache").iterdir())
    assert [path.suffix for path in files] == [".arrow", ".sha256", ".json", ".sha256"]
    assert all(file_is_whole(path) for path in files if path.suffix != ".sha256")


# ---------------------------------------------------------------------------------------------------------- three views


PLAIN = Swapper(load_wordlist("english_gender_neutral+none"))

DOCUMENTS = st.lists(
    st.lists(
        st.sampled_from(["he", "She", "themself", "a king", "two monarchs", "the nurse", "boys", "people", "saw", "."]),
        min_size=1,
        max_size=25,
    ).map(" ".join),
    min_size=1,
    max_size=6,
)


@settings(max_examples=30)
@given(documents=DOCUMENTS, length=st.sampled_from([32, 128]))
def test_aligned_positions_of_three_views_have_read_counterparts(neutral_tokenizer, documents, length):
    """What a view has read up to an aligned position is the counterfactual of what each other view has read."""
    aligned = 0
    for block in pack(documents, neutral_tokenizer, PLAIN, length, PackingCounts()):
        views = len(block.input_ids)
        assert views in (1, 3)
        if views == 1:
            continue

        def read(view, at, block=block):
            first = at - block.position_ids[view, at] + 1  # behind the start token
            return neutral_tokenizer.decode(block.input_ids[view, first : at + 1])

        partners = partner_positions(block.boundaries)
        assert partners.shape == (3, 2, length)
        for view, shift in product(range(3), (1, 2)):
            for at in np.flatnonzero(partners[view, shift - 1] >= 0):
                there, other = partners[view, shift - 1, at], (view + shift) % 3
                assert partners[other, 2 - shift, there] == at  # the way back is the opposite shift
                assert PLAIN.swap(read(view, at), shift).text == read(other, there)
                aligned += 1
    assert aligned or not any(PLAIN.matches(document) for document in documents)


# ------------------------------------------------------------------------------------------------------ conversations

TALKS = st.lists(
    st.lists(st.sampled_from([*WORDS, "ä", "Nothing"]), min_size=1, max_size=9).map(" ".join), min_size=2, max_size=6
)


def rows_of(block, view):
    """(tokens, labels) of a view up to the padding, which has positions of its own behind the last piece."""
    used = int((block.boundaries[view] >= 0).nonzero()[0].max()) + 1
    return block.input_ids[view, :used].tolist(), block.labels[view, :used].tolist()


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=20, deadline=None)
@given(contents=TALKS)
def test_a_conversation_is_packed_as_the_tokenizer_itself_renders_it(swapper, toy_tokenizer, template, contents):
    """The truth: transformers' own tokens of it, and of the same with each message swapped; no start token twice."""
    tokenizer = chat_tokenizer(toy_tokenizer, template)
    roles = [("user", "assistant")[number % 2] for number in range(len(contents))]
    messages = Messages(roles, contents)
    swapped = swapper.swap("\n\n".join(messages.contents)).text.split("\n\n")
    for number, said in enumerate((messages.contents, swapped)):
        talk = [{"role": role, "content": content} for role, content in zip(roles, said, strict=True)]
        theirs = tokenizer.apply_chat_template(talk, return_dict=True)["input_ids"]
        (block,) = pack([rendered(messages, tokenizer)], tokenizer, swapper, 600, PackingCounts())
        view = number if len(block.input_ids) > 1 else 0
        tokens, labels = rows_of(block, view)
        start = [] if template != "plain" else [special_tokens(tokenizer)[0]]
        assert tokens == start + list(theirs)
        assert labels == [*tokens[1:], IGNORED]


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=20, deadline=None)
@given(contents=TALKS, length=st.sampled_from([600, 24]))
def test_only_the_assistants_turns_bear_loss(swapper, toy_tokenizer, template, contents, length):
    """Labels that are left are the tokens that end in an answer, in every view; behind a cut, one may come twice."""
    tokenizer = chat_tokenizer(toy_tokenizer, template)
    roles = [("user", "assistant")[number % 2] for number in range(len(contents))]
    document = rendered(Messages(roles, contents), tokenizer, answers_only=True)
    counts = PackingCounts()
    blocks = list(pack([document], tokenizer, swapper, length, counts))
    counterfactual = swapper.swap(document)
    moved = [tuple(moved_by(counterfactual.spans, place) for place in answer) for answer in document.answers]
    for view, (text, answers) in enumerate(((document, document.answers), (counterfactual.text, moved))):
        rows = [block.labels[min(view, len(block.labels) - 1)] for block in blocks]
        found = sorted(int(label) for labels in rows for label in labels if label != IGNORED)
        wanted = sorted(marked_tokens(tokenizer, text, answers))
        if length == 600:
            assert found == wanted
        else:
            assert set(found) <= set(wanted)
            assert set(found) == set(wanted) or counts.dropped_pieces
    for block in blocks:
        assert (block.labels != IGNORED).any()


def moved_by(spans, place):
    """Where a place of the text stands in the counterfactual, by a plain loop."""
    return place + sum((cf_end - cf_start) - (end - start) for start, end, cf_start, cf_end in spans if end <= place)


def marked_tokens(tokenizer, text, places):
    """The tokens of a text that end in one of the places, by a plain loop."""
    encoding = tokenizer(str(text), add_special_tokens=False, return_offsets_mapping=True)
    return [
        token
        for token, (_, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
        if any(start < end <= stop for start, stop in places)
    ]


def test_conversations_longer_than_a_block_are_counted(toy_tokenizer):
    tokenizer = chat_tokenizer(toy_tokenizer, "chatml")
    talks = [rendered(Messages(["user", "assistant"], ["She is here.", "He " * n]), tokenizer) for n in (1, 2, 200)]
    counts = PackingCounts()
    list(pack([*talks, "He " * 200], tokenizer, None, 128, counts))
    assert counts.cut_conversations == 1
    assert "1 conversations are longer than a block, and cut" in counts.summary()


def test_a_corpus_in_which_the_assistant_is_silent_is_refused(toy_tokenizer, swapper, tmp_path):
    tokenizer = chat_tokenizer(toy_tokenizer, "chatml")
    silent = rendered(Messages(["user"], ["She is here."]), tokenizer, answers_only=True)
    with pytest.raises(UserError, match="no message with the role 'assistant' says anything"):
        packed_blocks(Corpus("k", lambda: iter([silent])), tokenizer, swapper, 64, tmp_path)
