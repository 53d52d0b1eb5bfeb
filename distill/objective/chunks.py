"""What each token is compared with, and the chunks of tokens that the loss goes through, one after the other.

A chunk needs few of the teacher's positions, and its logits have room; the tokens of a block have partners in the same
counterfactuals. Planned where a batch is made, so that a GPU is asked for nothing.

Shapes: N tokens, K groups (so K - 1 counterfactuals); inside a chunk n tokens and u distinct teacher positions.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from distill.objective.settings import LossSettings

IGNORED = -100  # the label of a token that does not count
ALIGNED = 64  # the rows of a matrix come in such numbers where a GPU's products are fast, in every 16-bit format
_CACHED_LOGITS = 2**18  # numbers that stay in the cache of a processor core while one operation follows another
_GPU_BYTES = 5 * 2**28  # of logits and what is made of them, in a chunk on a GPU


@dataclass(frozen=True)
class Positions:
    """What each of the student's N tokens is compared with.

    Attributes:
        labels: (N,) int64, the next tokens; -100 where a token does not count.
        own: (N,) int64, the row of the teacher's hidden states that predicts the same token as the student's; None
            where there is no teacher.
        partner: (K - 1, N) int64, the rows at the aligned positions of the counterfactuals, -1 where there is none;
            None: no counterfactuals.
    """

    labels: Tensor
    own: Tensor | None = None
    partner: Tensor | None = None

    @classmethod
    def of_first_rows(cls, labels: Tensor, partner: Tensor | None) -> "Positions":
        """Of rows that are the first of the teacher's: ``labels`` (R, T), ``partner`` (K - 1, R, T) or None."""
        flat = labels.flatten()
        own = torch.arange(len(flat), device=flat.device)
        return cls(flat, own, None if partner is None else partner.flatten(1))


class Block(NamedTuple):
    """The tokens start:end of a chunk, which have partners in the same counterfactuals."""

    counterfactuals: tuple[int, ...]  # indices 0..K-2
    start: int
    end: int


class Chunk(NamedTuple):
    """One step of the fused loss."""

    tokens: Tensor  # (n,) which of the N tokens
    teacher: Tensor  # (u,) the distinct teacher positions that they look at
    own: Tensor  # (n,) into `teacher`
    partner: Tensor  # (K - 1, n) into `teacher`; 0 where there is no partner
    blocks: tuple[Block, ...]
    document: int = 0  # whose gradient of the head is clipped by itself
    last: bool = False  # of its document's


class _Outline(NamedTuple):
    """A chunk but for its numbers."""

    sizes: tuple[int, ...]  # of `tokens`, `teacher`, `own` and `partner`, in numbers
    blocks: tuple[Block, ...]
    document: int
    last: bool


