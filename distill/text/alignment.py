"""Two tokenisations of a text and its counterfactual, and the edit spans -> which positions predict the same thing.

Position i of the original x predicts what follows token i. It is aligned with position j of the counterfactual c when
both tokens end at the same boundary: a boundary is the number of characters before it, and the edit spans map the
boundaries of c to those of x. Boundaries strictly inside an edited word have no partner.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from distill.text.counterfactual import Counterfactual, Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_BOUNDARY = -1  # a token that ends inside an edit
NO_PARTNER = -1  # a position without an aligned one in another view


def token_ends(offsets: Sequence[tuple[int, int]]) -> np.ndarray:
    """The character boundary at which each token ends, from the tokenizer's offset mapping.

    offsets: T pairs (start, end) in characters, half-open.
    Returns (T,) int64; -1 for a token that ends inside a character (a byte-level piece that a later piece completes),
    for a token whose boundary a later one repeats with an empty offset, and for a special token after the text's start
    whose offset is the placeholder (0, 0). The boundaries that are left rise strictly.
    """
    starts, ends = _columns(offsets, 2)
    placeholder = ends < np.maximum.accumulate(ends) if len(ends) else np.zeros(0, bool)
    beyond = np.iinfo(np.int64).max
    # What the later tokens begin and end at, at the least: a boundary is one only if they all lie beyond it.
    next_start = _minimum_after(np.where(placeholder, beyond, starts))
    next_end = _minimum_after(np.where(placeholder, beyond, ends))
    return np.where(placeholder | (next_start < ends) | (next_end <= ends), NO_BOUNDARY, ends)


def to_original(ends: np.ndarray, spans: Sequence[Span]) -> np.ndarray:
    """Boundaries of the counterfactual -> boundaries of the original; (T,) -> (T,).

    -1 strictly inside an edited word; -1 stays -1.
    """
    starts, stops, cf_starts, cf_stops = _columns(spans, 4)
    return _map(ends, cf_starts, cf_stops, starts, stops)


def from_original(ends: np.ndarray, spans: Sequence[Span]) -> np.ndarray:
    """Boundaries of the original -> boundaries of the counterfactual; (T,) -> (T,). The inverse of `to_original`."""
    starts, stops, cf_starts, cf_stops = _columns(spans, 4)
    return _map(ends, starts, stops, cf_starts, cf_stops)


def mask_inside(ends: np.ndarray, spans: Sequence[Span]) -> np.ndarray:
    """Boundaries of the original, (T,) -> (T,), with -1 for those strictly inside an edited word."""
    starts, stops, _, _ = _columns(spans, 4)
    return _map(ends, starts, stops, starts, stops)


def align(
    x_offsets: Sequence[tuple[int, int]], c_offsets: Sequence[tuple[int, int]], spans: Sequence[Span]
) -> np.ndarray:
    """Aligned positions of two tokenisations; (N, 2) int64 pairs (i, j), rising in both columns."""
    x_ends = mask_inside(token_ends(x_offsets), spans)
    c_ends = to_original(token_ends(c_offsets), spans)
    i, j = np.flatnonzero(x_ends != NO_BOUNDARY), np.flatnonzero(c_ends != NO_BOUNDARY)
    _, at_i, at_j = np.intersect1d(x_ends[i], c_ends[j], assume_unique=True, return_indices=True)
    return np.stack([i[at_i], j[at_j]], axis=1).astype(np.int64)


def _columns(table: Sequence[tuple[int, ...]], width: int) -> np.ndarray:
    """A list of tuples -> (width, len(table)) int64, empty lists included."""
    return np.asarray(table, dtype=np.int64).reshape(-1, width).T


def _minimum_after(values: np.ndarray) -> np.ndarray:
    """For every position the minimum over all later ones; int64's maximum at the last."""
    minimum = np.full(len(values), np.iinfo(np.int64).max)
    minimum[:-1] = np.minimum.accumulate(values[:0:-1])[::-1]
    return minimum


def _map(
    ends: np.ndarray, starts: np.ndarray, stops: np.ndarray, new_starts: np.ndarray, new_stops: np.ndarray
) -> np.ndarray:
    """Boundaries of one text -> boundaries of the other; -1 strictly inside a span [start, stop)."""
    ends = np.asarray(ends, dtype=np.int64)
    if len(starts) == 0:
        return ends.copy()
    passed = np.searchsorted(stops, ends, side="right")  # spans that lie wholly before the boundary
    inside = starts[np.minimum(passed, len(starts) - 1)] < ends
    inside &= passed < len(starts)
    shift = np.concatenate([[0], new_stops - stops])[passed]
    return np.where((ends < 0) | inside, NO_BOUNDARY, ends + shift)


def encode_marked(
    text: str,
    tokenizer: "PreTrainedTokenizerBase",
    counterfactuals: Sequence[Counterfactual],
    stretches: Sequence[tuple[int, int]],
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Tokens and boundaries of a document and of its counterfactuals; of the document alone, if they hold no edit.

    Args:
        text: The document.
        tokenizer: A fast tokenizer.
        counterfactuals: Of the document.
        stretches: [start, end) in the document, whose ends no edit covers.

    Returns:
        Per view (L_v,) token ids without start token, (L_v,) boundaries in x, and (L_v,) booleans: whether the token
        ends in a stretch, or at its end.
    """
    if not any(c.spans for c in counterfactuals):
        counterfactuals = ()
    views = (Counterfactual(text, ()), *counterfactuals)
    encoded = [_encode(tokenizer, view.text) for view in views]
    boundaries = [token_ends(encoded[0][1])]
    for counterfactual, (_, offsets) in zip(counterfactuals, encoded[1:], strict=True):
        boundaries[0] = mask_inside(boundaries[0], counterfactual.spans)
        boundaries.append(to_original(token_ends(offsets), counterfactual.spans))
    limits = np.asarray(stretches, dtype=np.int64).ravel()
    # An odd number of limits lies before what ends in a stretch.
    marked = [
        np.searchsorted(from_original(limits, view.spans), _columns(offsets, 2)[1]) % 2 == 1
        for view, (_, offsets) in zip(views, encoded, strict=True)
    ]
    return [ids for ids, _ in encoded], [bounds.astype(np.int32) for bounds in boundaries], marked


def _encode(tokenizer: "PreTrainedTokenizerBase", text: str) -> tuple[np.ndarray, list[tuple[int, int]]]:
    encoding = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    return np.asarray(encoding["input_ids"], dtype=np.int32), encoding["offset_mapping"]


def partner_positions(boundaries: np.ndarray) -> np.ndarray:
    """Where each position of each view finds its aligned position in the others.

    Args:
        boundaries: (V, T) boundaries of x, -1 for none.

    Returns:
        (V, V - 1, T): entry [v, s - 1, i] is the position in view (v + s) mod V, or -1.
    """
    views, length = boundaries.shape
    partners = np.full((views, views - 1, length), NO_PARTNER, dtype=np.int64)
    # Boundaries count from their document's beginning, which may lie millions of characters before: their ranks do not.
    distinct, ranks = np.unique(boundaries, return_inverse=True)
    ranks = ranks.reshape(boundaries.shape)
    places = np.full((views, len(distinct)), NO_PARTNER, dtype=np.int64)
    for view in range(views):
        aligned = np.flatnonzero(boundaries[view] >= 0)
        places[view, ranks[view, aligned]] = aligned
    for view in range(views):
        aligned = np.flatnonzero(boundaries[view] >= 0)
        for shift in range(1, views):
            partners[view, shift - 1, aligned] = places[(view + shift) % views, ranks[view, aligned]]
    return partners
