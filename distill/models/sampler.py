"""Scores of the next token, and a uniform number for each row -> the token on which the number falls.

    draw(...)       as a CPU does it: sorts, and tells where rounding might change the token
    draw_wide(...)  the same token without sorting or asking the device anything: for thousands of rows on a GPU

Both take the tokens in the vocabulary's order: sorted by probability, near ones would change places by rounding. Of a
nucleus a GPU needs its least probability alone. That is found digit by digit, in the bits of the number, as those of
numbers above 0 are ordered as the numbers are. Where Triton is, it reads each row ten times from the cache of the card.
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
    least = least_of_nucleus(probabilities, shape.top_p) if shape.top_p < 1 else None
    if least is not None:
        probabilities = torch.where(probabilities >= least, probabilities, 0.0)
    missing = -probabilities.shape[1] % BLOCK
    blocks = (pad(probabilities, (0, missing)) if missing else probabilities).unflatten(1, (-1, BLOCK))
    masses = blocks.sum(dim=2, dtype=torch.float64)
    if least is not None:
        tied = (blocks == least.unsqueeze(2)).sum(dim=2)
        kept = _kept_ties(masses, tied, least, shape.top_p)
        masses = masses - (tied - kept) * least.double()
    cumulative = masses.cumsum(dim=1)
    target = uniform.unsqueeze(1) * cumulative[:, -1:]
    block = _place(cumulative, target)
    inside = blocks.gather(1, block.unsqueeze(2).expand(-1, -1, BLOCK)).squeeze(1)
    if least is not None:
        equal = inside == least
        inside = inside.masked_fill(equal & (equal.cumsum(dim=1) > kept.gather(1, block)), 0.0)
    left = target - pad(cumulative, (1, 0)).gather(1, block)
    return block * BLOCK + _place(inside.cumsum(dim=1, dtype=torch.float64), left)


def least_of_nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """The least probability in each row's nucleus, (B, 1), from float32 probabilities (B, V).

    It is the largest number such that those not below it have `top_p` together; 0 where rounding leaves all of a row
    below `top_p`. Of tokens that have just this probability, some may be outside.
    """
    if triton is not None and probabilities.is_cuda and works(probabilities.device):
        return _least_by_triton(probabilities, top_p)
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


def _kept_ties(masses: Tensor, tied: Tensor, least: Tensor, top_p: float) -> Tensor:
    """How many of the tokens that have just the nucleus' least probability are in it, in each block.

    The nucleus takes them in the vocabulary's order while those before have less than `top_p` together.

    Args:
        masses: (B, N) what all tokens have that are not below the least probability, by block.
        tied: (B, N) how many have just that.
        least: (B, 1) the least probability.
        top_p: The nucleus.
    """
    number = tied.sum(dim=1, keepdim=True)
    above = masses.sum(dim=1, keepdim=True) - number * least.double()
    kept = ((top_p - above) / least.double()).ceil().clamp(min=1)
    kept = torch.where(least > 0, kept, torch.inf).minimum(number)
    return (kept - (tied.cumsum(dim=1) - tied)).clamp(min=0).minimum(tied).long()


if triton is not None:

    @triton.jit
    def _least_kernel(probabilities, top_p, least, columns, stride, BLOCK: tl.constexpr):
        """One row: three bits of its number with each pass over it, the highest first."""
        row = tl.program_id(0).to(tl.int64)
        wanted = tl.load(top_p)
        found = tl.zeros((1,), tl.int32)
        for digit in range(10):
            step = 1 << (27 - 3 * digit)
            candidates = found + tl.arange(0, 8) * step
            masses = tl.zeros((8, BLOCK), tl.float64)
            for first in range(0, columns, BLOCK):
                place = first + tl.arange(0, BLOCK)
                values = tl.load(probabilities + row * stride + place, mask=place < columns, other=0.0)
                above = values.to(tl.int32, bitcast=True)[None, :] >= candidates[:, None]
                masses += tl.where(above, values.to(tl.float64)[None, :], 0.0)
            enough = (tl.sum(masses, axis=1) >= wanted).to(tl.int32)
            found += tl.maximum(tl.sum(enough, axis=0) - 1, 0) * step
        tl.store(least + row + tl.arange(0, 1), found)


def _least_by_triton(probabilities: Tensor, top_p: float) -> Tensor:
    """`least_of_nucleus` in one kernel."""
    probabilities = probabilities.contiguous()
    rows, columns = probabilities.shape
    least = torch.empty(rows, 1, dtype=torch.int32, device=probabilities.device)
    # As a plain number it would become a float32.
    wanted = torch.full((1,), top_p, dtype=torch.float64, device=probabilities.device)
    with torch.cuda.device_of(probabilities):
        _least_kernel[(rows,)](probabilities, wanted, least, columns, columns, BLOCK=1024, num_warps=8)
    return least.view(torch.float32)
