"""Blocks packed while training runs: every document once an epoch, and a resumed run that goes on exactly there."""

import json
import pickle
import re
import shutil
from collections import defaultdict
from functools import partial
from itertools import count, islice
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
import train_toy
from hypothesis import given, settings
from hypothesis import strategies as st
from launched import train
from safetensors.torch import load_file

from distill.base.errors import UserError
from distill.data.batches import Collator
from distill.data.corpus import Corpus
from distill.data.counts import PackingCounts
from distill.data.overlap import digests
from distill.data.packing import pack
from distill.data.stream import BlockStream, StreamLoader, training_blocks
from distill.recipe import CorpusConfig, Recipe
from distill.recipe_check import parse_recipe
from distill.text.counterfactual import Swapper
from distill.text.documents import read_documents
from distill.text.wordlist import load_wordlist


@pytest.fixture(scope="module", autouse=True)
def small_pool():
    """So small that blocks are drawn from it while others are still packed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distill.data.stream._POOL", 4)
        yield


@pytest.fixture(scope="module")
def swapper(short_wordlist):
    return Swapper(short_wordlist)


@pytest.fixture
def make(toy_tokenizer, swapper, tmp_path):
    """A function from documents (or a corpus) and the documents of a segment to a stream."""

    def stream(documents, segment=4, length=24, seed=0):
        corpus = documents if isinstance(documents, Corpus) else Corpus("k", partial(iter, documents))
        return BlockStream(corpus, toy_tokenizer, swapper, length, segment, seed, tmp_path / "packed.json")

    return stream


def marked(n):
    """n documents, each with a number that no other has; some are edited, some longer than a block."""
    return [
        f"<{i}> " + ("she saw a book. " if i % 3 else "nothing at all. ") * (1 + 4 * (i % 7 == 0)) for i in range(n)
    ]


def marks(tokenizer, rows):
    return [int(m) for row in rows for m in re.findall(r"<(\d+)>", tokenizer.decode(row))]


def arguments(process=0, processes=1, workers=0):
    return SimpleNamespace(
        process_index=process,
        world_size=processes,
        dataloader_num_workers=workers,
        dataloader_pin_memory=False,
        dataloader_prefetch_factor=None,
        dataloader_multiprocessing_context=None,
    )


def same(left, right):
    return all(np.array_equal(value, vars(right)[name]) for name, value in vars(left).items())


# ------------------------------------------------------------------------------------------------ counting documents


@settings(max_examples=25)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 7))
def test_every_document_goes_to_one_reader_once_an_epoch(toy_tokenizer, swapper, tmp_path_factory, n, segment, readers):
    corpus = Corpus("k", partial(iter, marked(n)))
    stream = BlockStream(corpus, toy_tokenizer, swapper, 24, segment, 0, tmp_path_factory.getbasetemp() / "absent")
    found = defaultdict(list)
    for reader in range(readers):
        for block, place in stream.read(reader, readers):
            if place.epoch >= 2:
                break
            found[place.epoch] += marks(toy_tokenizer, block.input_ids[:1])
        else:
            pytest.fail("a reader came to an end")
    assert sorted(found[0]) == sorted(found[1]) == list(range(n))


def test_every_epoch_and_seed_has_an_order_of_its_own(make, toy_tokenizer):
    def order(seed, epoch):
        blocks = (b for b, place in islice(make(marked(40), 20, seed=seed).read(0, 1), 200) if place.epoch == epoch)
        return [m for b in blocks for m in marks(toy_tokenizer, b.input_ids[:1])]

    orders = [order(0, 0), order(0, 1), order(1, 0)]
    assert all(sorted(o) == list(range(40)) and o != list(range(40)) for o in orders)
    assert len({tuple(o) for o in orders}) == 3
    assert order(0, 1) == orders[1]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_loaders_of_all_processes_share_out_the_documents(make, toy_tokenizer, processes, workers):
    found = []
    for process in range(processes):
        stream = make(marked(23), segment=3)
        given = arguments(process, processes, workers)
        stream.start(given, None)
        for batch in StreamLoader(stream, Collator(2, augment=False), 1, given):
            place = stream.places[stream.turn - 1]  # of the one block of this batch
            if place.epoch == 0:
                found += marks(toy_tokenizer, batch["input_ids"][:1])
            if all(p and p.epoch for p in stream.places):
                break
    assert sorted(found) == list(range(23))


def test_counts_are_those_of_packing_before(make, toy_tokenizer, swapper):
    documents = marked(30)
    want = PackingCounts()
    list(pack(documents, toy_tokenizer, swapper, 24, want))
    got = next(place for _, place in make(documents, 10).read(0, 1) if place.epoch == 1).earlier
    blocks = {"blocks", "edited_blocks"}  # those of a segment's end are closed with room left
    assert {k: v for k, v in vars(got).items() if k not in blocks} == {
        k: v for k, v in vars(want).items() if k not in blocks
    }
    assert want.blocks <= got.blocks <= want.blocks + 6


def test_a_corpus_without_end_is_read_only_as_far_as_needed(make):
    stream = make(Corpus("k", lambda: (f"<{i}> she" for i in count())))
    assert len(list(islice(stream.read(3, 5), 50))) == 50


# ------------------------------------------------------------------------------------------------------------ resume


@pytest.mark.parametrize(("reader", "readers"), [(0, 1), (1, 3), (4, 5)])
def test_a_reader_goes_on_after_every_block(make, reader, readers):
    """3 segments: with 5 readers, the last one has its first segment in epoch 1."""
    whole = list(islice(make(marked(12)).read(reader, readers), 16))
    assert len({(place.epoch, place.segment) for _, place in whole}) > 2
    for at, (_, place) in enumerate(whole[:-1]):
        rest = list(islice(make(marked(12)).read(reader, readers, place), len(whole) - at - 1))
        for (want_block, want_place), (block, got_place) in zip(whole[at + 1 :], rest, strict=True):
            assert same(block, want_block)
            assert got_place == want_place


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_after_the_last_batch_that_was_taken(make, tmp_path, workers):
    """Batches that workers had ready are not lost, and the workers' turns are kept."""

    def batches(checkpoint, number, save=None):
        stream, given = make(marked(30)), arguments(workers=workers)
        stream.start(given, checkpoint)
        taken = []
        for batch in islice(StreamLoader(stream, Collator(2, augment=True), 3, given), number):
            taken.append(batch)
        if save:
            stream.save(save)
        return taken

    whole = batches(None, 12)
    for at in (1, 4, 7):
        batches(None, at, save=tmp_path / str(at))
        rest = batches(tmp_path / str(at), 12 - at)
        for want, got in zip(whole[at:], rest, strict=True):
            assert want.keys() == got.keys()
            want, got = (batch | {"documents": batch["documents"].starts} for batch in (want, got))
            assert all(torch.equal(torch.as_tensor(want[name]), torch.as_tensor(got[name])) for name in want)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_a_stream_goes_on_bit_for_bit(tmp_path, steps_made, workers):
    """Stopped in the middle of a segment, with accumulation and dropout: the end is the same to the last bit."""
    settings = {"steps": 6, "save_steps": 2, "dropout": 0.1, "optim": "adamw_torch", "save_total_limit": 3}
    settings |= {"segment": 20, "dataloader_num_workers": workers}
    train_toy.main(str(tmp_path / "whole"), 2, 2, **settings)
    checkpoints = tmp_path / "again" / "checkpoints"
    shutil.copytree(tmp_path / "whole" / "checkpoints", checkpoints)
    for lost in (4, 6):
        shutil.rmtree(checkpoints / f"checkpoint-{lost}")
    saved = json.loads((checkpoints / "checkpoint-2" / "stream-0.json").read_text())
    assert all(0 < place["blocks"] < place["counts"]["blocks"] for place in saved["places"])
    steps_made.clear()
    train_toy.main(str(tmp_path / "again"), 2, 2, **settings)
    assert steps_made == [3, 4, 5, 6]
    want, got = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("whole", "again"))
    untrained = load_file(tmp_path / "whole" / "untrained.safetensors")
    assert all(torch.equal(want[k], got[k]) for k in want)
    assert not all(torch.equal(want[k], untrained[k]) for k in want)
    counts = [json.loads((tmp_path / name / "checkpoints" / "packed.json").read_text()) for name in ("whole", "again")]
    assert counts[0] == counts[1]
    assert counts[0]["blocks"] >= 24


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """The folder of a training by 2 processes with 2 workers each: 9 segments for 4 readers."""
    folder = tmp_path_factory.mktemp("stream") / "whole"
    train(folder, 2, processes=2, segment=7, dataloader_num_workers=2, save_steps=2)
    return folder


