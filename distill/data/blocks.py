"""Blocks of aligned views as they lie on disk, and the data set of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset as TorchDataset

from distill.base.integrity import sealed_hash
from distill.objective.chunks import IGNORED


class Filler(int):
    """The index of a block of which nothing counts: it only makes a batch full."""


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


COLUMNS = ("input_ids", "labels", "boundaries", "position_ids")


class BlockDataset(TorchDataset):
    """Packed blocks of an Arrow file, memory-mapped; item i is a `PairBlock`.

    key: the file's name, which changes with the content.
    one_document: whether each block holds one document, and is empty behind it.
    """

    def __init__(self, path: Path, block_length: int, one_document: bool = False) -> None:
        from datasets import Dataset

        self._rows = Dataset.from_file(str(path)).with_format("numpy")
        self._block_length = block_length
        self.one_document = one_document
        self.key = path.stem
        #: What tells these blocks from others, each by itself: what they were made of, and their content.
        self.identities = (self.key, sealed_hash(path))

    @cached_property
    def tokens_hash(self) -> str:
        """A hash of all tokens and of which bear loss: the same of the same text, whatever its files are called."""
        digest = hashlib.sha256()
        for name in ("input_ids", "labels"):
            for chunk in self._rows.data.column(name).chunks:
                digest.update(chunk.flatten().to_numpy().tobytes())
        digest.update(self.views().astype(np.int64).tobytes())
        return digest.hexdigest()

    def views(self) -> np.ndarray:
        """(N,) the number of views of each block."""
        import pyarrow.compute as pc

        lengths = pc.list_value_length(self._rows.data.column("input_ids"))
        return lengths.to_numpy() // self._block_length

    def largest_id(self) -> int:
        """Of all tokens."""
        import pyarrow.compute as pc

        return pc.max(pc.list_flatten(self._rows.data.column("input_ids"))).as_py()

    def first_pieces(self) -> np.ndarray:
        """(n,) the blocks that begin with the beginning of a document, where each holds one: a later piece of one that
        is longer than a block begins behind a boundary above 0.
        """
        found, before = [], 0
        for chunk in self._rows.data.column("boundaries").chunks:
            starts = np.cumsum(chunk.value_lengths().to_numpy()) - chunk.value_lengths().to_numpy()
            found.append(before + np.flatnonzero(chunk.flatten().to_numpy()[starts] == 0))
            before += len(chunk)
        return np.concatenate(found)

    def lengths(self) -> np.ndarray:
        """(N,) the positions of each block up to the last that counts in any view."""
        found = []
        for chunk in self._rows.data.column("labels").chunks:
            views = chunk.value_lengths().to_numpy() // self._block_length
            counted = chunk.flatten().to_numpy().reshape(-1, self._block_length) != IGNORED
            of_views = (counted * np.arange(1, self._block_length + 1)).max(axis=1)
            found.append(np.maximum.reduceat(of_views, np.cumsum(views) - views))
        return np.concatenate(found)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> PairBlock:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[PairBlock]:
        """A batch's blocks: torch's loader asks for them together, one by one they take several times as long."""
        rows = self._rows[[int(index) for index in indices]]
        blocks = []
        for place, index in enumerate(indices):
            views = {name: np.asarray(rows[name][place]).reshape(-1, self._block_length) for name in COLUMNS}
            if isinstance(index, Filler):
                views["labels"] = np.full_like(views["labels"], IGNORED)
            blocks.append(PairBlock(**views, index=int(index)))
        return blocks
