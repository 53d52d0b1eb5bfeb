"""WikiText-2: perplexity and bits per byte on a published test set."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from distill.base.errors import UserError
from distill.base.long_input import read_text
from distill.metrics import evaluation as base
from distill.metrics.bootstrap import Card, Measurement, finite, ratio

_HOW = (
    "over all articles of wiki.test.raw together, each behind the start token, read through windows with a stride "
    "where it exceeds the context"
)
_SOURCE = "Merity, Xiong, Bradbury and Socher 2016, arXiv 1609.07843 (the raw variant)"
_LIMITS = (
    "English Wikipedia in its tokenised spelling ( 's , @-@ ) that few models were trained on. Published values are "
    "often of one stream of text instead of articles, of other strides, or of text with its blank lines. "
    "Says nothing about fairness."
)

CARDS = (
    Card(
        name="wikitext2_perplexity",
        label="WikiText-2 perplexity",
        meaning="How well the model predicts the WikiText-2 test articles: the number of equally likely tokens that "
        "would be as hard to guess.",
        formula=f"exp(total negative log-likelihood / total tokens) {_HOW}",
        ideal=1.0,
        direction="lower is better",
        source=_SOURCE,
        limits=f"Depends on the tokenizer. {_LIMITS}",
    ),
    Card(
        name="wikitext2_bits_per_byte",
        label="WikiText-2 bits per byte",
        meaning="Bits that the model needs for a byte of the WikiText-2 test articles; unlike perplexity it compares "
        "across tokenizers.",
        formula=f"total negative log-likelihood / ln 2 / total UTF-8 bytes {_HOW}",
        ideal=0.0,
        direction="lower is better",
        source=f"{_SOURCE}; Gao et al. 2020, arXiv 2101.00027",
        limits=_LIMITS,
    ),
)

# A heading of the first level; the deeper ones are ` = = Title = = `.
_HEADING = re.compile(r"^ = (?!=).*(?<!=) = $", re.MULTILINE)


def measure(evaluation: base.Evaluation) -> dict[str, Measurement]:
    """Both scores from one pass over the articles; unit: article. The end of an article is not counted.

    Details: perplexity of a word (`word_perplexity`: the same likelihood over words between white space, which
    compares across tokenizers), context and stride.
    """
    articles = read_articles(evaluation.data_file("wikitext2", "wiki.test.raw"))
    progress = evaluation.progress
    table = replace(
        evaluation,
        documents=articles,
        progress=(lambda _, done, total: progress("WikiText-2", done, total)) if progress else None,
    ).likelihoods
    words = sum(len(article.split()) for article in articles)
    details = {
        "articles": len(articles),
        "word_perplexity": finite(np.exp(table[:, 0].sum() / words)),
        "context": evaluation.context,
        "stride": evaluation.stride,
        "seed": evaluation.seed,
    }
    return {
        "wikitext2_perplexity": Measurement(
            table[:, :2],
            lambda totals: np.exp(ratio(totals)),
            unit="article",
            n=int(table[:, 1].sum()),
            counted="tokens",
            details=details,
            ruler=evaluation.ruler("tokenizer", "context"),
        ),
        "wikitext2_bits_per_byte": Measurement(
            table[:, [0, 2]],
            lambda totals: ratio(totals) / math.log(2),
            unit="article",
            n=int(table[:, 2].sum()),
            counted="bytes",
            details=details,
            ruler=evaluation.ruler("context"),
        ),
    }


def read_articles(path: Path) -> list[str]:
    """The articles of a WikiText file, from one ` = Title = ` to the next, their text as it stands.

    Two lines of formulas in the test set look like titles and part an article: 62 stretches for its 60 articles.

    Raises:
        UserError: the file is not UTF-8, or has no such line.
    """
    text = read_text(path)
    starts = [match.start() for match in _HEADING.finditer(text)]
    if not starts:
        raise UserError(f"{path}: no line ' = Title = ' begins an article; take the raw WikiText-2 test set")
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


class WikiText2(base.ModelMetric):
    """`evaluate` module of WikiText-2."""
