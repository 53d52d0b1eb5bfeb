"""Scores of the next token, and a uniform number for each row -> the token on which the number falls.

    draw(...)       as a CPU does it: sorts, and tells where rounding might change the token
    draw_wide(...)  the same token without sorting or asking the device anything: for thousands of rows on a GPU

Both take the tokens in the vocabulary's order: sorted by probability, near ones would change places by rounding. Of a
nucleus a GPU needs its least probability alone. That is found digit by digit, in the bits of the number, as those of
numbers above 0 are ordered as the numbers are. Where Triton is, a row is read five times: by then few of its numbers
are near enough to the least for the digits that are left.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

try:
    import triton
    import triton.language as tl

    from distill.objective.kernels import works
except ImportError:
    triton = None

# More than float32 changes with the shape of a batch: logits were seen to change by 2e-5, partial sums of probabilities
# by some 1e-7. A wider margin for these costs time: every token with less probability is then near two boundaries.
_LOGIT_ROUNDING = 1e-4
_SUM_ROUNDING = 1e-6

BLOCK = 256  # tokens whose probabilities are summed first; then those of one such block one by one
_WARPS = 8  # that go through a row
_BITS = 30  # of a float32 between 0 and 1 that are not 0 in all of them


class Shape(NamedTuple):
    """What is sampled from.

    vocab: How many tokens there are; rows of the head behind them are padding, which no text can hold.
    temperature, top_k, top_p: applied in this order, as `generate` of transformers does.
    """

    vocab: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


def draw(scores: Tensor, uniform: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """(B, R) scores and (B,) uniform numbers -> (B, 1) token ids, and (B,) whether rounding can not change them."""
    scores = _scaled(scores[:, : shape.vocab], shape)
    sure = torch.ones_like(uniform, dtype=torch.bool)
    margin = torch.full_like(uniform, _SUM_ROUNDING)
    if 0 < shape.top_k < scores.shape[1]:
        best = scores.topk(shape.top_k + 1, dim=1).values
        sure = best[:, -2] - best[:, -1] > _LOGIT_ROUNDING
        scores = scores.masked_fill(scores < best[:, -2:-1], -torch.inf)
    probabilities = scores.softmax(dim=1)
    if shape.top_p < 1:
        ordered, order = probabilities.sort(dim=1, descending=True)
        before = ordered.cumsum(dim=1, dtype=torch.float64) - ordered
        kept = before < shape.top_p
        number = kept.sum(dim=1, keepdim=True)
        last, next_one = (ordered.gather(1, (number - k).clamp(max=ordered.shape[1] - 1)) for k in (1, 0))
        # Tokens that rounding might keep or drop: their mass moves the places of all the others.
        alike = _LOGIT_ROUNDING * last
        tied = (last - next_one <= alike) & ((ordered - last).abs() <= alike)
        margin = margin + (ordered * (tied | ((before - shape.top_p).abs() <= _SUM_ROUNDING))).sum(dim=1)
        probabilities = probabilities * torch.zeros_like(kept).scatter_(1, order, kept)
    # In float32, sums over a large vocabulary would not resolve its rare tokens.
    cumulative = probabilities.cumsum(dim=1, dtype=torch.float64)
    total = cumulative[:, -1:]
    near = torch.stack([uniform, uniform - margin, uniform + margin], dim=1)
    place = _place(cumulative, near * total)
    return place[:, :1], sure & (place == place[:, :1]).all(dim=1)


def draw_wide(scores: Tensor, uniform: Tensor, shape: Shape) -> Tensor:
    """(B, R) scores and (B,) uniform numbers -> (B, 1) token ids.

    Sums over the vocabulary are those of blocks, in float64, and then those inside the block of the token, so that most
    of what is read is read once. Rows of a multiple of `BLOCK` scores spare copies of them; those behind the vocabulary
    are written over.
    """
    scores = scores[:, : shape.vocab + -shape.vocab % BLOCK]
    scores[:, shape.vocab :] = -torch.inf
    scores = _scaled(scores, shape)
    if 0 < shape.top_k < scores.shape[1]:
        scores = scores.masked_fill(scores < scores.topk(shape.top_k, dim=1).values[:, -1:], -torch.inf)
    probabilities = scores.softmax(dim=1)
    blocks = _in_blocks(probabilities)
    if shape.top_p < 1:
        nucleus = nucleus_of(probabilities, shape.top_p)
        kept = _kept_ties(nucleus, shape.top_p)
        masses = nucleus.masses - (nucleus.tied - kept) * nucleus.least.double()
    else:
        masses = blocks.sum(dim=2, dtype=torch.float64)
    cumulative = masses.cumsum(dim=1)
    target = uniform.unsqueeze(1) * cumulative[:, -1:]
    block = _place(cumulative, target)
    inside = blocks.gather(1, block.unsqueeze(2).expand(-1, -1, BLOCK)).squeeze(1)
    if shape.top_p < 1:
        equal = inside == nucleus.least
        left_out = (inside < nucleus.least) | (equal & (equal.cumsum(dim=1) > kept.gather(1, block)))
        inside = inside.masked_fill(left_out, 0.0)
    left = target - pad(cumulative, (1, 0)).gather(1, block)
    return block * BLOCK + _place(inside.cumsum(dim=1, dtype=torch.float64), left)


def _in_blocks(probabilities: Tensor) -> Tensor:
    """(B, V) -> (B, N, `BLOCK`), of which tokens behind the V have none."""
    missing = -probabilities.shape[1] % BLOCK
    return (pad(probabilities, (0, missing)) if missing else probabilities).unflatten(1, (-1, BLOCK))


class Nucleus(NamedTuple):
    """The likeliest tokens of each row that have `top_p` together.

    least: (B, 1) float32, see `least_of_nucleus`.
    masses: (B, N) float64, what all tokens have that are not less likely, by blocks of `BLOCK`.
    tied: (B, N) int64, how many of them have just the least probability.
    """

    least: Tensor
    masses: Tensor
    tied: Tensor


def nucleus_of(probabilities: Tensor, top_p: float) -> Nucleus:
    """Of float32 probabilities (B, V)."""
    if triton is not None and probabilities.is_cuda and works(probabilities.device):
        return _nucleus_by_triton(probabilities, top_p)
    least = least_of_nucleus(probabilities, top_p)
    kept = _in_blocks(torch.where(probabilities >= least, probabilities, 0.0))
    return Nucleus(least, kept.sum(dim=2, dtype=torch.float64), (kept == least.unsqueeze(2)).sum(dim=2))


def least_of_nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """The least probability in each row's nucleus, (B, 1), from float32 probabilities (B, V).

    It is the largest number such that those not below it have `top_p` together; 0 where rounding leaves all of a row
    below `top_p`. Of tokens that have just this probability, some may be outside.
    """
    bits = probabilities.view(torch.int32)
    least = bits.new_zeros(len(bits), 1)
    for digit in reversed(range(_BITS)):
        higher = least | (1 << digit)
        mass = (probabilities * (bits >= higher)).sum(dim=1, keepdim=True, dtype=torch.float64)
        least = torch.where(mass >= top_p, higher, least)
    return least.view(torch.float32)


def _scaled(scores: Tensor, shape: Shape) -> Tensor:
    """Float32 scores at the temperature."""
    scores = scores.float()
    return scores if shape.temperature == 1 else scores / shape.temperature


def _place(cumulative: Tensor, target: Tensor) -> Tensor:
    """The first of N places whose partial sum (B, N) is above each target (B, M); one that has probability itself."""
    place = torch.searchsorted(cumulative, target, right=True)
    # Rounding may leave the last partial sums equal to the total: never step onto a place without probability.
    return torch.minimum(place, (cumulative < cumulative[:, -1:]).sum(dim=1, keepdim=True))


def _kept_ties(nucleus: Nucleus, top_p: float) -> Tensor:
    """(B, N) how many of the tokens that have just the nucleus' least probability are in it, in each block.

    The nucleus takes them in the vocabulary's order while those before have less than `top_p` together.
    """
    least, masses, tied = nucleus
    number = tied.sum(dim=1, keepdim=True)
    above = masses.sum(dim=1, keepdim=True) - number * least.double()
    kept = ((top_p - above) / least.double()).ceil().clamp(min=1)
    kept = torch.where(least > 0, kept, torch.inf).minimum(number)
    return (kept - (tied.cumsum(dim=1) - tied)).clamp(min=0).minimum(tied).long()


if triton is not None:

    @triton.jit
    def _next_digit(
        numbers, columns, above, found, step, wanted, COLUMNS: tl.constexpr, OF_THREAD: tl.constexpr
    ):  # fmt: skip
        """Three bits more of the least probability: the highest of eight candidates whose mass is enough.

        Args:
            numbers, columns: Where the probabilities are that these bits have to do with, and how many.
            above: What larger ones have, float64.
            found, step: The bits so far, and the lowest of the three.
            wanted: The mass of the nucleus.
        """
        # Of all candidates but the one that is there. The columns that a thread reads at a time share a sum each.
        masses = (tl.zeros((COLUMNS // OF_THREAD,), tl.float64),) * 7
        for first in range(0, columns, COLUMNS):
            place = first + tl.arange(0, COLUMNS)
            values = tl.load(numbers + place, mask=place < columns, other=0.0)
            values = tl.reshape(values, (COLUMNS // OF_THREAD, OF_THREAD))
            bits, wide = values.to(tl.int32, bitcast=True), values.to(tl.float64)
            more = ()
            for k in tl.static_range(7):
                mass = masses[k] + tl.sum(tl.where(bits >= found + (k + 1) * step, wide, 0.0), 1)
                more = more + (mass,)  # type: ignore[assignment]  # noqa: RUF005  # Triton has no other way
            masses = more  # type: ignore[assignment]
        enough = 0
        for k in tl.static_range(7):
            enough += (tl.sum(masses[k], 0) + above >= wanted).to(tl.int32)
        return found + enough * step

    @triton.jit
    def _nucleus_kernel(
        probabilities, top_p, near, least, masses, tied, columns, blocks,
        COLUMNS: tl.constexpr, OF_THREAD: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """One row. Nine bits are found in all of it; what agrees in them is gathered, for the bits that are left."""
        row = tl.program_id(0).to(tl.int64)
        probabilities, near = probabilities + row * columns, near + row * columns
        wanted, lanes, found = tl.load(top_p), tl.arange(0, COLUMNS), 0
        for digit in range(3):
            found = _next_digit(probabilities, columns, 0.0, found, 1 << (27 - 3 * digit), wanted, COLUMNS, OF_THREAD)
        larger, number = tl.zeros((COLUMNS,), tl.float64), 0
        for first in range(0, columns, COLUMNS):
            place = first + lanes
            values = tl.load(probabilities + place, mask=place < columns, other=0.0)
            bits = values.to(tl.int32, bitcast=True)
            larger += tl.where(bits >= found + (1 << 21), values.to(tl.float64), 0.0)
            agrees = ((bits >= found) & (bits < found + (1 << 21)) & (place < columns)).to(tl.int32)
            tl.store(near + number + tl.cumsum(agrees, 0) - 1, values, mask=agrees > 0)
            number += tl.sum(agrees, 0)
        above = tl.sum(larger, 0)
        tl.debug_barrier()  # what other threads have gathered is read from here on
        for digit in range(3, 10):
            found = _next_digit(near, number, above, found, 1 << (27 - 3 * digit), wanted, COLUMNS, OF_THREAD)
        for first in range(0, columns, COLUMNS):
            place = first + lanes
            values = tl.load(probabilities + place, mask=place < columns, other=0.0)
            bits = values.to(tl.int32, bitcast=True)
            kept = tl.reshape(tl.where(bits >= found, values.to(tl.float64), 0.0), (COLUMNS // BLOCK, BLOCK))
            equal = tl.reshape((bits == found).to(tl.int64), (COLUMNS // BLOCK, BLOCK))
            block = first // BLOCK + tl.arange(0, COLUMNS // BLOCK)
            tl.store(masses + row * blocks + block, tl.sum(kept, 1), mask=block < blocks)
            tl.store(tied + row * blocks + block, tl.sum(equal, 1), mask=block < blocks)
        tl.store(least + row, found)


def _nucleus_by_triton(probabilities: Tensor, top_p: float, columns: int = 1024) -> Nucleus:
    """`nucleus_of` in one kernel, which reads so many columns at a time."""
    probabilities = probabilities.contiguous()
    rows, vocab = probabilities.shape
    blocks = -(-vocab // BLOCK)
    least = torch.empty(rows, 1, dtype=torch.int32, device=probabilities.device)
    masses = torch.empty(rows, blocks, dtype=torch.float64, device=probabilities.device)
    tied = torch.empty(rows, blocks, dtype=torch.int64, device=probabilities.device)
    # As a plain number it would become a float32.
    wanted = torch.full((1,), top_p, dtype=torch.float64, device=probabilities.device)
    near = torch.empty_like(probabilities)
    with torch.cuda.device_of(probabilities):
        _nucleus_kernel[(rows,)](
            probabilities, wanted, near, least, masses, tied, vocab, blocks,
            COLUMNS=columns, OF_THREAD=columns // (32 * _WARPS), BLOCK=BLOCK, num_warps=_WARPS,
        )  # fmt: skip
    return Nucleus(least.view(torch.float32), masses, tied)
