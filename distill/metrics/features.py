"""Texts, and words in their contexts -> vectors of the frozen model, computed once for all the metrics that ask.

The vector of a text is the mean of the last hidden states (what the output head reads) over its tokens, without the
start token; the vector of a word in a context is the mean over the word's tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from distill.metrics.evaluation import Evaluation

MAX_TOKENS = 128  # Of a text, start token included: the same for every model whose context allows it.


def remembered(evaluation: Evaluation, key: Any, make: Callable[[], Any]) -> Any:
    """What `make` returns, kept with the evaluation, so that metrics that share it compute it once.

    The files of the benchmark data that it read count as read for each of these metrics.
    """
    kept = vars(evaluation).setdefault("_remembered", {})
    before = evaluation.data_read
    if key not in kept:
        evaluation.data_read = set()
        try:
            kept[key] = make(), evaluation.data_read
        finally:
            evaluation.data_read = before | evaluation.data_read
    made, files = kept[key]
    evaluation.data_read |= files
    return made


def max_tokens(evaluation: Evaluation) -> int:
    """Tokens of a text that are read, start token included: `MAX_TOKENS`, or the context where that is shorter."""
    return min(evaluation.context or MAX_TOKENS, MAX_TOKENS)


def text_features(evaluation: Evaluation, texts: Sequence[str], what: str) -> np.ndarray:
    """The vectors of texts; (N, D) float64. Of a text longer than `max_tokens` the beginning is read.

    Args:
        evaluation: Whose model.
        texts: N texts. One without tokens has the vector of the start token.
        what: Name of the pass, for progress.
    """
    known: dict[str, np.ndarray] = remembered(evaluation, "text features", dict)
    new = list(dict.fromkeys(text for text in texts if text not in known))
    sequences = [evaluation.encode(text)[0][: max_tokens(evaluation)] for text in new]
    vectors = _means(evaluation, sequences, [(1, len(ids)) for ids in sequences], what)
    known.update(zip(new, vectors, strict=True))
    return np.array([known[text] for text in texts], dtype=np.float64)


def word_features(evaluation: Evaluation, contexts: Sequence[tuple[str, int]], what: str) -> np.ndarray:
    """The vectors of words that end their contexts; (N, D) float64.

    Args:
        evaluation: Whose model.
        contexts: (text up to the end of the word, character at which the word starts). A causal model's states know
            nothing of what follows. Where the text is longer than `max_tokens`, its end is read.
        what: Name of the pass, for progress.
    """
    sequences, spans = [], []
    for text, start in contexts:
        ids, offsets = evaluation.encode(text)
        # The token that begins before the word and ends in it ("‑" of a compound, a joined space) belongs to it.
        word = next((i for i, (_, end) in enumerate(offsets) if end > start), len(offsets) - 1)
        length = min(len(ids), max_tokens(evaluation))
        sequences.append([ids[0], *ids[len(ids) - length + 1 :]])
        spans.append((max(1, length - (len(offsets) - word)), length))
    return np.array(_means(evaluation, sequences, spans, what), dtype=np.float64)


def _means(
    evaluation: Evaluation, sequences: Sequence[Sequence[int]], spans: Sequence[tuple[int, int]], what: str
) -> list[np.ndarray]:
    """Mean last hidden state over [first, last) of each sequence, of the start token where that is empty; N of (D,)."""
    found: list[Any] = [None] * len(sequences)
    done, report = 0, evaluation.report(what)
    for batch in evaluation.batches([len(ids) for ids in sequences]):
        states = evaluation.hidden_states([sequences[i] for i in batch]).float()
        counted = [slice(*(spans[i] if spans[i][0] < spans[i][1] else (0, 1))) for i in batch]
        means = torch.stack([of_row[span].double().mean(dim=0) for of_row, span in zip(states, counted, strict=True)])
        for i, mean in zip(batch, means.float().cpu().numpy(), strict=True):
            found[i] = mean
        done += len(batch)
        report(done, len(sequences))
    return found
