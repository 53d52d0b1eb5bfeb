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
from distill.objective.kd_loss import IGNORED
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


@pytest.fixture(scope="module")
def swapper():
    return Swapper(load_wordlist("english_gender"))


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
