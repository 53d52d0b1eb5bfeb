"""Blocks -> the batches of a step."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler

from distill.data.blocks import Filler, PairBlock
from distill.models.document_attention import Documents
from distill.objective.chunks import IGNORED, Plan, Positions
from distill.objective.pairing import pairs_of
from distill.text.alignment import NO_PARTNER, partner_positions


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


class Collator:
    """Blocks -> one batch in which each row is one view.

    The first B rows are the texts, then come the counterfactuals of the edited blocks. A dictionary is returned:

    - input_ids, position_ids, labels: (R, T), R rows.
    - partner: (K - 1, R, T) index into the R * T positions of the batch where the view of shift s sits, -1 for none.
      A text without edits is its own counterfactual.
    - plan: how the loss goes through the student's rows, where it is planned here.
    - pairs: (2, P) see `pairs_of`, of the student's rows, where they are wanted.
    - documents: where those of the rows begin.
    - student_rows: number of rows that the student trains on, counted from the first: R with augmentation, else B.
    - source: (R, 2) the index of each row's block in its data set, and the view.
    - edited: (R,) whether the row's block has counterfactuals.
    - tokens, aligned: (R,) how many positions of each row bear loss, and how many of those have a partner in every
      other view.

    The last four are of numpy, since what is asked of them is asked on the CPU, and a tensor would be moved.

    Args:
        num_groups: K; 1 keeps only the texts.
        augment: Train on the counterfactual rows too.
        trim: Leave out the positions at the end that count in no row: for blocks of one document, which are not full.
        plan: Plans the loss, see `plan_chunks`; None: the loss does it, for which a GPU has to be waited for.
        by_document: `plan` plans each document by itself, see `plan_by_document`.
        pairs: Look for the pairs of the student's two views.
    """

    def __init__(
        self,
        num_groups: int,
        augment: bool,
        trim: bool = False,
        plan: Callable[..., Plan] | None = None,
        by_document: bool = False,
        pairs: bool = False,
    ) -> None:
        self.num_groups = num_groups
        self.augment = augment
        self.trim = trim
        self.plan = plan
        self.by_document = by_document
        self.pairs = pairs

    def __call__(self, blocks: Sequence[PairBlock]) -> dict[str, Any]:
        rows: list[tuple[int, int]] = [(b, 0) for b in range(len(blocks))]
        if self.num_groups > 1:
            rows += [(b, v) for b, block in enumerate(blocks) for v in range(1, len(block.input_ids))]
        row_of = {place: row for row, place in enumerate(rows)}
        length = blocks[0].input_ids.shape[1]
        if self.trim:
            counted = np.concatenate([block.labels for block in blocks]) != IGNORED
            length = int(counted.any(axis=0).nonzero()[0].max(initial=0)) + 1
        partner = np.full((self.num_groups - 1, len(rows), length), NO_PARTNER, dtype=np.int64)
        if self.num_groups > 1:
            for b, block in enumerate(blocks):
                views = len(block.input_ids)
                if views == 1:
                    partner[:, b] = row_of[b, 0] * length + np.arange(length)
                    continue
                places = partner_positions(block.boundaries)[..., :length]
                for view in range(views):
                    for shift in range(1, views):
                        found = places[view, shift - 1]
                        there = row_of[b, (view + shift) % views] * length + found
                        partner[shift - 1, row_of[b, view]] = np.where(found >= 0, there, NO_PARTNER)

        def stack(name: str) -> Tensor:
            return torch.from_numpy(np.stack([getattr(blocks[b], name)[v, :length] for b, v in rows]).astype(np.int64))

        positions = stack("position_ids")
        batch: dict[str, Any] = {
            "input_ids": stack("input_ids"),
            "position_ids": positions,
            "labels": stack("labels"),
            "partner": torch.from_numpy(partner),
            "documents": Documents.of(positions.numpy()),
            "student_rows": len(rows) if self.augment else len(blocks),
            "source": np.array([(blocks[b].index, view) for b, view in rows]),
            "edited": np.array([self.num_groups > 1 and len(blocks[b].input_ids) > 1 for b, _ in rows]),
        }
        counted = batch["labels"].numpy() != IGNORED
        batch |= {"tokens": counted.sum(axis=1), "aligned": (counted & (partner >= 0).all(axis=0)).sum(axis=1)}
        return batch | self._found_for_the_loss(batch)

    def _found_for_the_loss(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What the loss would ask a device for."""
        rows = batch["student_rows"]
        positions = Positions.of_first_rows(batch["labels"][:rows], batch["partner"][:, :rows])
        found: dict[str, Any] = {}
        if self.plan is not None:
            own = {"documents": documents_of(batch)[0].repeat_interleave(len(positions.labels) // rows)}
            found["plan"] = self.plan(positions, **(own if self.by_document else {}))
        if self.pairs:
            found["pairs"] = pairs_of(positions)
        return found


def documents_of(batch: dict[str, Any]) -> tuple[Tensor, int]:
    """Of blocks of one document each: (R,) which document each of the student's rows is of, from 0, and how many."""
    found, place = np.unique(batch["source"][: batch["student_rows"], 0], return_inverse=True)
    return torch.from_numpy(place), len(found)
