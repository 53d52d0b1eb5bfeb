"""Equivariance gap: does the model treat a text and its counterfactual alike?"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from distill.metrics import enough
from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Card, Measurement, ratio
from distill.objective.logit_ops import RoleMap
from distill.text.alignment import align

READS_DOCUMENTS = True

CARD = Card(
    name="equivariance_gap",
    label="equivariance gap",
    meaning="Whether predictions change with the group of the people in a text beyond the words that name the group.",
    formula="mean over aligned positions of KL(P(.|x) || R P(.|c)) in nats, x a held-out document with listed words, c "
    "its counterfactual, R the role map; more than two groups: over all counterfactuals",
    ideal=0.0,
    direction="lower is fairer",
    source="this project",
    limits="Depends on the word list and the rules for pronouns; a model that ignores its context has a small gap too: "
    "read it beside perplexity.",
)


class _Pair(NamedTuple):
    """A document and its counterfactual: `positions` is (P, 2), aligned positions in the two token sequences."""

    document: int
    shift: int
    tokens: list[int]
    counterfactual: list[int]
    positions: np.ndarray


def measure(evaluation: base.Evaluation) -> Measurement:
    """Summed divergence and aligned positions of each document; unit: document. Without listed words both are 0.

    Documents are read up to the context.
    """
    units = np.zeros((len(evaluation.documents), 2))
    pairs = [pair for i, document in enumerate(evaluation.documents) for pair in _pairs(evaluation, i, document)]
    done, report = 0, evaluation.report("text and counterfactual")
    # Twice the longer side: both sides of a pair are in the batch.
    for batch in evaluation.batches([2 * max(len(pair.tokens), len(pair.counterfactual)) for pair in pairs]):
        chosen = [pairs[i] for i in batch]
        sides = [pair.tokens for pair in chosen], [pair.counterfactual for pair in chosen]
        places = [pair.positions[:, side].tolist() for side in (0, 1) for pair in chosen]
        states = evaluation.states_at([*sides[0], *sides[1]], places).split([len(of_side) for of_side in places])
        gaps = [
            _divergence(evaluation, own, other, evaluation.role_maps[pair.shift - 1])
            for pair, own, other in zip(chosen, states[: len(chosen)], states[len(chosen) :], strict=True)
        ]
        for pair, gap in zip(chosen, torch.stack(gaps).tolist(), strict=True):
            units[pair.document] += gap, len(pair.positions)
        done += len(batch)
        report(done, len(pairs))
    tokens = sum(len(pair.tokens) for pair in pairs)
    aligned = int(units[:, 1].sum())
    edited = int((units[:, 1] > 0).sum())
    return Measurement(
        units,
        ratio,
        unit="document",
        n=aligned,
        counted="aligned positions",
        undetected=1 - edited / len(units) if len(units) else None,
        details={
            "aligned_share": aligned / tokens if tokens else None,
            "wordlist": evaluation.wordlist.sha256,
            "seed": evaluation.seed,
        },
        ruler=evaluation.ruler("tokenizer", "context", "conversations"),
        too_little=enough.few(edited, enough.EDITED_DOCUMENTS, "documents hold a listed word", len(units)),
    )


def _pairs(evaluation: base.Evaluation, number: int, document: str) -> Iterator[_Pair]:
    context = evaluation.context
    tokens, offsets = evaluation.encode(document)
    if context and len(tokens) > context:
        document = document[: offsets[context - 2][1]]
        tokens, offsets = tokens[:context], offsets[: context - 1]
    for shift, edited in enumerate(evaluation.swapper.counterfactuals(document), start=1):
        if not edited.spans:
            continue
        counterfactual, edited_offsets = evaluation.encode(edited.text)
        positions = align(offsets, edited_offsets, edited.spans) + 1  # Behind the start token.
        # The start token stands at boundary 0 of both.
        positions = np.concatenate([np.zeros((1, 2), dtype=np.int64), positions])
        if context:
            counterfactual = counterfactual[:context]
            positions = positions[positions[:, 1] < context]
        yield _Pair(number, shift, tokens, counterfactual, positions)


@torch.inference_mode()
def _divergence(evaluation: base.Evaluation, own: Tensor, other: Tensor, role_map: RoleMap) -> Tensor:
    """Sum over places of KL(own || R other), from the (N, D) states of both; float64, on their device."""
    total = torch.zeros((), dtype=torch.float64, device=own.device)
    for piece in evaluation.pieces(len(own)):
        ours, theirs = (evaluation.logits(side[piece]).float().log_softmax(dim=-1) for side in (own, other))
        gap = ours.exp() * (ours - role_map.reverse_(ours, theirs))
        # A token without any probability contributes nothing, whatever the other side says.
        total += gap.masked_fill_(ours.isneginf(), 0.0).sum(dtype=torch.float64)
    return total


class EquivarianceGap(base.ModelMetric):
    """`evaluate` module of the equivariance gap."""
