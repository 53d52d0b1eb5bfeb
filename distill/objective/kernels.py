"""The block's loss on a GPU: one Triton kernel that reads logits and leaves their gradient in their place.

The closed forms are those at the head of kd_loss.py, the operations those of operations.py; tests hold the kernel to
`kd_loss.reference_loss`, on a CPU in Triton's interpreter. One program goes through a token's rows: once for the
normalisers of the student and of all of the teacher's views together, once more for each number that a whole row must
be known for, and once to write.

The few columns that role maps and listed tokens touch are looked after outside, on (n, C) tensors and by functions that
exist: the kernel takes the reversed logits from there, and leaves the log target there.

Shapes: n tokens of a block, u teacher positions of its chunk, V vocabulary, R >= V and S >= V rows of the padded heads,
P counterfactuals that the block's tokens have partners in, C columns that are touched.
"""

import math
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from distill.base.console import say
from distill.base.errors import first_line
from distill.objective.listed_tokens import ListedTokens, listed_gradient
from distill.objective.logit_ops import LOG_ZERO, RoleMap
from distill.objective.settings import LossSettings

_COLUMNS = 1024  # of a row that a program reads at a time; with 4 warps the fastest of those tried on an H200
_WARPS = 4
_LOWEST = tl.constexpr(LOG_ZERO)
# Where running maxima begin: over what the lowest logits are at any temperature of use. Were one of these the maximum,
# its product with the factor would be rounded there, and not in the `fma` that it is subtracted in: what is left of
# 1e30 is 1e21, and its exponential infinite.
_FIRST_MAXIMUM = tl.constexpr(LOG_ZERO / 1e10)
_OF_THREAD = tl.constexpr(_COLUMNS // (32 * _WARPS))  # columns of each piece of a row that a thread has, side by side
_LN_2 = tl.constexpr(math.log(2))
_LOG2_E = tl.constexpr(1 / math.log(2))
# Whether it is compiled for a card of NVIDIA's, and not for AMD's, nor gone through by the interpreter.
_NVIDIA = tl.constexpr(torch.version.hip is None and not triton.knobs.runtime.interpret)


@triton.jit
def _one(x):
    tl.store(x, 1)


@lru_cache
def works(device: torch.device) -> bool:
    """Whether Triton can build and start a kernel for a device, which takes a C compiler and a folder. Tried once."""
    try:
        tried = torch.zeros(1, dtype=torch.int32, device=device)
        with torch.cuda.device_of(tried):  # Triton starts on the current one, whatever it is given
            _one[(1,)](tried)
        return bool(tried.item())
    except Exception as error:  # of its own kinds, of the compiler's, of the driver's
        why = f"{type(error).__name__}: {first_line(error)}"
        compiler = os.environ.get("CC")  # which may not be there, or not be one; all else of a disk is the cache's
        of_cache = isinstance(error, OSError) and (compiler is None or error.filename != compiler)
        hint = "set TRITON_CACHE_DIR to a folder that can be written" if of_cache else "it needs a C compiler, gcc say"
        say(f"Triton cannot build a kernel here ({why}), so a slower way is taken; {hint}")
        return False


class Touched(NamedTuple):
    """What role maps and listed tokens touch of the vocabulary, and both in terms of these columns alone.

    Attributes:
        columns: (C,) int64, ascending.
        slots: (S,) int16 where they suffice, or int32: the place of a column among the C, -1 for all others. Every row
            reads them all, so that they are kept short.
        role_maps: One for each of the K - 1 counterfactuals; none without role reversal.
        listed: The sets of counterparts, or None.
    """

    columns: Tensor
    slots: Tensor
    role_maps: tuple[RoleMap, ...]
    listed: ListedTokens | None


@lru_cache(maxsize=8)
def touched(
    role_maps: tuple[RoleMap, ...], listed: ListedTokens | None, width: int, device: torch.device
) -> Touched | None:
    """What role maps and listed tokens touch in S columns; None if there is neither."""
    tokens = {token for role_map in role_maps for edge in role_map.edges for token in edge}
    tokens |= set() if listed is None else set(listed.columns.tolist())
    if not tokens:
        return None
    columns = torch.tensor(sorted(tokens))
    short = torch.int16 if len(columns) <= torch.iinfo(torch.int16).max else torch.int32
    slots = torch.full((width,), -1, dtype=short)
    slots[columns] = torch.arange(len(columns), dtype=short)
    slot_of = dict(zip(columns.tolist(), range(len(columns)), strict=True))
    compact = tuple(
        RoleMap([(slot_of[source], slot_of[to]) for source, to in role_map.edges], len(columns)).to(device)
        for role_map in role_maps
    )
    if listed is not None:
        at, table = (slots.to(device)[of].long() for of in (listed.columns, listed.table))
        listed = listed._replace(columns=at, table=table)
    return Touched(columns.to(device), slots.to(device), compact, listed)


class Views(NamedTuple):
    """What the teacher says to the n tokens of a block.

    Attributes:
        logits: (u, S) of its chunk.
        own: (n,) int64, the row of each token.
        others: (P, n) int64, the rows of its partners.
        shifts: For each of the P counterfactuals, which of the role maps undoes it.
    """

    logits: Tensor
    own: Tensor
    others: Tensor
    shifts: Sequence[int]


def block_loss(
    z: Tensor,
    label: Tensor,
    views: Views | None,
    found: Touched | None,
    settings: LossSettings,
    vocab: int,
    scale: float,
    cap: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over a block of divergence / T^2, of cross-entropy, and of the divergence on listed tokens / T^2.

    Args:
        z: (n, R) the student's raw logits, which become their gradient; behind the V tokens that is 0.
        label: (n,) int64.
        views: None where there is nothing to compare with.
        found: What role maps and listed tokens touch; None: nothing.
        settings: Weights, divergence, operation.
        vocab: V.
        scale, cap: Shape of the student's logits, see `kd_loss.ModelView`.
    """
    n, width = z.shape
    number = 0 if views is None else len(views.shifts)
    reverses = found is not None and bool(found.role_maps) and number > 0
    lists = found is not None and found.listed is not None and views is not None and settings.listed > 0
    student = moved = target = z  # what is not used is any tensor
    if found is not None and lists:
        student = z.index_select(1, found.columns).float()
        target = torch.empty_like(student)
    if found is not None and views is not None and reverses:
        moved = _reversed(views, found, settings.temperature)
    sums = z.new_zeros((2, n), dtype=torch.float32)
    of_teacher = (z, label, label) if views is None else views[:3]
    averaged = max(1, number if settings.op == "swap" else number + 1)  # views, where the operation is a mean
    with torch.cuda.device_of(z):
        _loss_of_row[(n,)](
            z, label, *of_teacher, z if found is None else found.slots, moved, target, sums,
            n, width, of_teacher[0].shape[1], vocab, 0 if found is None else len(found.columns),
            1 / (settings.temperature * math.log(2)), math.log2(averaged), settings.kd * settings.temperature,
            settings.ce, settings.strength, settings.jsd_beta, scale, 1.0 if cap is None else cap,
            OTHERS=number, OP=settings.op if number else "none", DIVERGENCE=settings.divergence,
            TARGET=views is not None, KD=views is not None and settings.kd > 0, CE=settings.ce > 0,
            MIXED=number > 0 and settings.strength < 1, CAPPED=cap is not None, REVERSED=reverses, LISTED=lists,
            COLUMNS=_COLUMNS, num_warps=_WARPS,
        )  # fmt: skip
    on_listed = sums.new_zeros(())
    if found is not None and found.listed is not None and lists:
        logits = student * scale if cap is None else cap * torch.tanh(student * (scale / cap))
        slope = scale if cap is None else scale * (1 - (logits / cap).square())
        values, gradient = listed_gradient(logits / settings.temperature, target, found.listed)
        gradient = gradient * (settings.listed * settings.temperature)
        at = found.listed.columns
        gradient = gradient * (slope.index_select(1, at) if isinstance(slope, Tensor) else slope)
        z.index_add_(1, found.columns.index_select(0, at), gradient.to(z.dtype))
        on_listed = values.sum()
    kd, ce = sums.sum(dim=1)
    return kd, ce, on_listed


def _reversed(views: Views, found: Touched, temperature: float) -> Tensor:
    """(P, n, C) logits of the counterfactuals at the touched columns, with the roles reversed at the temperature."""
    logits = views.logits.index_select(1, found.columns).float() / temperature
    own = logits.index_select(0, views.own)
    moved = [
        found.role_maps[shift].reverse_(own, logits.index_select(0, other))
        for shift, other in zip(views.shifts, views.others, strict=True)
    ]
    return torch.stack(moved).mul_(temperature)


# -------------------------------------------------------------------------------------------------------- the kernel
# Logarithms are in base 2, as the card's own instructions have them: logits are taken there, and to the temperature, by
# one factor, and what leaves the kernel is taken back once a row. Numbers of a row are kept as (largest, log of the sum
# of exponentials of what is smaller by it): the difference of two large numbers would lose what a logarithm of a
# probability needs, and so would a product with the factor that is rounded before the largest is subtracted.
#
# A row is gone through in pieces of ``COLUMNS``: first those full of tokens (``tail`` is 0), then what is left. That
# alone has to ask where the row ends, which is an eighth to a fifth of the instructions of a piece.


@triton.jit
def _larger(a, b):
    """The larger of two numbers, and NaN where one of them is: a GPU's own maximum gives the other, and hides it."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _log_from_1_to_2(x):
    """The logarithm of 1 <= x <= 2, on a card by its own instruction: `tl.log2` takes 23 more.

    It may be off by 2^-22 there, which is how float32 rounds numbers between 4 and 8; 1.7e-7 in base e. A token's
    divergence is an expectation of two such logarithms at most, and is off by no more than their errors.
    """
    if _NVIDIA:
        return tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return tl.log2(x)


@triton.jit
def _log_add(a, b):
    """Log of 2^a + 2^b."""
    return _larger(a, b) + _log_from_1_to_2(1 + tl.exp2(-tl.abs(a - b)))


@triton.jit
def _merged(top, total, x, factor):
    """Running maxima and the sums of exponentials below them, (N / `_OF_THREAD`,) each, with (N,) numbers more.

    The columns that a thread reads at a time share one of each, which saves it from rescaling a sum for every column.
    What is no number may be missed by a maximum, but not by the sum.
    """
    x = tl.reshape(x, (top.shape[0], _OF_THREAD))
    most = tl.maximum(top, tl.max(x, 1) * factor)
    return most, total * tl.exp2(top - most) + tl.sum(tl.exp2(tl.fma(x, factor, -most[:, None])), 1)


@triton.jit
def _of_row(top, total):
    """Those of the whole row: the maximum, and the log of the sum."""
    most = tl.max(top, 0)
    return most, tl.log2(tl.sum(total * tl.exp2(top - most), 0))


@triton.jit
def _log_probability(x, factor, top, log_total):
    return tl.fma(x, factor, -top) - log_total


@triton.jit
def _loaded(row, columns, width, other, TAIL: tl.constexpr):
    """What a row has at some columns, of which those at the row's tail may be behind its end."""
    if TAIL:
        return tl.load(row + columns, mask=columns < width, other=other)
    else:
        return tl.load(row + columns)


@triton.jit
def _store(row, columns, width, vocab, x, TAIL: tl.constexpr):
    """Numbers into some columns of a row, and 0 where there is no token."""
    if TAIL:
        tl.store(row + columns, tl.where(columns < vocab, x, 0.0), mask=columns < width)
    else:
        tl.store(row + columns, x)


@triton.jit
def _logits(x, columns, vocab, TAIL: tl.constexpr):
    """None below the lowest, and that where there is no token."""
    x = _larger(x, _LOWEST)
    if TAIL:
        x = tl.where(columns < vocab, x, _LOWEST)
    return x


@triton.jit
def _teachers(row, moved, slots, columns, width, vocab, REVERSED: tl.constexpr, TAIL: tl.constexpr):
    """Logits of the teacher at some columns; ``moved`` holds those that the roles touch."""
    x = _loaded(row, columns, width, 0, TAIL).to(tl.float32)
    if REVERSED:
        slot = _loaded(slots, columns, width, -1, TAIL)
        x = tl.where(slot >= 0, tl.load(moved + slot, mask=slot >= 0, other=0), x)
    return _logits(x, columns, vocab, TAIL)


@triton.jit
def _students(row, columns, width, vocab, scale, cap, CAPPED: tl.constexpr, TAIL: tl.constexpr):
    """Logits of the student at some columns, and what a gradient is handed on times."""
    x = _loaded(row, columns, width, 0, TAIL).to(tl.float32) * scale
    slope = tl.zeros_like(x) + scale
    if CAPPED:
        share = 1 - 2 / (tl.exp2(x * (2 * _LOG2_E) / cap) + 1)  # tanh
        x, slope = cap * share, scale * (1 - share * share)
    return _logits(x, columns, vocab, TAIL), slope


@triton.jit
def _rows_of_views(views, own, others, moved, token, n, width, touched, OTHERS: tl.constexpr):
    """Where each of a token's views begins, its own text's first, and where their reversed logits do."""
    rows, reversed_rows = (views + tl.load(own + token).to(tl.int64) * width,), (moved,)
    for k in tl.static_range(OTHERS):
        place = k * n + token
        rows = rows + (views + tl.load(others + place).to(tl.int64) * width,)  # type: ignore[assignment]
        reversed_rows = reversed_rows + (moved + place.to(tl.int64) * touched,)  # type: ignore[assignment]
    return rows, reversed_rows


@triton.jit
def _view(teacher, k: tl.constexpr, columns, vocab, REVERSED: tl.constexpr, TAIL: tl.constexpr):
    """Logits of a token's view at some columns: of its own text (k = 0), or of the k-th of its counterfactuals."""
    rows, reversed_rows, slots, width, _factor, _log_number = teacher
    return _teachers(rows[k], reversed_rows[k], slots, columns, width, vocab, REVERSED and k > 0, TAIL)


@triton.jit
def _log_view(teacher, norms, k: tl.constexpr, columns, vocab, REVERSED: tl.constexpr, TAIL: tl.constexpr):
    """Its log-probabilities."""
    x = _view(teacher, k, columns, vocab, REVERSED, TAIL)
    return _log_probability(x, teacher[4], norms[2 * k], norms[2 * k + 1])


@triton.jit
def _norms(
    z, teacher, width, vocab, scale, cap, factor,
    VIEWS: tl.constexpr, CE: tl.constexpr, CAPPED: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Normalisers of the student at the temperature and at 1, and of all views: two numbers each, one after the other.

    All rows are read side by side, so that a load does not wait for the one before. Role reversal moves mass within a
    row and conserves its sum, so a view's normaliser is the same before it, where no touched column is looked up.
    """
    nothing = tl.zeros((COLUMNS // _OF_THREAD,), tl.float32)
    lowest = nothing + _FIRST_MAXIMUM
    student, student_at_one, views = (lowest, nothing), (lowest, nothing), (lowest, nothing) * VIEWS
    whole = vocab // COLUMNS * COLUMNS
    for tail in tl.static_range(2):
        for start in range(tail * whole, vocab if tail else whole, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            x, _slope = _students(z, columns, width, vocab, scale, cap, CAPPED, tail)
            student = _merged(student[0], student[1], x, factor)
            if CE:
                student_at_one = _merged(student_at_one[0], student_at_one[1], x, _LOG2_E)
            seen = ()
            for k in tl.static_range(VIEWS):
                x = _view(teacher, k, columns, vocab, False, tail)
                seen = seen + _merged(views[2 * k], views[2 * k + 1], x, factor)
            views = seen
    of_views = ()
    for k in tl.static_range(VIEWS):
        of_views = of_views + _of_row(views[2 * k], views[2 * k + 1])
    of_student = _of_row(student[0], student[1])
    at_one = _of_row(student_at_one[0], student_at_one[1]) if CE else of_student
    return of_student, at_one, of_views


@triton.jit
def _operation(
    teacher, norms, columns, vocab,
    OTHERS: tl.constexpr, OP: tl.constexpr, REVERSED: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """What the operation makes of all views, which after max and mean wants normalising; and the own view alone."""
    own = _log_view(teacher, norms, 0, columns, vocab, REVERSED, TAIL)
    result = own
    for k in tl.static_range(1, OTHERS + 1):
        other = _log_view(teacher, norms, k, columns, vocab, REVERSED, TAIL)
        if OP == "max":
            result = _larger(result, other)
        elif OP == "mean":
            result = result + other
        elif OP == "swap" and k == 1:
            result = other
        else:
            result = _log_add(result, other)
    if OP == "mean":
        result = result / (OTHERS + 1)
    elif OP == "expmean" or OP == "swap":
        result = result - teacher[5]
    return result, own


@triton.jit
def _norm_of_target(
    teacher, norms, vocab,
    OTHERS: tl.constexpr, OP: tl.constexpr, REVERSED: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    total = tl.zeros((COLUMNS // _OF_THREAD,), tl.float32)
    top = total + _FIRST_MAXIMUM
    whole = vocab // COLUMNS * COLUMNS
    for tail in tl.static_range(2):
        for start in range(tail * whole, vocab if tail else whole, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            x, _own = _operation(teacher, norms, columns, vocab, OTHERS, OP, REVERSED, tail)
            top, total = _merged(top, total, tl.where(columns < vocab, x, _LOWEST) if tail else x, 1.0)
    return _of_row(top, total)


@triton.jit
def _log_target(
    teacher, norms, columns, vocab, norm, strength,
    OTHERS: tl.constexpr, OP: tl.constexpr, REVERSED: tl.constexpr, MIXED: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    result, own = _operation(teacher, norms, columns, vocab, OTHERS, OP, REVERSED, TAIL)
    result = (result - norm[0]) - norm[1]
    if MIXED:
        result = _log_add(own + tl.log2(1 - strength), result + tl.log2(strength))
    return _larger(result, _LOWEST)


@triton.jit
def _divergence(log_p, log_q, beta, DIVERGENCE: tl.constexpr):
    """Its parts from target and student at each column, and the log-ratio that the gradient holds."""
    log_m = _log_add(log_p + tl.log2(beta), log_q + tl.log2(1 - beta)) if DIVERGENCE == "jsd" else log_p
    return tl.exp2(log_p) * (log_p - log_m), tl.exp2(log_q) * (log_q - log_m), log_q - log_m


@triton.jit
def _divergence_of_row(
    z, teacher, norm, norms, of_target, width, vocab, scale, cap, strength, beta,
    OTHERS: tl.constexpr, OP: tl.constexpr, DIVERGENCE: tl.constexpr, MIXED: tl.constexpr, CAPPED: tl.constexpr,
    REVERSED: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The sums of its parts from target and student."""
    from_target = tl.zeros((COLUMNS,), tl.float32)
    from_student = from_target
    whole = vocab // COLUMNS * COLUMNS
    for tail in tl.static_range(2):
        for start in range(tail * whole, vocab if tail else whole, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            x, _slope = _students(z, columns, width, vocab, scale, cap, CAPPED, tail)
            log_p = _log_target(teacher, norms, columns, vocab, of_target, strength, OTHERS, OP, REVERSED, MIXED, tail)
            log_q = _log_probability(x, teacher[4], norm[0], norm[1])
            mine, theirs, _ratio = _divergence(log_p, log_q, beta, DIVERGENCE)
            from_target, from_student = from_target + mine, from_student + theirs
    return tl.sum(from_target, 0), tl.sum(from_student, 0)


# Blocks have any number of tokens and begin anywhere in their chunk: one kernel for all of them, not one for each kind.
@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=["label", "own", "others"])
def _loss_of_row(
    z, label, views, own, others, slots, moved, target, sums,
    n, width, view_width, vocab, touched, factor, log_number, kd, ce, strength, beta, scale, cap,
    OTHERS: tl.constexpr, OP: tl.constexpr, DIVERGENCE: tl.constexpr, TARGET: tl.constexpr, KD: tl.constexpr,
    CE: tl.constexpr, MIXED: tl.constexpr, CAPPED: tl.constexpr, REVERSED: tl.constexpr, LISTED: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """See `block_loss`; each program has one token."""
    token = tl.program_id(0)
    lanes, whole = tl.arange(0, COLUMNS), vocab // COLUMNS * COLUMNS
    nothing = tl.zeros((COLUMNS,), tl.float32)
    z += token.to(tl.int64) * width
    rows, reversed_rows = _rows_of_views(views, own, others, moved, token, n, view_width, touched, OTHERS)
    teacher = (rows, reversed_rows, slots, view_width, factor, log_number)
    if CE:
        # Before all threads meet, which is in the normalisers: behind them another may have put its gradient there.
        at_label, _there = _students(z, tl.load(label + token) + tl.arange(0, 1), width, vocab, scale, cap, CAPPED, 1)
    norm, norm_at_one, norms = _norms(
        z, teacher, width, vocab, scale, cap, factor, OTHERS + 1 if TARGET else 0, CE, CAPPED, COLUMNS,
    )  # fmt: skip
    of_target, of_student, value = (0.0, 0.0), 0.0, nothing
    if CE:
        of_label = _log_probability(tl.sum(at_label, 0), _LOG2_E, norm_at_one[0], norm_at_one[1])
        tl.store(sums + n + token, -of_label * _LN_2)
    if TARGET and (OP == "max" or OP == "mean"):
        of_target = _norm_of_target(teacher, norms, vocab, OTHERS, OP, REVERSED, COLUMNS)
    if KD and DIVERGENCE != "forward_kl":
        target_part, of_student = _divergence_of_row(
            z, teacher, norm, norms, of_target, width, vocab, scale, cap, strength, beta,
            OTHERS, OP, DIVERGENCE, MIXED, CAPPED, REVERSED, COLUMNS,
        )  # fmt: skip
        share = 1 - beta if DIVERGENCE == "jsd" else 1.0
        tl.store(sums + token, ((1 - share) * target_part + share * of_student) * _LN_2)
        kd = kd * share * _LN_2  # the gradient is a multiple of log-ratios
    for tail in tl.static_range(2):
        for start in range(tail * whole, width if tail else whole, COLUMNS):
            columns = start + lanes
            x, slope = _students(z, columns, width, vocab, scale, cap, CAPPED, tail)
            gradient = nothing
            if TARGET:
                log_p = _log_target(
                    teacher, norms, columns, vocab, of_target, strength, OTHERS, OP, REVERSED, MIXED, tail
                )
                if LISTED:
                    slot = _loaded(slots, columns, view_width, -1, tail)
                    tl.store(target + token.to(tl.int64) * touched + slot, log_p * _LN_2, mask=slot >= 0)
                if KD:
                    log_q = _log_probability(x, factor, norm[0], norm[1])
                    if DIVERGENCE == "forward_kl":
                        value += tl.exp2(log_p) * (log_p - log_q)
                        gradient = kd * (tl.exp2(log_q) - tl.exp2(log_p))
                    else:
                        _mine, _theirs, ratio = _divergence(log_p, log_q, beta, DIVERGENCE)
                        gradient = kd * tl.exp2(log_q) * (ratio - of_student)
            if CE:
                hit = tl.where(columns == tl.load(label + token), 1.0, 0.0)
                gradient += ce * (tl.exp2(_log_probability(x, _LOG2_E, norm_at_one[0], norm_at_one[1])) - hit)
            _store(z, columns, width, vocab, gradient * slope, tail)
    if KD and DIVERGENCE == "forward_kl":
        tl.store(sums + token, tl.sum(value, 0) * _LN_2)
