"""Continuations behind one context, as the answers to a question are: the context is read once for all of them.

contexts(...)       neighbours among token sequences that begin alike
batches(...)        those whose contexts are equally long, so that nothing is padded before a continuation
can_share(...)      whether a model predicts alike from the keys and values that it keeps of a context
states_behind(...)  what the output head reads, for each token of the continuations
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from distill.models.architecture import backbone, evaluating, own_context, turns_otherwise_from, without_warnings
from distill.models.matrix_rate import count_forward
from distill.models.probe import behaviour, made_up_ids, near
from distill.models.wide_decoding import cache_argument


class Shared(NamedTuple):
    """A context and what stands behind it.

    Args:
        places: Which sequences these are.
        context: Their common beginning, at least one token.
        behind: The rest of each, at least one token.
    """

    places: list[int]
    context: list[int]
    behind: list[list[int]]


def contexts(sequences: Sequence[list[int]], asked: Sequence[int]) -> tuple[list[Shared], list[int]]:
    """Runs of neighbours whose tokens before those that are asked for are the same ones, and the places of all others.

    Of a run that is read once, fewer tokens are read than are spared: sentences that have the start token alone in
    common are others.

    Args:
        sequences: Token ids.
        asked: Of how many of its last tokens each one's log-probability is asked for.
    """
    runs: list[Shared] = []
    for place, (ids, number) in enumerate(zip(sequences, asked, strict=True)):
        context, behind = ids[: len(ids) - number], ids[len(ids) - number :]
        if runs and context and behind and runs[-1].behind[0] and runs[-1].context == context:
            runs[-1].places.append(place)
            runs[-1].behind.append(behind)
        else:
            runs.append(Shared([place], context, [behind]))
    shared = [run for run in runs if len(run.context) * (len(run.places) - 1) > sum(map(len, run.behind))]
    kept = {place for run in shared for place in run.places}
    return shared, [place for place in range(len(sequences)) if place not in kept]


def batches(shared: Sequence[Shared], places: int, rows: int) -> Iterator[list[Shared]]:
    """Groups of contexts of one length, the longest first.

    Args:
        shared: As `contexts` gives them.
        places: How many tokens there may be in a batch, padding included.
        rows: And how many continuations.
    """
    by_length: dict[int, list[Shared]] = {}
    for one in sorted(shared, key=lambda one: -len(one.context)):
        by_length.setdefault(len(one.context), []).append(one)
    for length, of_length in by_length.items():
        longest = max(len(behind) for one in of_length for behind in one.behind)
        room = max(1, min(rows, places // (length + longest)))
        batch: list[Shared] = []
        for part in (part for one in of_length for part in _parts(one, room)):
            if batch and sum(len(one.places) for one in batch) + len(part.places) > room:
                yield batch
                batch = []
            batch.append(part)
        yield batch


def _parts(one: Shared, room: int) -> Iterator[Shared]:
    """A context with at most so many of its continuations at a time."""
    for first in range(0, len(one.places), room):
        yield Shared(one.places[first : first + room], one.context, one.behind[first : first + room])


@torch.no_grad()
def can_share(model: Any) -> bool:
    """Whether what a model keeps of a context gives the states that it has when it reads all at once: tried on a few
    tokens. Not of one that keeps anything but keys and values, or those of the last few alone, nor of one that turns
    the positions of a context otherwise when more stands behind it.
    """
    if not isinstance(model, PreTrainedModel) or cache_argument(backbone(model)) is None:
        return False
    if turns_otherwise_from(model.config) is not None:
        return False
    try:
        if not behaviour(model).caches or not all(type(layer) is DynamicLayer for layer in _cache(model).layers):
            return False
        before = max(1, min(4, (own_context(model.config) or 16) // 2))
        rows = made_up_ids(model, 3, before + 3).tolist()
        some = [Shared([], row[:before], [row[before:], rows[0][before : before + 2]]) for row in rows]
        with without_warnings():
            found = states_behind(model, some)
            alone = [_read(model, one.context + behind)[before - 1 : -1] for one in some for behind in one.behind]
    except Exception:  # models fail in many ways
        return False
    return near(found, torch.cat(alone))


def states_behind(model: PreTrainedModel, batch: Sequence[Shared]) -> Tensor:
    """The states from which the tokens behind the contexts are predicted.

    Args:
        model: One that `can_share`.
        batch: Contexts of one length.

    Returns:
        (N, D), N the tokens behind all contexts, in their order.
    """
    body, device = backbone(model), model.device
    ids = torch.tensor([one.context for one in batch], device=device)
    rows = [behind for one in batch for behind in one.behind]
    owner = torch.tensor([number for number, one in enumerate(batch) for _ in one.behind], device=device)
    longest = max(map(len, rows)) - 1
    count_forward(model, ids.numel() + sum(len(row) - 1 for row in rows), ids.shape[1] + longest)
    cache = _cache(model)
    kept: dict[str, Any] = {str(cache_argument(body)): cache, "use_cache": True}
    with evaluating(model), torch.inference_mode():
        first = body(input_ids=ids, attention_mask=torch.ones_like(ids), **kept).last_hidden_state[owner, -1:]
        if not longest:
            return first[:, 0]
        cache.batch_select_indices(owner)
        more = torch.zeros(len(rows), longest, dtype=torch.long, device=device)
        mask = torch.ones(len(rows), ids.shape[1] + longest, dtype=torch.long, device=device)
        for row, behind in enumerate(rows):
            more[row, : len(behind) - 1] = torch.tensor(behind[:-1])
            mask[row, ids.shape[1] + len(behind) - 1 :] = 0
        rest = body(input_ids=more, attention_mask=mask, **kept).last_hidden_state
    states = torch.cat([first, rest], dim=1)
    numbers = [(row, place) for row, behind in enumerate(rows) for place in range(len(behind))]
    return states[[row for row, _ in numbers], [place for _, place in numbers]]


def targets(batch: Sequence[Shared]) -> list[int]:
    """The tokens behind the contexts, in the order of `states_behind`."""
    return list(chain.from_iterable(behind for one in batch for behind in one.behind))


def _cache(model: PreTrainedModel) -> DynamicCache:
    return DynamicCache(config=model.config)


def _read(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """(T, D) states of one text."""
    given = torch.tensor([ids], device=model.device)
    with evaluating(model), torch.inference_mode():
        return backbone(model)(input_ids=given, attention_mask=torch.ones_like(given)).last_hidden_state[0]