def test_two_processes_with_unequal_blocks_end(two_processes):
    newest = two_processes / "checkpoints" / "checkpoint-5"
    first, second = (json.loads((newest / f"stream-{rank}.json").read_text())["places"] for rank in (0, 1))
    assert len(first) == len(second) == 2
    assert first != second
    total = json.loads((two_processes / "checkpoints" / "packed.json").read_text())
    assert total["blocks"] == sum(place["counts"]["blocks"] for place in (*first, *second))
    assert (two_processes / "student" / "model.safetensors").exists()


def test_another_number_of_processes_is_refused(two_processes):
    with pytest.raises(UserError, match="saved by 2 processes with 2 readers each, but there are 1 with 1"):
        train_toy.main(str(two_processes), 2, 1, segment=7, save_steps=2)


@pytest.mark.slow
def test_two_processes_go_on_bit_for_bit(two_processes, tmp_path):
    shutil.copytree(two_processes / "checkpoints", tmp_path / "checkpoints")
    shutil.rmtree(tmp_path / "checkpoints" / "checkpoint-5")
    train(tmp_path, 2, processes=2, segment=7, dataloader_num_workers=2, save_steps=2)
    want, got = (load_file(folder / "student" / "model.safetensors") for folder in (two_processes, tmp_path))
    assert all(torch.equal(want[k], got[k]) for k in want)


