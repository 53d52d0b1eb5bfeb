"""Documents -> fixed-size blocks of aligned views, cached by content.

1. Each document x is joined by its counterfactuals c_1 .. c_{K-1}: K views (one, if no counterfactual is wanted).
2. Every view is tokenised by itself and gets the start token in front; its labels are the same tokens moved by one,
   with the end token last. Each token carries the boundary of x at which it ends: tokens of two views
   predict the same thing exactly where these boundaries are equal.
3. A document longer than a block is cut where a boundary is shared by all views, so that every piece fits in every
   view. Each piece begins with the start token and sees nothing before the cut.
4. Pieces are packed whole into blocks of T tokens. Positions restart with each piece, so that no token attends to
   another document. Edited and unedited documents never share a block: an unedited block keeps only one view.
5. Blocks are written to an Arrow file, named by the hash of all that decides their content, and read memory-mapped.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler
from torch.utils.data import Dataset as TorchDataset
from transformers import PreTrainedTokenizerBase

from distill.alignment import mask_inside, to_original, token_ends
from distill.console import say
from distill.corpus import Corpus
from distill.counterfactual import Counterfactual, Swapper
from distill.errors import UserError
from distill.integrity import file_is_whole, partial_of, put_file
from distill.models import special_tokens

IGNORED = -100  # transformers' label for "not counted"
NO_PARTNER = -1
_FORMAT_VERSION = 1  # part of the cache key: raise it when the content of blocks changes
_OPEN_BLOCKS = 64  # blocks that still have room, kept open to be filled


@dataclass(frozen=True)
class AlignedPair:
    """A piece of a document in all its views.

    tokens: per view, (L_v,) int32 token ids, the start token first.
    labels: per view, (L_v,) int32, what each token is followed by.
    boundaries: per view, (L_v,) int32, the character of x at which each token ends; -1 where it has no partner.
    """

    tokens: tuple[np.ndarray, ...]
    labels: tuple[np.ndarray, ...]
    boundaries: tuple[np.ndarray, ...]

    @property
    def edited(self) -> bool:
        """Whether the views differ (an unedited piece has a single one)."""
        return len(self.tokens) > 1


@dataclass(frozen=True)
class PairBlock:
    """A block as it lies on disk: V views of T tokens (V is 1 where nothing was edited).

    input_ids, labels, boundaries, position_ids: each (V, T) int32; padding has label -100 and boundary -1.
    index: its place in the data set that it was read from, -1 while it is in none.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    boundaries: np.ndarray
    position_ids: np.ndarray
    index: int = -1


