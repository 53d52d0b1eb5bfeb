"""How likely a model finds every code behind a beginning: exactly, by a tree of the codes' tokens.

Codes share their first tokens, and so does what the model computes for them: a level of the tree is one pass over its
nodes, each behind the cache of its parent. Four digits that are four tokens take 1,111 positions instead of 40,000 and
more behind 10,000 beginnings.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from distill.metrics.evaluation import Evaluation, NotMeasured
from distill.models.architecture import backbone, evaluating
from distill.models.probe import behaviour
from distill.models.wide_decoding import cache_argument

_NODES = 256  # of one level, whose caches are held at one time
_END = -1  # behind the last token of a code


@dataclass(frozen=True)
class CodeTree:
    """All codes of some digits behind a beginning, in order: code i is the number i, with zeros before it.

    prefix: tokens that all of them begin with, the start token first; in a short context the last of them.
    tokens: (N, L) the rest of each, `_END` behind its last.
    """

    prefix: list[int]
    tokens: np.ndarray


def code_tree(evaluation: Evaluation, beginning: str, digits: int) -> CodeTree:
    """The codes of so many digits behind a text, as tokens of the model's tokenizer.

    Raises:
        NotMeasured: the context holds no token before the codes.
    """
    texts = [f"{beginning}{code:0{digits}d}" for code in range(10**digits)]
    encoded = evaluation.tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )["input_ids"]
    tokens = np.full((len(texts), max(map(len, encoded))), _END)
    for row, ids in zip(tokens, encoded, strict=True):
        row[: len(ids)] = ids
    differ = (tokens != tokens[0]).any(axis=0)
    shared = int(differ.argmax())
    prefix, room = [evaluation.start, *tokens[0, :shared].tolist()], evaluation.context
    if room is not None and (room := room - (tokens.shape[1] - shared)) < 1:
        raise NotMeasured(f"the context, {evaluation.context} tokens, is not longer than a code of {digits} digits")
    return CodeTree(prefix if room is None else prefix[-room:], tokens[:, shared:])


def code_log_probs(evaluation: Evaluation, tree: CodeTree) -> np.ndarray:
    """(N, L) log P of each token of each code behind all before it, in nats; 0 behind the last."""
    if not _shares_caches(evaluation, tree.prefix):
        return _one_by_one(evaluation, tree)
    found = np.zeros(tree.tokens.shape)
    order = np.lexsort(tree.tokens.T[::-1])  # codes of one node stand together
    for rows in _chunks(tree.tokens[order]):
        chosen = order[rows]
        found[chosen] = _walk(evaluation, tree.prefix, tree.tokens[chosen])
    return found


def best_first(tokens: np.ndarray, log_probs: np.ndarray) -> tuple[int, int]:
    """The code that an attacker finds who always asks the model about the likeliest beginning so far.

    The search of a model that he can run but not read otherwise; it ends at the likeliest code of all, and costs him
    one call of the model for each beginning that he asks about.

    Args:
        tokens: (N, L) as in `CodeTree`.
        log_probs: (N, L) of `code_log_probs`.

    Returns:
        The number of the code, and how often the model was called.
    """
    children: dict[tuple[int, ...], dict[int, float]] = defaultdict(dict)
    whole = {}
    for number, (row, of_row) in enumerate(zip(tokens.tolist(), log_probs.tolist(), strict=True)):
        length = row.index(_END) if _END in row else len(row)
        for depth in range(length):
            children[tuple(row[:depth])][row[depth]] = of_row[depth]
        whole[tuple(row[:length])] = number
    open_ones: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    calls = 0
    while True:
        cost, beginning = heapq.heappop(open_ones)
        if beginning in whole:
            return whole[beginning], calls
        calls += 1
        for token, log_prob in children[beginning].items():
            heapq.heappush(open_ones, (cost - log_prob, (*beginning, token)))


def _shares_caches(evaluation: Evaluation, prefix: Sequence[int]) -> bool:
    """Whether the model has a cache that is right, and that is keys and values, so that rows can be handed on."""
    model = evaluation.model
    if not (isinstance(model, PreTrainedModel) and evaluation.projects and behaviour(model).caches):
        return False
    body = backbone(model)
    if (name := cache_argument(body)) is None:
        return False
    with evaluating(model), torch.inference_mode():
        output = body(input_ids=torch.tensor([list(prefix)], device=model.device), use_cache=True)
    cache = output.get(name)
    return isinstance(cache, DynamicCache) and all(isinstance(layer, DynamicLayer) for layer in cache.layers)


def _one_by_one(evaluation: Evaluation, tree: CodeTree) -> np.ndarray:
    """The same by reading every code behind the whole beginning."""
    lengths = (tree.tokens != _END).sum(axis=1)
    sequences = [[*tree.prefix, *row[:length].tolist()] for row, length in zip(tree.tokens, lengths, strict=True)]
    found = np.zeros(tree.tokens.shape)
    for row, (length, of_sequence) in enumerate(
        zip(lengths, evaluation.token_log_probs(sequences, "canaries"), strict=True)
    ):
        found[row, :length] = of_sequence[len(of_sequence) - length :]
    return found


def _chunks(tokens: np.ndarray) -> Iterator[slice]:
    """Runs of sorted codes whose widest level has no more than `_NODES` nodes that branch."""
    branches = len(np.unique(tokens[:, :-1], axis=0))
    size = max(1, len(tokens) * _NODES // max(_NODES, branches))
    return (slice(first, first + size) for first in range(0, len(tokens), size))


def _walk(evaluation: Evaluation, prefix: Sequence[int], tokens: np.ndarray) -> np.ndarray:
    """(N, L) log-probabilities of some codes: level by level, a row of the batch a node."""
    model, found = evaluation.model, np.zeros(tokens.shape)
    device = model.device
    body = backbone(model)
    named = str(cache_argument(body))
    cache, node_of = None, np.zeros(len(tokens), dtype=np.int64)  # of each code, in the level before
    with evaluating(model), torch.inference_mode():
        for depth in range(tokens.shape[1]):
            reach = np.flatnonzero(tokens[:, depth] != _END)
            if not len(reach):  # only codes of other chunks are as long
                break
            first, inverse = _nodes(tokens[reach, :depth])
            if cache is None:
                ids = torch.tensor([list(prefix)], device=device)
            else:
                cache.batch_select_indices(torch.from_numpy(node_of[reach[first]]).to(device))
                ids = torch.from_numpy(tokens[reach[first], depth - 1, None]).to(device)
            output = body(input_ids=ids, use_cache=True, **{named: cache})
            cache = output[named]
            wanted = torch.from_numpy(tokens[reach, depth]).to(device)
            found[reach, depth] = _log_probs(evaluation, output.last_hidden_state[:, -1], inverse, wanted)
            node_of = np.zeros(len(tokens), dtype=np.int64)
            node_of[reach] = inverse
    return found


def _nodes(beginnings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of (N, depth) beginnings of codes: a row that holds each different one, and for each row which one it holds."""
    if not beginnings.shape[1]:  # at the root, of which numpy makes nothing
        return np.zeros(1, dtype=np.int64), np.zeros(len(beginnings), dtype=np.int64)
    _, first, inverse = np.unique(beginnings, axis=0, return_index=True, return_inverse=True)
    return first, inverse.reshape(-1)


def _log_probs(evaluation: Evaluation, states: Tensor, node_of: np.ndarray, wanted: Tensor) -> np.ndarray:
    """(N,) log P of a token behind the node that it hangs on, from (U, D) states of the nodes."""
    found = np.zeros(len(node_of))
    for piece in evaluation.pieces(len(states)):
        logits = evaluation.logits(states[piece]).float()
        mine = np.flatnonzero((node_of >= piece.start) & (node_of < piece.stop))
        rows = torch.from_numpy(node_of[mine] - piece.start).to(logits.device)
        of_tokens = logits[rows, wanted[torch.from_numpy(mine).to(wanted.device)]] - logits.logsumexp(dim=-1)[rows]
        found[mine] = of_tokens.double().cpu().numpy()
    return found