def test_other_text_is_not_gone_on_with(make, tmp_path):
    make(marked(9)).save(tmp_path)
    with pytest.raises(UserError, match="the corpus has changed"):
        make(Corpus("other", partial(iter, marked(8)))).start(arguments(), tmp_path)


def test_a_stream_can_be_sent_to_a_process(make):
    stream = make(marked(9))
    for (left, *_), (right, *_) in zip(islice(stream, 9), islice(pickle.loads(pickle.dumps(stream)), 9), strict=True):
        assert same(left, right)


# ----------------------------------------------------------------------------------------------------------- sources


@pytest.mark.parametrize("source", ["files", "hub"])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_files_and_data_sets_are_streamed_whole_by_every_worker(tmp_path, toy_tokenizer, make, kind, source):
    """`datasets` gives a worker of a data loader only its share of the files; a reader must see them all."""
    folder = tmp_path / "data"
    folder.mkdir()
    documents = marked(20)
    for number, part in enumerate((documents[:9], documents[9:13], documents[13:])):
        path = folder / f"train-{number}.{kind}"
        if kind == "jsonl":
            path.write_text("".join(json.dumps({"text": d, "other": 1}) + "\n" for d in part), encoding="utf-8")
        else:
            parquet.write_table(pa.table({"text": part, "other": [1] * len(part)}), path)
    where = {"files": [str(folder / "*")]} if source == "files" else {"dataset": str(folder), "streaming": True}
    config = CorpusConfig(source=source, pack="while_training", shuffle=True, **where)
    read = list(read_documents(config, 0))
    assert sorted(read) == sorted(documents)
    assert read != documents  # the files are in another order
    stream, given, found = make(Corpus("k", partial(read_documents, config, 0)), 3), arguments(workers=2), []
    stream.start(given, None)
    for batch in StreamLoader(stream, Collator(2, augment=False), 1, given):
        if stream.places[stream.turn - 1].epoch == 0:
            found += marks(toy_tokenizer, batch["input_ids"][:1])
        if all(p and p.epoch for p in stream.places):
            break
    assert sorted(found) == list(range(20))


def test_documents_that_are_held_out_text_are_counted_by_every_reader_and_told_at_the_end(make, capsys):
    stream, given = make(marked(12), 3), arguments(workers=0)
    stream.held_out = digests([*marked(12)[:5], "something else"])
    stream.start(given, None)
    for _ in StreamLoader(stream, Collator(2, augment=False), 1, given):
        if stream.places[0].epoch == 1:
            break
    stream.finish()
    # Segment by segment: what was read of epoch 1 counts again, as its documents do.
    again = sum(document in marked(12)[:5] for document in marked(12)[: stream.counts.documents - 12])
    assert stream.counts.held_out_documents == 5 + again
    assert "training documents are held-out text too" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["teacher", "files"])
def test_of_two_samples_of_one_teacher_nothing_is_told(tmp_path, toy_tokenizer, swapper, source):
    config = CorpusConfig(source=source, pack="while_training")
    recipe = Recipe(output_dir=str(tmp_path), corpus=config, held_out=CorpusConfig(source="teacher"))
    corpus = Corpus("k", lambda: iter(marked(12)))
    stream, _ = training_blocks(recipe, corpus, toy_tokenizer, swapper, tmp_path, marked(5))
    assert stream.held_out == (digests(marked(5)) if source == "files" else frozenset())


