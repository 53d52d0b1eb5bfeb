"""Blocks -> batches: full ones, rows and partners."""

import dataclasses
from functools import partial

import pytest
import torch
from accelerate.utils import send_to_device
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from distill.data.batches import Collator, FilledBatches, Filler, documents_of
from distill.data.counts import PackingCounts
from distill.data.packing import pack
from distill.objective.chunks import Plan, Positions, chunk_sizes, plan_by_document, plan_chunks
from distill.objective.settings import LossSettings
from distill.text.counterfactual import Swapper
from distill.text.wordlist import load_wordlist


@pytest.mark.parametrize("processes", [2, 3, 4])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("blocks", [1, 5, 12])
def test_batches_are_filled_until_each_process_has_one(blocks, size, processes):
    filled = FilledBatches(BatchSampler(SequentialSampler(range(blocks)), size, drop_last=False), processes)
    batches = list(filled)
    assert len(batches) == len(filled)
    assert len(batches) % processes == 0
    assert {len(batch) for batch in batches} == {size}
    indices = [index for batch in batches for index in batch]
    assert [index for index in indices if not isinstance(index, Filler)] == list(range(blocks))
    assert len(indices) - blocks < size * processes


@pytest.fixture(scope="module")
def swapper():
    return Swapper(load_wordlist("english_gender"))


