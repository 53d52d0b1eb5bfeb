"""Documents -> fixed-size blocks of aligned views, cached by content.

1. Each document x is joined by its counterfactuals c_1 .. c_{K-1}: K views (one, if no counterfactual is wanted).
2. Every view is tokenised by itself and gets the start token in front; its labels are the same tokens moved by one,
   with the end token last. Each token carries the boundary of x at which it ends: tokens of two views
   predict the same thing exactly where these boundaries are equal.
   A conversation begins with its chat template's first token instead, if that is a special one; where only the
   assistant's turns bear loss, all other labels are IGNORED, and a piece without such a turn is left out.
3. A document longer than a block is cut where a boundary is shared by all views, so that every piece fits in every
   view. Each piece begins with the start token and sees nothing before the cut.
4. Pieces are packed whole into blocks of T tokens. Positions restart with each piece, so that no token attends to
   another document; for models that do not heed this (see models/probe.py) each piece gets a block of its own. Edited
   and unedited documents never share a block: an unedited block keeps only one view.
5. Blocks are written to an Arrow file, named by the hash of all that decides their content, and read memory-mapped.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from distill.base.console import count_tokens, say, warn
from distill.base.errors import UserError
from distill.base.integrity import file_is_whole, in_work, partial_of, put_file
from distill.data.blocks import COLUMNS, BlockDataset, PairBlock
from distill.data.corpus import Corpus
from distill.data.counts import PackingCounts
from distill.models.architecture import begins_itself, special_tokens
from distill.objective.chunks import IGNORED
from distill.text.alignment import NO_BOUNDARY, encode_marked
from distill.text.conversations import Conversation
from distill.text.counterfactual import DOCUMENT, Counterfactual, Swapper

_FORMAT_VERSION = 2  # part of the cache key: raise it when the content of blocks changes
_OPEN_BLOCKS = 64  # blocks that still have room, kept open to be filled


@dataclass(frozen=True)
class AlignedPair:
    """A piece of a document in all its views.

    tokens: per view, (L_v,) int32 token ids, the start token first.
    labels: per view, (L_v,) int32, what each token is followed by; IGNORED where that bears no loss.
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
class _Encoded:
    """A document in all its views, as tokens.

    start: the token that comes before them, and before each piece.
    ids: per view, (L_v,) token ids without the start token.
    boundaries: per view, (L_v,) as in `AlignedPair`.
    labels: per view, (L_v + 1,) what the start token and each of the others is followed by, or IGNORED.
    """

    start: int
    ids: Sequence[np.ndarray]
    boundaries: Sequence[np.ndarray]
    labels: Sequence[np.ndarray]


def _encoded(
    document: str,
    tokenizer: PreTrainedTokenizerBase,
    counterfactuals: Sequence[Counterfactual],
    special: tuple[int, int],
) -> _Encoded:
    start, end = special
    answers = document.answers if isinstance(document, Conversation) else None
    ids, boundaries, answered = encode_marked(document, tokenizer, counterfactuals, answers or ())
    # How a conversation ends is said by its template.
    labels = [np.append(view, IGNORED if isinstance(document, Conversation) else end).astype(np.int32) for view in ids]
    if answers is not None:
        for followed_by, kept in zip(labels, answered, strict=True):
            followed_by[:-1][~kept] = IGNORED
    if isinstance(document, Conversation) and begins_itself(document, tokenizer):
        # The template's own first token, the same in all views, is the start token.
        start = int(ids[0][0])
        ids, boundaries, labels = ([view[1:] for view in views] for views in (ids, boundaries, labels))
    return _Encoded(start, ids, boundaries, labels)


def split_document(document: _Encoded, block_length: int) -> Iterator[AlignedPair | None]:
    """Cut a document's views into pieces that fit a block; None for a stretch that cannot be cut (step 3 above)."""
    ids, boundaries = document.ids, document.boundaries
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
        yield _piece(document, done, best)
        done = best


def _piece(document: _Encoded, begin: tuple[int, ...], stop: tuple[int, ...]) -> AlignedPair:
    tokens, labels, ends = [], [], []
    # The start token stands for the boundary just before the piece, the same in all views.
    first = int(document.boundaries[0][begin[0] - 1]) if begin[0] else 0
    for view, bounds, followed_by, i, j in zip(
        document.ids, document.boundaries, document.labels, begin, stop, strict=True
    ):
        tokens.append(np.concatenate(([document.start], view[i:j])).astype(np.int32))
        labels.append(followed_by[i : j + 1])
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

    def close(self, padding: int, restart: bool) -> PairBlock:
        """The block; `restart`: the padding counts its positions anew, as if it were one more document."""
        shape = (len(self.used), self.block_length)
        input_ids = np.full(shape, padding, dtype=np.int32)
        labels = np.full(shape, IGNORED, dtype=np.int32)
        boundaries = np.full(shape, NO_BOUNDARY, dtype=np.int32)
        position_ids = np.zeros(shape, dtype=np.int32)
        for view in range(shape[0]):
            at = offset = 0
            for piece in self.pieces:
                to = at + len(piece.tokens[view])
                input_ids[view, at:to] = piece.tokens[view]
                labels[view, at:to] = piece.labels[view]
                bounds = piece.boundaries[view]
                boundaries[view, at:to] = np.where(bounds >= 0, bounds + offset, NO_BOUNDARY)
                position_ids[view, at:to] = np.arange(to - at)
                # The largest boundary of the piece in any view, so that views stay in step.
                offset += max(int(b.max()) for b in piece.boundaries) + 1
                at = to
            position_ids[view, at:] = np.arange(self.block_length - at) + (0 if restart else at)
        return PairBlock(input_ids, labels, boundaries, position_ids)


