"""Blocks as they come from disk."""

import numpy as np
import pytest
import train_toy
from shared import TOY_TEXT

from distill.data.batches import Filler
from distill.data.blocks import BlockDataset
from distill.data.corpus import Corpus
from distill.data.counts import PackingCounts
from distill.data.packing import pack, packed_blocks
from distill.models.student import train_tokenizer
from distill.objective.chunks import IGNORED
from distill.text.counterfactual import Swapper
from distill.text.wordlist import load_wordlist


def test_a_filler_is_a_block_of_which_nothing_counts(tmp_path, toy_tokenizer):
    from distill.data.corpus import Corpus
    from distill.data.packing import packed_blocks

    blocks, _ = packed_blocks(Corpus("toy", train_toy.toy_documents), toy_tokenizer, None, 48, tmp_path)
    assert isinstance(blocks, BlockDataset)
    assert (blocks[Filler(3)].labels == IGNORED).all()
    assert (blocks[3].labels != IGNORED).any()
    assert (blocks[Filler(3)].input_ids == blocks[3].input_ids).all()


def test_first_pieces_are_those_that_begin_a_document_and_lengths_end_with_the_last_token(swapper, tmp_path):
    """Compared with what packing is known to do, block by block; texts of several pieces, and of none that counts."""
    tokenizer = train_tokenizer([TOY_TEXT] * 4, 400)
    long, short = " ".join([TOY_TEXT] * 3), "The king saw her. Nothing happened."
    documents = [short, long, short, long, "Nothing at all."] * 2
    blocks, counts = packed_blocks(Corpus("k", lambda: documents), tokenizer, swapper, 24, tmp_path, one_document=True)
    pieces = [len(list(pack([d], tokenizer, swapper, 24, PackingCounts(), one_document=True))) for d in documents]
    assert max(pieces) > 3 and sum(pieces) == len(blocks) == counts.blocks
    assert blocks.first_pieces().tolist() == [sum(pieces[:n]) for n in range(len(pieces))]
    ends = [int((blocks[n].labels != IGNORED).any(axis=0).nonzero()[0].max()) + 1 for n in range(len(blocks))]
    assert blocks.lengths().tolist() == ends


@pytest.fixture(scope="module")
def swapper():
    return Swapper(load_wordlist("english_gender"))


def test_the_hash_of_tokens_is_that_of_the_text_alone(swapper, toy_tokenizer, tmp_path):
    """Two keys of one text, as two machines have it; a token more; the same tokens with one view less."""
    documents = TOY_TEXT.split(". ")

    def hash_of(key, texts, swaps=swapper):
        return packed_blocks(Corpus(key, lambda: texts), toy_tokenizer, swaps, 24, tmp_path)[0].tokens_hash

    found = [hash_of("here", documents), hash_of("there", documents), hash_of("more", [*documents[:-1], "Nobody."])]
    found.append(hash_of("bare", documents, None))
    assert found[0] == found[1] and len(set(found)) == 3


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