@dataclass(frozen=True)
class Plan:
    """All chunks of a batch. It goes to a device, and into pinned memory, as the tensors of the batch do.

    Their numbers are one tensor, which is sent by the process that makes a batch, pinned and copied at once.

    Attributes:
        numbers: (M,) int64, those of all chunks one after the other.
        outlines: What else there is to the chunks.
    """

    numbers: Tensor
    outlines: tuple[_Outline, ...]

    @classmethod
    def of(cls, chunks: Sequence[Chunk], device: torch.device) -> "Plan":
        """Of chunks, whose tensors go to a device."""
        tensors = [(c.tokens, c.teacher, c.own, c.partner.flatten()) for c in chunks]
        outlines = tuple(
            _Outline(tuple(map(len, of_chunk)), c.blocks, c.document, c.last)
            for c, of_chunk in zip(chunks, tensors, strict=True)
        )
        nothing = torch.zeros(0, dtype=torch.long)
        return cls(torch.cat([nothing, *chain.from_iterable(tensors)]).to(device), outlines)

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """The chunks, whose tensors are views of the numbers."""
        parts = iter(self.numbers.split([size for outline in self.outlines for size in outline.sizes]))
        return tuple(
            Chunk(next(parts), next(parts), own := next(parts), next(parts).view(-1, len(own)), blocks, document, last)
            for _sizes, blocks, document, last in self.outlines
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Plan":
        """The same with its numbers on a device."""
        return Plan(self.numbers.to(device, non_blocking=non_blocking), self.outlines)

    def pin_memory(self) -> "Plan":
        """The same in memory that a GPU copies from while the processor goes on."""
        return Plan(self.numbers.pin_memory(), self.outlines)


class ChunkSizes(NamedTuple):
    """How large the chunks of a plan are, and the blocks in them, in tokens.

    even: As few chunks as these sizes allow, all of one size but for a token.
    """

    chunk: int
    block: int
    even: bool = False


def plan_chunks(positions: Positions, settings: LossSettings, sizes: ChunkSizes) -> Plan:
    """Cut the valid tokens into chunks in such an order that a chunk needs few distinct teacher positions.

    A token of a text and the aligned token of its counterfactual look at the same two positions; sorting by the
    smallest one puts them side by side. Planned on the CPU: a GPU would have to be waited for. Who makes the batch can
    plan before it goes there.

    Args:
        positions: What the N tokens are compared with; of its parts, only those are planned for that the settings use.
        settings: weights and operation.
        sizes: from `kd_loss.sizes_of_chunks`, which knows the pass.

    Returns:
        The chunks, on the device of the positions.
    """
    return Plan.of(_chunks(positions, settings, sizes), positions.labels.device)


def _chunks(positions: Positions, settings: LossSettings, sizes: ChunkSizes) -> list[Chunk]:
    """Those of `plan_chunks`, on the CPU."""
    positions = _looked_at(positions, settings)
    chunk_tokens, block_tokens, even = sizes
    tokens = (positions.labels != IGNORED).nonzero().squeeze(1).cpu()
    own = torch.zeros_like(tokens) if positions.own is None else positions.own.cpu()[tokens]
    partner = tokens.new_zeros(0, len(tokens)) if positions.partner is None else positions.partner.cpu()[:, tokens]
    first = own
    for row in partner:
        first = torch.where(row >= 0, row.minimum(first), first)
    order = first.argsort(stable=True)
    tokens, own, partner = tokens[order], own[order], partner[:, order]
    # Which partners a token has, as the bits of a number.
    present = ((partner >= 0).long() << torch.arange(len(partner)).unsqueeze(1)).sum(dim=0)

    # Every counterfactual may bring a teacher position of its own: fewer tokens then, so that a chunk has the logits of
    # 2 * chunk_tokens positions of student and teacher at most, whatever the number of views.
    chunk_tokens = max(1, 2 * chunk_tokens // (2 + len(partner)))
    if even and len(tokens):
        chunk_tokens = -(-len(tokens) // -(-len(tokens) // chunk_tokens))
    chunks = []
    for start in range(0, len(tokens), chunk_tokens):
        there = slice(start, start + chunk_tokens)
        patterns, counts = torch.unique(present[there], return_counts=True)
        order = present[there].argsort(stable=True)
        chunk_own, chunk_partner = own[there][order], partner[:, there][:, order]
        ends = counts.cumsum(0).tolist()
        blocks = tuple(
            Block(
                tuple(k for k in range(len(partner)) if pattern >> k & 1), begin, min(begin + block_tokens, group_end)
            )
            for pattern, group_start, group_end in zip(patterns.tolist(), [0, *ends[:-1]], ends, strict=True)
            for begin in range(group_start, group_end, block_tokens)
        )
        chunk_partner = torch.where(chunk_partner >= 0, chunk_partner, chunk_own)
        teacher, inverse = torch.unique(torch.cat([chunk_own.unsqueeze(0), chunk_partner]), return_inverse=True)
        chunks.append(Chunk(tokens[there][order], teacher, inverse[0], inverse[1:], blocks))
    return chunks


def plan_by_document(positions: Positions, settings: LossSettings, sizes: ChunkSizes, documents: Tensor) -> Plan:
    """Chunks as `plan_chunks` cuts them, each of one document's tokens, document after document.

    Args:
        positions, settings, sizes: As there.
        documents: (N,) int64, the document of each token, counted from 0.
    """
    chunks: list[Chunk] = []
    for document in range(int(documents.max()) + 1):
        of_document = replace(positions, labels=positions.labels.masked_fill(documents != document, IGNORED))
        found = _chunks(of_document, settings, sizes)
        chunks += [c._replace(document=document, last=n == len(found)) for n, c in enumerate(found, start=1)]
    return Plan.of(chunks, positions.labels.device)


def _looked_at(positions: Positions, settings: LossSettings) -> Positions:
    """Without the teacher's rows that the settings do not ask for."""
    own = positions.own if settings.needs_target else None
    with_partners = own is not None and settings.op != "none" and settings.strength
    return Positions(positions.labels, own, positions.partner if with_partners else None)


def chunk_sizes(
    settings: LossSettings, device: torch.device, vocab: int, dtype: torch.dtype, rows: int = 2
) -> ChunkSizes:
    """How large the chunks are that suit a device, and the blocks where every operation reads and writes their logits.

    Args:
        settings: whose `chunk_tokens` goes first.
        device: few tokens for a CPU's cache, many to fill a GPU.
        vocab: V, the length of a row of logits.
        dtype: the format of the logits that are held.
        rows: how many rows of logits are held at once for each token of a chunk, those included that are made on the
            way; 2, the student's and one of the teacher's, where all is done in their place.
    """
    if device.type == "cpu":
        return ChunkSizes(settings.chunk_tokens or 96, max(1, _CACHED_LOGITS // vocab))
    of_gpu = max(ALIGNED, _GPU_BYTES // dtype.itemsize // (rows * vocab) // ALIGNED * ALIGNED)
    return ChunkSizes(settings.chunk_tokens or (of_gpu if device.type == "cuda" else 1024), sys.maxsize, even=True)