def test_what_a_row_for_each_document_costs_is_said_before_and_after(tmp_path, toy_tokenizer, swapper, make, capsys):
    """Counted by hand: of a row of 48, a document fills its tokens and one for the start."""
    recipe = Recipe(output_dir=str(tmp_path), block_length=48, corpus=CorpusConfig(pack="while_training"))
    documents = marked(12)
    corpus = Corpus("k", lambda: iter(documents))
    stream, _ = training_blocks(recipe, corpus, toy_tokenizer, swapper, tmp_path, one_document=True)
    filled = sum(len(toy_tokenizer(document)["input_ids"]) + 1 for document in documents)
    assert f"of the first 12, {1 - filled / (12 * 48):.0%} of the 576 positions are empty" in capsys.readouterr().err
    stream.start(arguments(workers=0), None)
    for _ in StreamLoader(stream, Collator(2, augment=False), 1, arguments(workers=0)):
        if stream.places[0].blocks == 12:
            break
    stream.finish()
    assert stream.counts.blocks == 12
    assert f"a row: {1 - filled / (12 * 48):.0%} of the 576 positions are empty" in capsys.readouterr().err
    training_blocks(recipe, corpus, toy_tokenizer, swapper, tmp_path)
    assert "positions are empty" not in capsys.readouterr().err


def test_files_are_shuffled_without_being_read_whole(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": \n')
    config = CorpusConfig(source="files", files=[str(tmp_path / "a.jsonl")], shuffle=True, pack="while_training")
    documents = read_documents(config, 0)
    assert next(documents) == "one"
    with pytest.raises(UserError, match="line 2"):
        next(documents)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_line_ends_training_with_one_sentence(tmp_path, make, workers):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": d}) + "\n" for d in marked(9)) + "{broken\n", encoding="utf-8")
    config = CorpusConfig(source="files", files=[str(path)], pack="while_training")
    stream, given = make(Corpus("k", partial(read_documents, config, 0)), 3), arguments(workers=workers)
    stream.start(given, None)
    with pytest.raises(UserError) as error:
        list(StreamLoader(stream, Collator(2, augment=False), 2, given))
    assert str(error.value).startswith(f"{path}, line 10: not valid JSON")
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------------------- mistakes


def test_a_corpus_that_teaches_nothing_is_refused_before_training(tmp_path, toy_tokenizer, swapper, monkeypatch):
    recipe = Recipe(output_dir=str(tmp_path), corpus=CorpusConfig(pack="while_training"))
    with pytest.raises(UserError, match="none of the 2 documents"):
        training_blocks(recipe, Corpus("k", lambda: iter(["Nothing.", "Never."])), toy_tokenizer, swapper, tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    config = CorpusConfig(source="hub", dataset="nobody/nothing", streaming=True, pack="while_training")
    with pytest.raises(UserError, match=r"'nobody/nothing' .* cannot be loaded: .*HF_HUB_OFFLINE is set"):
        training_blocks(recipe, Corpus("k", partial(read_documents, config, 0)), toy_tokenizer, swapper, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trainer.num_train_epochs", "2"], "trainer.max_steps is missing"),
        (["--trainer.max_steps", "5", "--resolver", "teacher"], "resolver is teacher"),
        (["--trainer.max_steps", "5", "--corpus.shuffle_buffer", "0"], "corpus.shuffle_buffer is 0"),
        (["--trainer.max_steps", "5", "--held_out.pack", "while_training"], "held_out.pack"),
    ],
)
def test_settings_that_no_stream_can_follow_are_refused(options, words):
    sources = ["--corpus.source", "files", "--corpus.files", '["a.txt"]', "--held_out.max_documents", "9"]
    with pytest.raises(UserError, match=words):
        parse_recipe([*sources, "--corpus.pack", "while_training", *options])


def test_documents_left_alone_for_a_word_to_skip_are_warned_of(toy_tokenizer, tmp_path, capsys):
    texts = Corpus("k", lambda: iter(["She saw him. She was pregnant."] * 3 + ["She left."]))
    swapper = Swapper(load_wordlist("english_gender"))
    training_blocks(Recipe(), texts, toy_tokenizer, swapper, tmp_path)
    assert "3 of the 4 documents" in capsys.readouterr().err