@dataclass
class PackingCounts:
    """What packing saw, for the report."""

    documents: int = 0
    edited_documents: int = 0
    pieces: int = 0
    dropped_pieces: int = 0
    tokens: int = 0
    aligned_positions: int = 0
    positions_with_views: int = 0
    edits: int = 0
    skipped_sentences: int = 0
    blocks: int = 0
    edited_blocks: int = 0

    def __add__(self, other: "PackingCounts") -> "PackingCounts":
        return PackingCounts(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def aligned_share(self) -> float | None:
        """Share of the positions of edited documents that have a partner in every other view."""
        return self.aligned_positions / self.positions_with_views if self.positions_with_views else None

    def summary(self) -> str:
        """One line for the log."""
        line = f"{self.documents} documents, {self.tokens} tokens in {self.blocks} blocks"
        if self.aligned_share is not None:
            line += f"; {self.edited_documents} documents edited, {self.aligned_share:.1%} of their positions aligned"
        if self.skipped_sentences:
            line += f"; {self.skipped_sentences} sentences left alone"
        return line + (f"; {self.dropped_pieces} pieces dropped" if self.dropped_pieces else "")


def encode_views(
    text: str, tokenizer: PreTrainedTokenizerBase, counterfactuals: Sequence[Counterfactual]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Tokens and boundaries of a document and of its counterfactuals; of the document alone, if they hold no edit.

    Returns:
        Per view (L_v,) token ids without start token, and per view (L_v,) boundaries in x.
    """
    if not any(c.spans for c in counterfactuals):
        counterfactuals = ()
    encoded = [_encode(tokenizer, view) for view in (text, *(c.text for c in counterfactuals))]
    boundaries = [encoded[0][1]]
    for counterfactual, (_, ends) in zip(counterfactuals, encoded[1:], strict=True):
        boundaries[0] = mask_inside(boundaries[0], counterfactual.spans)
        boundaries.append(to_original(ends, counterfactual.spans))
    return [ids for ids, _ in encoded], boundaries


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[np.ndarray, np.ndarray]:
    encoding = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    ids = np.asarray(encoding["input_ids"], dtype=np.int32)
    return ids, np.asarray(token_ends(encoding["offset_mapping"]), dtype=np.int32)


def split_document(
    ids: Sequence[np.ndarray], boundaries: Sequence[np.ndarray], start: int, end: int, block_length: int
) -> Iterator[AlignedPair | None]:
    """Cut a document's views into pieces that fit a block; None for a stretch that cannot be cut (step 3 above)."""
    # Places where all views may be cut together: (n, V) numbers of tokens before the cut.
    shared = set(boundaries[0][boundaries[0] >= 0].tolist())
    for other in boundaries[1:]:
        shared &= set(other[other >= 0].tolist())
    order = sorted(shared)
    index = [dict(zip(b.tolist(), range(1, len(b) + 1), strict=True)) for b in boundaries]
    cuts = [tuple(view[b] for view in index) for b in order]
    whole = tuple(len(view) for view in ids)
    if not cuts or cuts[-1] != whole:
        cuts.append(whole)
    done, next_cut, room = (0,) * len(ids), 0, block_length - 1
    while done != whole:
        best = None
        while next_cut < len(cuts) and all(c - d <= room for c, d in zip(cuts[next_cut], done, strict=True)):
            best, next_cut = cuts[next_cut], next_cut + 1
        if best is None:  # one edited word longer than a block
            yield None
            done, next_cut = cuts[next_cut], next_cut + 1
            continue
        yield _piece(ids, boundaries, done, best, start, end)
        done = best


def _piece(
    ids: Sequence[np.ndarray],
    boundaries: Sequence[np.ndarray],
    begin: tuple[int, ...],
    stop: tuple[int, ...],
    start: int,
    end: int,
) -> AlignedPair:
    tokens, labels, ends = [], [], []
    # The start token stands for the boundary just before the piece, the same in all views.
    first = int(boundaries[0][begin[0] - 1]) if begin[0] else 0
    for view, bounds, i, j in zip(ids, boundaries, begin, stop, strict=True):
        tokens.append(np.concatenate(([start], view[i:j])).astype(np.int32))
        following = view[j] if j < len(view) else end
        labels.append(np.concatenate((view[i:j], [following])).astype(np.int32))
        ends.append(np.concatenate(([first], bounds[i:j])).astype(np.int32))
    return AlignedPair(tuple(tokens), tuple(labels), tuple(ends))


class _OpenBlock:
    """A block that is being filled."""

    def __init__(self, views: int, block_length: int) -> None:
        self.pieces: list[AlignedPair] = []
        self.used = [0] * views
        self.block_length = block_length

    def fits(self, piece: AlignedPair) -> bool:
        return all(u + len(t) <= self.block_length for u, t in zip(self.used, piece.tokens, strict=True))

    def add(self, piece: AlignedPair) -> None:
        self.pieces.append(piece)
        self.used = [u + len(t) for u, t in zip(self.used, piece.tokens, strict=True)]

    def close(self, padding: int) -> PairBlock:
        shape = (len(self.used), self.block_length)
        input_ids = np.full(shape, padding, dtype=np.int32)
        labels = np.full(shape, IGNORED, dtype=np.int32)
        boundaries = np.full(shape, NO_PARTNER, dtype=np.int32)
        position_ids = np.zeros(shape, dtype=np.int32)
        for view in range(shape[0]):
            at = offset = 0
            for piece in self.pieces:
                to = at + len(piece.tokens[view])
                input_ids[view, at:to] = piece.tokens[view]
                labels[view, at:to] = piece.labels[view]
                bounds = piece.boundaries[view]
                boundaries[view, at:to] = np.where(bounds >= 0, bounds + offset, NO_PARTNER)
                position_ids[view, at:to] = np.arange(to - at)
                # The largest boundary of the piece in any view, so that views stay in step.
                offset += max(int(b.max()) for b in piece.boundaries) + 1
                at = to
            position_ids[view, at:] = np.arange(self.block_length - at)
        return PairBlock(input_ids, labels, boundaries, position_ids)


def pack(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    swapper: Swapper | None,
    block_length: int,
    counts: PackingCounts,
) -> Iterator[PairBlock]:
    """Blocks of aligned views, first fit among a bounded number of open blocks.

    Args:
        documents: Whole documents.
        tokenizer: A fast tokenizer.
        swapper: Makes the counterfactuals; None for a single view.
        block_length: T, in tokens.
        counts: Filled in while the blocks are drawn.
    """
    start, end = special_tokens(tokenizer)
    # Unedited and edited pieces go to blocks of their own.
    open_blocks: dict[int, list[_OpenBlock]] = {}
    for document in documents:
        counterfactuals = swapper.counterfactuals(document) if swapper else ()
        ids, boundaries = encode_views(document, tokenizer, counterfactuals)
        counts.documents += 1
        if counterfactuals:
            counts.edited_documents += bool(counterfactuals[0].spans)
            counts.edits += len(counterfactuals[0].spans)
            counts.skipped_sentences += counterfactuals[0].skipped
        for piece in split_document(ids, boundaries, start, end, block_length):
            if piece is None:
                counts.dropped_pieces += 1
                continue
            counts.pieces += 1
            counts.tokens += len(piece.tokens[0])
            if piece.edited:
                counts.positions_with_views += len(piece.tokens[0])
                shared = set(piece.boundaries[0].tolist()).intersection(*(b.tolist() for b in piece.boundaries[1:]))
                counts.aligned_positions += len(shared - {NO_PARTNER})
            views = len(piece.tokens)
            blocks = open_blocks.setdefault(views, [])
            place = next((b for b in blocks if b.fits(piece)), None)
            if place is None:
                if len(blocks) == _OPEN_BLOCKS:
                    fullest = max(range(len(blocks)), key=lambda i: max(blocks[i].used))
                    yield _close(blocks.pop(fullest), end, counts)
                place = _OpenBlock(views, block_length)
                blocks.append(place)
            place.add(piece)
    for blocks in open_blocks.values():
        for block in blocks:
            yield _close(block, end, counts)


def _close(block: _OpenBlock, padding: int, counts: PackingCounts) -> PairBlock:
    counts.blocks += 1
    counts.edited_blocks += len(block.used) > 1
    return block.close(padding)


def cache_key(corpus_key: str, tokenizer: PreTrainedTokenizerBase, swapper: Swapper | None, block_length: int) -> str:
    """Hash of everything that decides the content of the blocks: text, tokenizer, word list and rules, length."""
    backend = tokenizer.backend_tokenizer.to_str()
    parts = {
        "format": _FORMAT_VERSION,
        "corpus": corpus_key,
        "tokenizer": hashlib.sha256(backend.encode("utf-8", "surrogatepass")).hexdigest(),
        "special": special_tokens(tokenizer),
        "swapper": swapper.cache_key if swapper else None,
        "block_length": block_length,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def check_packed(counts: PackingCounts, swapper: Swapper | None) -> None:
    """Refuse a corpus from which nothing can be learned.

    Raises:
        UserError: no document gave a block, or none holds a listed word although counterfactuals are wanted.
    """
    if not counts.blocks:
        raise UserError("the corpus gave no block of text; it is empty after tokenisation")
    if swapper and not counts.edited_documents:
        raise UserError(
            f"none of the {counts.documents} documents of the corpus holds a word of the word list "
            f"'{swapper.wordlist.name}', so there is nothing to swap; check wordlist and corpus, or set target.op "
            "to none and target.augment to false"
        )


_COLUMNS = ("input_ids", "labels", "boundaries", "position_ids")


def packed_blocks(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    swapper: Swapper | None,
    block_length: int,
    cache_dir: Path,
    progress: Callable[[int], None] | None = None,
) -> tuple["BlockDataset", PackingCounts]:
    """The blocks of a corpus, from the cache where they lie there already.

    Args:
        corpus: The documents, read only when their blocks are not cached, and the key that changes with them.
        tokenizer: A fast tokenizer.
        swapper: Makes the counterfactuals; None for a single view.
        block_length: T, in tokens.
        cache_dir: Folder of the cache.
        progress: Called with the number of documents done.

    Raises:
        UserError: see `check_packed`.
    """
    from datasets import Features, Sequence, Value
    from datasets.arrow_writer import ArrowWriter

    key = cache_key(corpus.key, tokenizer, swapper, block_length)
    path, counts_path = cache_dir / f"blocks-{key}.arrow", cache_dir / f"blocks-{key}.json"
    # The counts are written last.
    if not (file_is_whole(counts_path) and file_is_whole(path)):
        if counts_path.exists():
            say(f"{path} or its counts are damaged; packing again")
        cache_dir.mkdir(parents=True, exist_ok=True)
        counts = PackingCounts()

        def counted() -> Iterator[str]:
            for number, document in enumerate(corpus.documents(), start=1):
                yield document
                if progress and number % 100 == 0:
                    progress(number)

        partial = partial_of(path)
        features = Features({name: Sequence(Value("int32")) for name in _COLUMNS})
        with ArrowWriter(path=str(partial), features=features) as writer:
            for block in pack(counted(), tokenizer, swapper, block_length, counts):
                writer.write({name: getattr(block, name).ravel() for name in _COLUMNS})
            writer.finalize()
        try:
            check_packed(counts, swapper)
        except UserError:
            partial.unlink()
            raise
        put_file(partial, path)
        partial = partial_of(counts_path)
        partial.write_text(json.dumps(vars(counts), indent=2) + "\n", encoding="utf-8")
        put_file(partial, counts_path)
    return BlockDataset(path, block_length), PackingCounts(**json.loads(counts_path.read_text(encoding="utf-8")))


class BlockDataset(TorchDataset):
    """Packed blocks of an Arrow file, memory-mapped; item i is a `PairBlock`.

    key: the file's name, which changes with the content.
    """

    def __init__(self, path: Path, block_length: int) -> None:
        from datasets import Dataset

        self._rows = Dataset.from_file(str(path)).with_format("numpy")
        self._block_length = block_length
        self.key = path.stem

    def views(self) -> np.ndarray:
        """(N,) the number of views of each block."""
        import pyarrow.compute as pc

        lengths = pc.list_value_length(self._rows.data.column("input_ids"))
        return lengths.to_numpy() // self._block_length

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> PairBlock:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[PairBlock]:
        """A batch's blocks: torch's loader asks for them together, one by one they take several times as long."""
        rows = self._rows[[int(index) for index in indices]]
        blocks = []
        for place, index in enumerate(indices):
            views = {name: np.asarray(rows[name][place]).reshape(-1, self._block_length) for name in _COLUMNS}
            if isinstance(index, Filler):
                views["labels"] = np.full_like(views["labels"], IGNORED)
            blocks.append(PairBlock(**views, index=int(index)))
        return blocks


class Filler(int):
    """The index of a block of which nothing counts: it only makes a batch full."""


class FilledBatches(BatchSampler):
    """Batches of indices, filled up at the end of an epoch until each of several processes has a full one.

    Args:
        batches: The batches of all processes, the last of which may be short.
        processes: How many processes take turns in taking one.
    """

    def __init__(self, batches: BatchSampler, processes: int) -> None:
        super().__init__(batches.sampler, batches.batch_size, batches.drop_last)
        self.processes = processes

    def __iter__(self) -> Iterator[list[int]]:
        number = 0
        for batch in super().__iter__():
            number += 1
            fillers: list[int] = [Filler(batch[0])] * self.batch_size
            yield batch + fillers[len(batch) :]
        for _ in range(-number % self.processes):
            yield fillers

    def __len__(self) -> int:
        return -(-super().__len__() // self.processes) * self.processes


def partner_positions(boundaries: np.ndarray) -> np.ndarray:
    """Where each position of each view finds its aligned position in the others.

    Args:
        boundaries: (V, T) boundaries of x, -1 for none.

    Returns:
        (V, V - 1, T): entry [v, s - 1, i] is the position in view (v + s) mod V, or -1.
    """
    views, length = boundaries.shape
    partners = np.full((views, views - 1, length), NO_PARTNER, dtype=np.int64)
    places = np.full((views, int(boundaries.max(initial=0)) + 1), NO_PARTNER, dtype=np.int64)
    for view in range(views):
        aligned = np.flatnonzero(boundaries[view] >= 0)
        places[view, boundaries[view, aligned]] = aligned
    for view in range(views):
        aligned = np.flatnonzero(boundaries[view] >= 0)
        for shift in range(1, views):
            partners[view, shift - 1, aligned] = places[(view + shift) % views, boundaries[view, aligned]]
    return partners


class Collator:
    """Blocks -> one batch in which each row is one view.

    The first B rows are the texts, then come the counterfactuals of the edited blocks. A dictionary is returned:

    - input_ids, position_ids, labels: (R, T), R rows.
    - partner: (K - 1, R, T) index into the R * T positions of the batch where the view of shift s sits, -1 for none.
      A text without edits is its own counterfactual.
    - student_rows: number of rows that the student trains on, counted from the first: R with augmentation, else B.
    - source: (R, 2) the index of each row's block in its data set, and the view.
    - edited: (R,) whether the row's block has counterfactuals.

    Args:
        num_groups: K; 1 keeps only the texts.
        augment: Train on the counterfactual rows too.
    """

    def __init__(self, num_groups: int, augment: bool) -> None:
        self.num_groups = num_groups
        self.augment = augment

    def __call__(self, blocks: Sequence[PairBlock]) -> dict[str, Tensor]:
        rows: list[tuple[int, int]] = [(b, 0) for b in range(len(blocks))]
        if self.num_groups > 1:
            rows += [(b, v) for b, block in enumerate(blocks) for v in range(1, len(block.input_ids))]
        row_of = {place: row for row, place in enumerate(rows)}
        length = blocks[0].input_ids.shape[1]
        partner = np.full((self.num_groups - 1, len(rows), length), NO_PARTNER, dtype=np.int64)
        if self.num_groups > 1:
            for b, block in enumerate(blocks):
                views = len(block.input_ids)
                if views == 1:
                    partner[:, b] = row_of[b, 0] * length + np.arange(length)
                    continue
                places = partner_positions(block.boundaries)
                for view in range(views):
                    for shift in range(1, views):
                        found = places[view, shift - 1]
                        there = row_of[b, (view + shift) % views] * length + found
                        partner[shift - 1, row_of[b, view]] = np.where(found >= 0, there, NO_PARTNER)

        def stack(name: str) -> Tensor:
            return torch.from_numpy(np.stack([getattr(blocks[b], name)[v] for b, v in rows]).astype(np.int64))

        return {
            "input_ids": stack("input_ids"),
            "position_ids": stack("position_ids"),
            "labels": stack("labels"),
            "partner": torch.from_numpy(partner),
            "student_rows": torch.tensor(len(rows) if self.augment else len(blocks)),
            "source": torch.tensor([(blocks[b].index, view) for b, view in rows]),
            "edited": torch.tensor([self.num_groups > 1 and len(blocks[b].input_ids) > 1 for b, _ in rows]),
        }