def test_collator_rows_and_partners(swapper, toy_tokenizer):
    texts = ["she saw her book", "Nothing happened.", "his king"]
    blocks = [b for t in texts for b in pack([t], toy_tokenizer, swapper, 24, PackingCounts())]
    batch = Collator(2, augment=True)(blocks)
    assert batch["input_ids"].shape == (5, 24)  # three texts, two counterfactuals
    assert batch["student_rows"] == 5
    partner = batch["partner"][0]
    flat = partner.flatten()
    at = torch.arange(5 * 24).view(5, 24)
    assert (partner[1] == at[1]).all()  # unedited: its own counterfactual, padding (never valid) included
    mutual = flat[flat[flat >= 0]]
    assert (mutual == torch.nonzero(flat >= 0).flatten()).all()
    assert {int(i) // 24 for i in partner[0] if i >= 0} == {3}
    assert {int(i) // 24 for i in partner[2] if i >= 0} == {4}
    assert Collator(2, augment=False)(blocks)["student_rows"] == 3
    assert Collator(1, augment=False)(blocks)["input_ids"].shape == (3, 24)


def test_which_blocks_a_batch_is_of_is_asked_of_no_device(swapper, toy_tokenizer):
    blocks = [b for t in ("Nothing.", "his king") for b in pack([t], toy_tokenizer, swapper, 24, PackingCounts())]
    sent = send_to_device(Collator(2, augment=True)(blocks), "meta")
    assert sent["labels"].is_meta  # what is here cannot be read back
    assert sent["source"][:, 1].tolist() == [0, 0, 1] and sent["source"][2, 0] == sent["source"][1, 0]


def test_a_trimmed_batch_says_the_same_of_what_counts(swapper, toy_tokenizer):
    """It ends with its longest row; what it holds is what the full batch holds there, partners too."""
    texts = ["she saw her book", "Nothing happened.", "his king took her coat; a man took his coat"]
    blocks = [b for t in texts for b in pack([t], toy_tokenizer, swapper, 64, PackingCounts(), one_document=True)]
    full, trimmed = (Collator(2, augment=True, trim=trim)(blocks) for trim in (False, True))
    length = trimmed["input_ids"].shape[1]
    assert length == max(int((row != -100).sum()) for row in full["labels"]) < 64
    for name in ("input_ids", "position_ids", "labels"):
        assert torch.equal(trimmed[name], full[name][:, :length])
    assert (full["labels"][:, length:] == -100).all()
    partner = full["partner"][..., :length]
    assert torch.equal(trimmed["partner"], torch.where(partner < 0, -1, partner // 64 * length + partner % 64))


def test_a_batch_of_nothing_that_counts_has_one_position(toy_tokenizer):
    (block,) = pack(["Nothing."], toy_tokenizer, None, 16, PackingCounts(), one_document=True)
    empty = dataclasses.replace(block, labels=block.labels * 0 - 100)
    assert Collator(1, augment=False, trim=True)([empty])["labels"].tolist() == [[-100]]


def test_batches_of_three_views(neutral_tokenizer):
    blocks = list(
        pack(
            ["she saw him", "nothing here"],
            neutral_tokenizer,
            Swapper(load_wordlist("english_gender_neutral+none")),
            16,
            PackingCounts(),
        )
    )
    batch = Collator(3, augment=True)(sorted(blocks, key=lambda block: -len(block.input_ids)))
    assert batch["input_ids"].shape == (4, 16)  # one text in three views, one in a single view
    assert batch["partner"].shape == (2, 4, 16)
    texts = [neutral_tokenizer.decode(row, skip_special_tokens=True) for row in batch["input_ids"]]
    assert texts == ["she saw him", "nothing here", "they saw her", "he saw them"]
    # The text without edits is its own counterfactual in both shifts.
    assert (batch["partner"][:, 1] == torch.arange(16, 32)).all()
    assert batch["student_rows"] == 4
    assert Collator(3, augment=False)(blocks)["student_rows"] == 2


def test_what_the_loss_would_ask_of_a_device_is_found_where_the_batch_is_made(swapper, toy_tokenizer):
    """Plans of single documents, by which private steps clip the head, and the pairs of both views."""
    texts = ["she saw her book", "Nothing happened.", "his king"]
    blocks = [
        dataclasses.replace(block, index=7 * n)
        for n, text in enumerate(texts)
        for block in pack([text], toy_tokenizer, swapper, 24, PackingCounts(), one_document=True)
    ]
    settings = LossSettings(chunk_tokens=4)
    sizes = chunk_sizes(settings, torch.device("cpu"), 400, torch.float32)
    plan = partial(plan_by_document, settings=settings, sizes=sizes)
    batch = Collator(2, augment=True, trim=True, plan=plan, by_document=True, pairs=True)(blocks)
    place, count = documents_of(batch)
    assert (place.tolist(), count) == ([0, 1, 2, 0, 2], 3)
    labels, length = batch["labels"].flatten(), batch["labels"].shape[1]
    planned = [(c.document, [int(t) // length for t in c.tokens], c.last) for c in batch["plan"].chunks]
    assert all(int(place[row]) == document for document, rows, _ in planned for row in rows)
    assert [document for document, _, last in planned if last] == [0, 1, 2]
    tokens = sorted(int(t) for chunk in batch["plan"].chunks for t in chunk.tokens)
    assert tokens == [n for n, label in enumerate(labels.tolist()) if label != -100]
    partner = batch["partner"][0].flatten().tolist()
    pairs = [[i, j] for i, j in enumerate(partner) if j > i and labels[i] != -100]
    assert batch["pairs"].T.tolist() == pairs and pairs


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("workers", [0, 1])
def test_the_loss_is_planned_where_the_batch_is_made(swapper, toy_tokenizer, augment, workers):
    """From the rows that the student reads; through a worker, and to a device, the plan stays what it is."""
    texts = ["she saw her book", "Nothing happened.", "his king"]
    blocks = [b for t in texts for b in pack([t], toy_tokenizer, swapper, 24, PackingCounts())]
    settings = LossSettings(chunk_tokens=16)
    plan = partial(plan_chunks, settings=settings, sizes=chunk_sizes(settings, torch.device("cpu"), 400, torch.float32))
    loader = DataLoader(blocks, 3, collate_fn=Collator(2, augment, plan=plan), num_workers=workers)
    (batch,) = loader
    (sent,) = map(partial(send_to_device, device="cpu", non_blocking=True), loader)
    rows = 5 if augment else 3
    labels = batch["labels"][:rows].flatten()
    expected = plan(Positions(labels, torch.arange(24 * rows), batch["partner"][:, :rows].flatten(1)))
    for found in (batch["plan"], sent["plan"]):
        assert isinstance(found, Plan) and len(found.chunks) == len(expected.chunks) > 1
        for chunk, wanted in zip(found.chunks, expected.chunks, strict=True):
            assert chunk.blocks == wanted.blocks
            assert all(map(torch.equal, chunk[:4], wanted[:4]))
    assert (
        sorted(int(t) for chunk in expected.chunks for t in chunk.tokens) == (labels != -100).nonzero()[:, 0].tolist()
    )
