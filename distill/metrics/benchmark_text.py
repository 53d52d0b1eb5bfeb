"""Texts of a benchmark and their likelihood under a model."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from distill.metrics.evaluation import Evaluation


class Likelihood(NamedTuple):
    """How likely texts are, one entry a text.

    Args:
        total: (N,) sum of the token log-probabilities, nats.
        tokens: (N,) tokens in it.
        cut: How many texts did not fit into the model's context, and lost their beginning.
    """

    total: np.ndarray
    tokens: np.ndarray
    cut: int

    @property
    def mean(self) -> np.ndarray:
        """(N,) log-probability of a token, nats; NaN for a text without tokens."""
        with np.errstate(invalid="ignore"):
            return self.total / self.tokens


def likelihood(evaluation: Evaluation, texts: Sequence[tuple[str, str]], what: str) -> Likelihood:
    """log P(continuation | start token, context) of (context, continuation) pairs, joined as they are.

    Tokens are those of the joined text; one that reaches across the border belongs to the continuation. With an empty
    context it is the likelihood of the whole text after the start token.

    Args:
        evaluation: The model.
        texts: The pairs; a space between the two is the caller's.
        what: Name of the pass, for progress.
    """
    # Not one by one with `evaluation.encode`, which takes twice as long.
    encoded = evaluation.tokenizer(
        [context + continuation for context, continuation in texts],
        add_special_tokens=False, return_offsets_mapping=True, verbose=False,
    )  # fmt: skip
    sequences = [[evaluation.start, *ids] for ids in encoded["input_ids"]]
    firsts = []
    for (context, _), offsets in zip(texts, encoded["offset_mapping"], strict=True):
        inside = (i for i, (_, end) in enumerate(offsets) if end > len(context))
        firsts.append(next(inside, len(offsets)) if context else 0)
    log_probs = evaluation.token_log_probs(sequences, what)
    kept = [of_text[first:] for of_text, first in zip(log_probs, firsts, strict=True)]
    return Likelihood(
        np.array([of_text.sum() for of_text in kept]),
        np.array([len(of_text) for of_text in kept], dtype=np.int64),
        sum(len(ids) > evaluation.context for ids in sequences) if evaluation.context else 0,
    )
