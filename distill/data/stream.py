"""Documents -> blocks packed while training runs: for corpora too large to be packed before it.

1. The corpus is read in segments of `corpus.shuffle_buffer` documents. The segments of epoch 0, of epoch 1, and so on
   make one endless line.
2. The line is dealt to readers, one in each worker of each process's data loader: of N readers, reader r takes every
   N-th segment from the r-th on. So in every epoch each document goes to exactly one reader. None waits for another,
   and none comes to an end: the number of steps ends the training.
3. A reader shuffles the documents of a segment and packs them (see packing.py). The blocks pass through a pool that is
   shuffled too, because the pieces of a long document come out in a row. Which blocks a segment gives, and in which
   order, depends on the corpus, the seed, the epoch and the segment's number alone.
4. Every batch tells how far its reader has come. A checkpoint keeps this `Place` for each reader, as of the last batch
   that was trained on. To go on, a reader reads the corpus again up to its segment, packs that again and leaves out
   the blocks that were trained on.

Every reader reads the whole corpus and packs its share: to pack a text takes a hundred times as long as to read it from
compressed lines of JSON. In the process that trains, training waits for the packing; in workers it does not, as long as
they keep up.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerBase, TrainingArguments

from distill.base.console import counter, say
from distill.base.errors import UserError
from distill.base.files import write_json
from distill.data.batches import Collator
from distill.data.blocks import BlockDataset, PairBlock
from distill.data.corpus import Corpus
from distill.data.counts import PackingCounts
from distill.data.overlap import both_sampled, digest, digests, look_for_held_out, warn_of_held_out
from distill.data.packing import cache_key, check_packed, pack, packed_blocks, tell_packed
from distill.models.architecture import require_rows
from distill.recipe import Recipe
from distill.text.counterfactual import Swapper

PACKING = "swapping, tokenising and packing"  # what is said of it
_SOME_DOCUMENTS = 256  # that tell, before training, what it costs that each has a row of its own
_POOL = 512  # blocks among which the next one is drawn
_READER = "reader"  # key of a batch: (number of the reader in its process, its Place)


@dataclass(frozen=True)
class Place:
    """How far a reader has come: it has given the first `blocks` blocks of a segment.

    earlier: What it had packed before this segment.
    counts: What it has packed by now.
    """

    epoch: int
    segment: int
    blocks: int
    earlier: PackingCounts
    counts: PackingCounts


class BlockStream(IterableDataset):
    """The blocks of a corpus without end; a data set for `StreamLoader`.

    Args:
        corpus: The documents.
        tokenizer: A fast tokenizer.
        swapper: Makes the counterfactuals; None for a single view.
        block_length: T, in tokens.
        segment_documents: Documents of a segment.
        seed: Decides the order.
        record: File of the counts of a finished training.
        one_document: See `pack`.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: PreTrainedTokenizerBase,
        swapper: Swapper | None,
        block_length: int,
        segment_documents: int,
        seed: int,
        record: Path,
        one_document: bool = False,
    ) -> None:
        self.corpus, self.tokenizer, self.swapper = corpus, tokenizer, swapper
        self.block_length, self.segment_documents, self.seed = block_length, segment_documents, seed
        self.record = record
        self.one_document = one_document
        #: Digests of held-out text, see overlap.py; documents that are among them are counted.
        self.held_out: frozenset[bytes] = frozenset()
        #: Of the models' heads; a text that holds a token beyond them ends the training, see `require_rows`.
        self.rows: int | None = None
        #: Of all processes, once a training is finished; a student may have been trained by an earlier command.
        self.counts = (
            PackingCounts(**json.loads(record.read_text(encoding="utf-8"))) if record.exists() else PackingCounts()
        )
        self.process, self.processes = 0, 1
        #: Of the readers of this process, one for each worker, as of the last batch that was taken from the loader.
        self.places: list[Place | None] = [None]
        #: Which of them gives the next batch.
        self.turn = 0

    def start(self, arguments: TrainingArguments, checkpoint: Path | None) -> None:
        """Begin at the beginning, or go on where a checkpoint was saved.

        Args:
            arguments: Tell the process, the number of processes and of the workers of each.
            checkpoint: Folder in which `save` was called, or None.

        Raises:
            UserError: the checkpoint was saved with another number of processes or workers, or on other text.
        """
        self.process, self.processes = arguments.process_index, arguments.world_size
        self.places, self.turn = [None] * max(1, arguments.dataloader_num_workers), 0
        if checkpoint is None:
            return
        saved = json.loads(_file(checkpoint, 0).read_text(encoding="utf-8"))
        mine = {"processes": self.processes, "workers": len(self.places)}
        theirs = {name: saved[name] for name in mine}
        if mine != theirs:
            raise UserError(
                f"{checkpoint} was saved by {theirs['processes']} processes with {theirs['workers']} readers each, but "
                f"there are {mine['processes']} with {mine['workers']}; start as many, or remove the folder "
                f"{checkpoint.parent} to begin again"
            )
        if saved["key"] != self._key():
            raise UserError(
                f"{checkpoint} was saved on other text: the corpus has changed since; restore it, or remove the folder "
                f"{checkpoint.parent} to begin again"
            )
        saved = json.loads(_file(checkpoint, self.process).read_text(encoding="utf-8"))
        self.turn = saved["turn"]
        self.places = [place and _read_place(place) for place in saved["places"]]

    def save(self, checkpoint: Path) -> None:
        """Write where this process's readers are, into a checkpoint that every process saves at the same step."""
        checkpoint.mkdir(exist_ok=True)
        state = {
            "key": self._key(),
            "processes": self.processes,
            "workers": len(self.places),
            "turn": self.turn,
            "places": [place and asdict(place) for place in self.places],
        }
        write_json(_file(checkpoint, self.process), state)

    def advance(self, reader: int, place: Place) -> None:
        """Take note that a batch of this reader was taken, which ends at that place."""
        self.places[reader] = place
        self.turn = (reader + 1) % len(self.places)

    def finish(self) -> None:
        """Count what the readers of all processes packed for what was trained on; every process must call this.

        A document counts each time it is packed, once in an epoch. So do the blocks that were in the readers' pools
        when training ended.
        """
        ours = [place.counts for place in self.places if place]
        total = sum(gather_object(ours), PackingCounts())
        vars(self.counts).update(vars(total))
        tell_packed(total, self.swapper)
        if self.one_document and total.blocks:
            say(f"one document a row: {total.cost_of_rows(self.block_length)}")
        warn_of_held_out(total.held_out_documents, total.documents)
        if self.process == 0:
            self.record.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.record, vars(total))

    @property
    def identities(self) -> tuple[str, ...]:
        """What tells these blocks from others: what they are made of."""
        return (self._key(),)

    def _key(self) -> str:
        return cache_key(self.corpus.key, self.tokenizer, self.swapper, self.block_length, self.one_document)

    def __iter__(self) -> Iterator[tuple[PairBlock, int, Place]]:
        """(block, the reader's number in this process, its place after the block), for the worker that this runs in."""
        worker = get_worker_info()
        # Loaders ask their worker 0 first.
        reader = ((worker.id if worker else 0) + self.turn) % len(self.places)
        number, of = self.process * len(self.places) + reader, self.processes * len(self.places)
        for block, place in self.read(number, of, self.places[reader]):
            yield block, reader, place

    def read(self, number: int, of: int, place: Place | None = None) -> Iterator[tuple[PairBlock, Place]]:
        """The blocks of one reader, without end, each with the place after it.

        Args:
            number: Which reader, counted from 0.
            of: How many readers there are.
            place: The place after which to go on; None from the beginning.
        """
        if place is None:
            segments, skip = islice(self._segments(0, 0), number, None, of), 0
        else:
            segments, skip = islice(self._segments(place.epoch, place.segment), 0, None, of), place.blocks
        counts = replace(place.earlier) if place else PackingCounts()
        for epoch, segment, documents in segments:
            earlier = replace(counts)  # a copy: packing goes on adding to the counts
            blocks = enumerate(self._pack_segment(epoch, segment, documents, counts), start=1)
            for given, block in islice(blocks, skip, None):
                yield block, Place(epoch, segment, given, earlier, replace(counts))
            skip = 0

    def _segments(self, epoch: int, segment: int) -> Iterator[tuple[int, int, list[str]]]:
        """The endless line from a segment on: epoch, number of the segment, documents."""
        while True:
            documents = islice(self.corpus.documents(), segment * self.segment_documents, None)
            while some := list(islice(documents, self.segment_documents)):
                yield epoch, segment, some
                segment += 1
            epoch, segment = epoch + 1, 0

    def _pack_segment(
        self, epoch: int, segment: int, documents: Sequence[str], counts: PackingCounts
    ) -> Iterator[PairBlock]:
        rng = random.Random(f"{self.seed} {epoch} {segment}")
        shuffled = rng.sample(documents, len(documents))
        if self.held_out:
            counts.held_out_documents += sum(digest(document) in self.held_out for document in documents)
        pool: list[PairBlock] = []
        for block in pack(shuffled, self.tokenizer, self.swapper, self.block_length, counts, self.one_document):
            if self.rows is not None:
                require_rows(int(block.input_ids.max()), self.tokenizer, self.rows, "the text")
            if len(pool) < _POOL:
                pool.append(block)
                continue
            drawn = rng.randrange(_POOL)
            pool[drawn], block = block, pool[drawn]
            yield block
        rng.shuffle(pool)
        yield from pool