def pack(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    swapper: Swapper | None,
    block_length: int,
    counts: PackingCounts,
    one_document: bool = False,
) -> Iterator[PairBlock]:
    """Blocks of aligned views, first fit among a bounded number of open blocks.

    Args:
        documents: Whole documents; of a `Conversation` with `answers`, only these bear loss.
        tokenizer: A fast tokenizer.
        swapper: Makes the counterfactuals; None for a single view.
        block_length: T, in tokens.
        counts: Filled in while the blocks are drawn.
        one_document: A block holds one piece of one document.
    """
    special = special_tokens(tokenizer)
    # Unedited and edited pieces go to blocks of their own.
    open_blocks: dict[int, list[_OpenBlock]] = {}
    for document in documents:
        counterfactuals = swapper.counterfactuals(document) if swapper else ()
        encoded = _encoded(document, tokenizer, counterfactuals, special)
        _count(counts, counterfactuals)
        if isinstance(document, Conversation):
            counts.cut_conversations += any(len(view) >= block_length for view in encoded.ids)
        for piece in split_document(encoded, block_length):
            if piece is None:
                counts.dropped_pieces += 1
                continue
            if all((labels == IGNORED).all() for labels in piece.labels):  # nothing of it is the assistant's
                continue
            counts.pieces += 1
            counts.tokens += len(piece.tokens[0])
            if piece.edited:
                counts.positions_with_views += len(piece.tokens[0])
                shared = set(piece.boundaries[0].tolist()).intersection(*(b.tolist() for b in piece.boundaries[1:]))
                counts.aligned_positions += len(shared - {NO_BOUNDARY})
            views = len(piece.tokens)
            if one_document:
                block = _OpenBlock(views, block_length)
                block.add(piece)
                yield _close(block, special[1], counts, restart=False)
                continue
            blocks = open_blocks.setdefault(views, [])
            place = next((b for b in blocks if b.fits(piece)), None)
            if place is None:
                if len(blocks) == _OPEN_BLOCKS:
                    fullest = max(range(len(blocks)), key=lambda i: max(blocks[i].used))
                    yield _close(blocks.pop(fullest), special[1], counts)
                place = _OpenBlock(views, block_length)
                blocks.append(place)
            place.add(piece)
    for blocks in open_blocks.values():
        for block in blocks:
            yield _close(block, special[1], counts)


def _count(counts: PackingCounts, counterfactuals: Sequence[Counterfactual]) -> None:
    counts.documents += 1
    if counterfactuals:
        counts.edited_documents += bool(counterfactuals[0].spans)
        counts.edits += len(counterfactuals[0].spans)
        counts.skipped_sentences += counterfactuals[0].skipped
        counts.skipped_documents += bool(counterfactuals[0].skipped and not counterfactuals[0].spans)
        counts.words_in_no_prose += counterfactuals[0].no_prose


def _close(block: _OpenBlock, padding: int, counts: PackingCounts, restart: bool = True) -> PairBlock:
    counts.blocks += 1
    counts.edited_blocks += len(block.used) > 1
    return block.close(padding, restart)


def cache_key(
    corpus_key: str,
    tokenizer: PreTrainedTokenizerBase,
    swapper: Swapper | None,
    block_length: int,
    one_document: bool = False,
) -> str:
    """Hash of everything that decides the content of the blocks: text, tokenizer, word list and rules, length."""
    backend = tokenizer.backend_tokenizer.to_str()
    parts = {
        "format": _FORMAT_VERSION,
        "corpus": corpus_key,
        "tokenizer": hashlib.sha256(backend.encode("utf-8", "surrogatepass")).hexdigest(),
        "special": special_tokens(tokenizer),
        "swapper": swapper.cache_key if swapper else None,
        "block_length": block_length,
    } | ({"one_document": True} if one_document else {})
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class NothingPackedError(UserError):
    """No document gave a block."""


