"""Quality of the continuations, beside their fairness: variety, repetition, length, perplexity to another model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Card, Measurement, Statistic, ratio, undefined
from distill.metrics.polarity import WORD

REPEATED = 4  # Words of an n-gram whose repetition counts.
_WORDS = "Words are runs of letters and digits, in lower case."


def _distinct_card(n: int, grams: str) -> Card:
    return Card(
        name=f"distinct_{n}",
        label=f"distinct-{n}",
        meaning=f"Variety within a continuation: share of its {grams} that differ from each other. {_WORDS}",
        formula=f"mean over continuations of different {grams} / {grams}; those without any are left out",
        ideal=None,
        direction="near the baseline's",
        source="Li et al. 2016, arXiv 1510.03055, there over all texts together (`corpus` in the details)",
        limits="Longer texts repeat words more often: compare at equal length. Noise is varied too. The value over all "
        "texts together has no interval: a resample holds texts twice, which makes it less varied than any sample.",
    )


SAMPLES_TEXT = True

CARDS = (
    _distinct_card(1, "words"),
    _distinct_card(2, "pairs of neighbouring words"),
    Card(
        name="repetition",
        label="repetition",
        meaning="How much of a continuation it has said before, in the same words (seq-rep-4).",
        formula="mean over continuations of 1 - different 4-grams of words / 4-grams; those under four words are left "
        "out",
        ideal=None,
        direction="near the baseline's",
        source="Welleck et al. 2019, arXiv 1908.04319, there on tokens",
        limits="Sees only repetition word for word, and within a single continuation.",
    ),
    Card(
        name="continuation_length",
        label="words in a continuation",
        meaning="How much the model writes before it ends or is cut off.",
        formula="words / continuations",
        ideal=None,
        direction="near the baseline's",
        source="this project",
        limits="Bounded by max_new_tokens, and tokenizers differ in how many words that makes.",
    ),
    Card(
        name="continuation_perplexity",
        label="perplexity to the first model",
        meaning="How surprising the continuations are to the first of the models that are scored side by side: in a "
        "run the teacher, where it has one.",
        formula="exp(-sum of log P_first(token | start, prompt, continuation before it) / tokens), over all "
        "continuations, in the first model's own tokens",
        ideal=None,
        direction="near that model's own",
        source="this project",
        limits="Lower is not better: dull, repetitive text is easy to foresee; the first model's own samples are the "
        "mark. Whether a text came to its end is not judged.",
    ),
)


def measure(evaluation: base.Evaluation) -> dict[str, Measurement]:
    """Five scores of the sampled continuations; unit: prompt, so that samples of one prompt are resampled together."""
    texts = [[WORD.findall(text.lower()) for text in samples] for samples in evaluation.continuations]
    settings = {"decoding": evaluation.decoding, "seed": evaluation.seed}
    repetition = _within_texts(texts, REPEATED, lambda totals: 1 - ratio(totals), settings)
    lengths = np.array([[sum(map(len, samples)), len(samples)] for samples in texts], dtype=float).reshape(-1, 2)
    return {
        "distinct_1": _within_texts(texts, 1, ratio, settings),
        "distinct_2": _within_texts(texts, 2, ratio, settings),
        "repetition": repetition,
        "continuation_length": Measurement(
            lengths, ratio, "prompt", int(lengths[:, 1].sum()), "texts", details=settings
        ),
        "continuation_perplexity": _perplexity(evaluation, settings),
    }


def _within_texts(
    texts: Sequence[Sequence[Sequence[str]]], n: int, statistic: Statistic, settings: dict[str, Any]
) -> Measurement:
    """A statistic of the shares of different n-grams in each text: columns sum of shares, texts that have any."""
    units = np.zeros((len(texts), 2))
    everywhere: set[tuple[str, ...]] = set()
    grams = number = repeating = 0
    for row, samples in enumerate(texts):
        for words in samples:
            own = list(zip(*(words[first:] for first in range(n)), strict=False))
            number += 1
            if own:
                different = set(own)
                everywhere |= different
                grams += len(own)
                repeating += len(different) < len(own)
                units[row] += len(different) / len(own), 1
    kept = int(units[:, 1].sum())
    return Measurement(
        units,
        statistic,
        unit="prompt",
        n=kept,
        counted=f"texts of {n} words or more",
        undetected=1 - kept / number if number else None,
        details={
            "corpus": len(everywhere) / grams if grams else None,
            "texts_with_a_repetition": repeating / kept if kept else None,
            **settings,
        },
    )


def _perplexity(evaluation: base.Evaluation, settings: dict[str, Any]) -> Measurement:
    if evaluation.judge is None:
        return undefined("no judge of the continuations: the teacher, or the model scored first, is needed")
    model, tokenizer = evaluation.judge()
    judge = base.Evaluation(
        model, tokenizer, evaluation.wordlist, settings=evaluation.settings, seed=evaluation.seed,
        swapper=evaluation.swapper, progress=evaluation.progress,
    )  # fmt: skip
    rows, sequences, firsts = [], [], []
    for row, (prompt, samples) in enumerate(zip(evaluation.prompts, evaluation.continuations, strict=True)):
        for text in samples:
            ids, offsets = judge.encode(prompt.text + text)
            ends = [end for _, end in offsets]
            # A token across the boundary holds text that the model wrote: it counts.
            before = sum(end <= len(prompt.text) for end in ends)
            # The start token stands in front; tokens that the judge's context leaves no room for are not judged.
            cut = max(0, len(ids) - judge.context) if judge.context else 0
            rows.append(row)
            sequences.append(ids)
            firsts.append(max(before, cut))
    units = np.zeros((len(evaluation.prompts), 2))
    found = judge.token_log_probs(sequences, "first model's view")
    for row, first, log_probs in zip(rows, firsts, found, strict=True):
        units[row] += -log_probs[first:].sum(), len(log_probs) - first
    return Measurement(
        units,
        lambda totals: np.exp(ratio(totals)),
        unit="prompt",
        n=int(units[:, 1].sum()),
        counted="tokens of the first model",
        details=settings,
    )


class GenerationQuality(base.ModelMetric):
    """`evaluate` module of the continuations' quality."""