def _file(checkpoint: Path, process: int) -> Path:
    return checkpoint / f"stream-{process}.json"


def _read_place(values: dict[str, Any]) -> Place:
    counts = {name: PackingCounts(**values[name]) for name in ("earlier", "counts")}
    return Place(**{**values, **counts})


class StreamLoader(DataLoader):
    """The data loader of a process: batches of a `BlockStream`, whose places follow what is taken from here.

    It must not be prepared by accelerate, which would give each process every batch, or a share of the batches of one,
    and would take a batch before it is trained on.

    Args:
        stream: The blocks; its `start` was called.
        collate: Makes a batch of blocks.
        batch_size: Blocks of a batch.
        arguments: Settings of the workers.
    """

    def __init__(self, stream: BlockStream, collate: Collator, batch_size: int, arguments: TrainingArguments) -> None:
        self._stream = stream
        super().__init__(
            stream,
            batch_size=batch_size,
            collate_fn=partial(_collate, collate),
            num_workers=arguments.dataloader_num_workers,
            pin_memory=arguments.dataloader_pin_memory,
            prefetch_factor=arguments.dataloader_prefetch_factor,
            # A key that transformers 5.10 does not have yet.
            multiprocessing_context=getattr(arguments, "dataloader_multiprocessing_context", None),
            # A loader draws a seed for its workers; drawn from torch's own generator, it would change what dropout does
            # after a resume.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]  # torch names its own iterator
        try:
            for batch in super().__iter__():
                self._stream.advance(*batch.pop(_READER))
                yield batch
        except UserError as error:
            # A worker's exception comes with its traceback as its message.
            raise UserError(str(error).rpartition(f"{UserError.__name__}: ")[2].rstrip()) from None


def _collate(collate: Collator, items: Sequence[tuple[PairBlock, int, Place]]) -> dict[str, Any]:
    _, reader, place = items[-1]
    return collate([block for block, _, _ in items]) | {_READER: (reader, place)}


def training_blocks(
    recipe: Recipe,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    swapper: Swapper | None,
    cache_dir: Path,
    held_out: Sequence[str] = (),
    one_document: bool = False,
) -> tuple[BlockDataset | BlockStream, PackingCounts]:
    """The blocks to train on, packed now or, with `corpus.pack: while_training`, while training runs.

    With them come the counts of the packing; a stream fills them in when a training is finished.

    Args:
        recipe: When to pack, and how long a block is.
        corpus: The documents.
        tokenizer: A fast tokenizer.
        swapper: Makes the counterfactuals; None for a single view.
        cache_dir: Folder of the blocks that are packed now.
        held_out: Held-out text; a warning says how much of it is training text too, unless one teacher wrote both.
        one_document: See `pack`; what it costs is said.

    Raises:
        UserError: the corpus cannot be read, or there is nothing in it to learn from (see `check_packed`).
    """
    if recipe.corpus.pack == "before_training":
        progress = counter(PACKING, "documents")
        blocks, counts = packed_blocks(
            corpus, tokenizer, swapper, recipe.block_length, cache_dir, progress, one_document
        )
        tell_packed(counts, swapper)
        look_for_held_out(recipe, corpus, held_out, cache_dir, counts)
        if one_document:
            say(f"one document a row: {counts.cost_of_rows(recipe.block_length)}")
        return blocks, counts
    counts = PackingCounts()
    looked_at = _SOME_DOCUMENTS if one_document else 1
    for _ in pack(corpus.documents(), tokenizer, swapper, recipe.block_length, counts, one_document):
        if counts.documents >= looked_at and (counts.edited_documents or not swapper):
            break
    check_packed(counts, swapper)
    if one_document:
        say(f"one document a row: of the first {counts.documents}, {counts.cost_of_rows(recipe.block_length)}")
    say(f"text is packed while training, in segments of {recipe.corpus.shuffle_buffer} documents")
    record = Path(recipe.output_dir, "checkpoints", "packed.json")
    stream = BlockStream(
        corpus, tokenizer, swapper, recipe.block_length, recipe.corpus.shuffle_buffer, recipe.seed, record, one_document
    )
    if not both_sampled(recipe):
        stream.held_out = digests(held_out)
    return stream, stream.counts
