"""Blocks of aligned views: nothing lost, nothing mixed up, nothing stale."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import TOY_TEXT

from distill.base.errors import UserError
from distill.data.batches import Collator, Filler
from distill.data.corpus import Corpus
from distill.data.counts import PackingCounts
from distill.data.packing import pack, packed_blocks
from distill.models.architecture import special_tokens
from distill.objective.kd_loss import IGNORED
from distill.text.alignment import partner_positions
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
        assert sorted(got) == sorted(want) or counts.dropped_pieces
    assert counts.documents == len(documents)
    whole = sum(last for _, last in rebuild(blocks, 0, toy_tokenizer))
    assert whole == len(documents) or counts.dropped_pieces


@settings(max_examples=40, deadline=None)
@given(documents_strategy)
def test_partners_have_read_counterparts(swapper, toy_tokenizer, documents):
    """Decoding both views up to aligned positions gives a text and its own counterfactual."""
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
            neutral = {"he", "she", "his", "her", "hers", "him", "king", "queen", "kings", "queens"}
            assert [w for w in left.split() if w.lower() not in neutral] == [
                w for w in right.split() if w.lower() not in neutral
            ]
            assert len(left.split()) == len(right.split())


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


def test_collator_rows_and_partners(swapper, toy_tokenizer):
    texts = ["she saw her book", "Nothing happened.", "his king"]
    blocks = [b for t in texts for b in pack([t], toy_tokenizer, swapper, 24, PackingCounts())]
    batch = Collator(2, augment=True)(blocks)
    assert batch["input_ids"].shape == (5, 24)  # three texts, two counterfactuals
    assert int(batch["student_rows"]) == 5
    partner = batch["partner"][0]
    flat = partner.flatten()
    at = torch.arange(5 * 24).view(5, 24)
    assert (partner[1] == at[1]).all()  # unedited: its own counterfactual, padding (never valid) included
    mutual = flat[flat[flat >= 0]]
    assert (mutual == torch.nonzero(flat >= 0).flatten()).all()
    assert {int(i) // 24 for i in partner[0] if i >= 0} == {3}
    assert {int(i) // 24 for i in partner[2] if i >= 0} == {4}
    assert int(Collator(2, augment=False)(blocks)["student_rows"]) == 3
    assert Collator(1, augment=False)(blocks)["input_ids"].shape == (3, 24)


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


def test_blocks_come_from_disk_as_they_were_packed_alone_or_in_a_batch(swapper, toy_tokenizer, tmp_path):
    documents = [*TOY_TEXT.split(". "), "Nothing happened that day, and nobody said a word."] * 3
    packed = list(pack(documents, toy_tokenizer, swapper, 24, PackingCounts()))
    blocks, _ = packed_blocks(Corpus("k", lambda: documents), toy_tokenizer, swapper, 24, tmp_path)
    assert {len(block.input_ids) for block in packed} == {1, 2} and len(blocks) == len(packed)
    last = len(packed) - 1
    order = [last, 0, Filler(1), *range(len(packed)), 0]
    for index, block in zip(order, blocks.__getitems__(order), strict=True):
        assert block.index == index == blocks[index].index
        for name in ("input_ids", "labels", "boundaries", "position_ids"):
            want = getattr(packed[index], name)
            if name == "labels" and isinstance(index, Filler):
                want = np.full_like(want, IGNORED)
            np.testing.assert_array_equal(getattr(block, name), want)
            np.testing.assert_array_equal(getattr(blocks[index], name), want)


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