def check_packed(counts: PackingCounts, swapper: Swapper | None) -> None:
    """Refuse a corpus from which nothing can be learned.

    Raises:
        UserError: no document gave a block, or none is edited although counterfactuals are wanted; the message says
            why.
    """
    if not counts.blocks:
        raise NothingPackedError(
            "the corpus gave no block of text; it is empty after tokenisation, or corpus.mask is assistant and no "
            "message with the role 'assistant' says anything in it"
        )
    if not swapper or counts.edited_documents:
        return
    of_list = f"a word of the word list '{swapper.wordlist.name}'"
    if counts.skipped_documents:
        raise UserError(
            f"each document of the corpus that holds {of_list} ({counts.skipped_documents:,} of {counts.documents:,}) "
            f"is left alone for a word to skip ({swapper.wordlist.skip[0]!r} is one), so there is nothing to swap; "
            f"{_without_skipping(swapper)}"
        )
    if counts.words_in_no_prose:
        raise UserError(
            f"where the corpus holds {of_list}, it is part of a link, a tag or code ({counts.words_in_no_prose} times) "
            "or means something else there, so there is nothing to swap; check corpus"
        )
    raise UserError(
        f"none of the {counts.documents} documents of the corpus holds {of_list}, so there is nothing to swap; check "
        "wordlist and corpus, or set target.op to none and target.augment to false"
    )


def tell_packed(counts: PackingCounts, swapper: Swapper | None) -> None:
    """What packing saw, and a warning if more than half of the documents with listed words were left alone."""
    say(counts.summary())
    if swapper and counts.skipped_documents > counts.edited_documents:
        listed = counts.skipped_documents + counts.edited_documents
        warn(
            f"{counts.skipped_documents:,} of the {listed:,} documents that hold a word of the word list "
            f"'{swapper.wordlist.name}' are left alone for a word to skip ({swapper.wordlist.skip[0]!r} is one); "
            f"{_without_skipping(swapper)}"
        )


def _without_skipping(swapper: Swapper) -> str:
    if swapper.skip == DOCUMENT:
        return (
            "cut documents into shorter ones by corpus.passage_chars, or leave only sentences alone by skip: sentence"
        )
    return "set skip: nothing to swap such sentences, too"


def _counted(documents: Iterable[str], counts: PackingCounts, progress: Callable[..., None] | None) -> Iterator[str]:
    """Documents one by one; each is told when the next is asked for, and `counts` knows its tokens."""
    told = 0
    for number, document in enumerate(documents, start=1):
        yield document
        count_tokens(counts.tokens - told)
        told = counts.tokens
        if progress and number % 100 == 0:
            progress(number)


def packed_blocks(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    swapper: Swapper | None,
    block_length: int,
    cache_dir: Path,
    progress: Callable[..., None] | None = None,
    one_document: bool = False,
    share: bool = False,
) -> tuple["BlockDataset", PackingCounts]:
    """The blocks of a corpus, from the cache where they lie there already.

    Args:
        corpus: The documents, read only when their blocks are not cached, and the key that changes with them.
        tokenizer: A fast tokenizer.
        swapper: Makes the counterfactuals; None for a single view.
        block_length: T, in tokens.
        cache_dir: Folder of the cache.
        progress: Called with the number of documents done, at the end with their number once more, which is all.
        one_document: See `pack`.
        share: Of a training's text: nothing need be swapped in it.

    Raises:
        UserError: see `check_packed`.
    """
    from datasets import Features, Sequence, Value
    from datasets.arrow_writer import ArrowWriter

    key = cache_key(corpus.key, tokenizer, swapper, block_length, one_document)
    path, counts_path = cache_dir / f"blocks-{key}.arrow", cache_dir / f"blocks-{key}.json"
    # The counts are written last.
    if not (file_is_whole(counts_path) and file_is_whole(path)):
        if counts_path.exists():
            say(f"{path} or its counts are damaged; packing again")
        cache_dir.mkdir(parents=True, exist_ok=True)
        counts = PackingCounts()
        partial = partial_of(path)
        features = Features({name: Sequence(Value("int32")) for name in COLUMNS})
        with in_work(partial):
            with ArrowWriter(path=str(partial), features=features) as writer:
                documents = _counted(corpus.documents(), counts, progress)
                for block in pack(documents, tokenizer, swapper, block_length, counts, one_document):
                    writer.write({name: getattr(block, name).ravel() for name in COLUMNS})
                writer.finalize()
            try:
                check_packed(counts, None if share else swapper)
            except UserError:
                partial.unlink()
                raise
            put_file(partial, path)
        partial = partial_of(counts_path)
        partial.write_text(json.dumps(vars(counts), indent=2) + "\n", encoding="utf-8")
        put_file(partial, counts_path)
        if progress:
            progress(counts.documents, counts.documents)
    counts = PackingCounts(**json.loads(counts_path.read_text(encoding="utf-8")))
    return BlockDataset(path, block_length, one_document), counts
