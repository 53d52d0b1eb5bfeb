"""LAMBADA: does the model know the last word of a passage, which needs more of it than its last sentence?"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.base.errors import UserError
from distill.base.long_input import LONGEST_LINE
from distill.base.row_files import prose_lines
from distill.metrics import evaluation as base
from distill.metrics.benchmark_text import data_rows, one_of
from distill.metrics.bootstrap import Card, Measurement, ratio, with_ones

_SOURCE = "Paperno et al. 2016, arXiv 1606.06031; the form for causal language models after Radford et al. 2019 (GPT-2)"
_LIMITS = (
    "Passages of novels, with people in them. Published values are of two texts, the authors' tokenised one and a "
    "detokenised one, which differ by many points; a longer passage than the context loses its beginning. Says nothing "
    "about fairness."
)

CARDS = (
    Card(
        name="lambada_accuracy",
        label="LAMBADA: accuracy",
        meaning="How often the model's likeliest continuation is the last word of a passage. A coin gets 0.",
        formula="share of passages in which every token of the last word is the likeliest one, given all before it",
        ideal=1.0,
        direction="higher is better",
        source=_SOURCE,
        limits=_LIMITS,
        side=True,
    ),
    Card(
        name="lambada_perplexity",
        label="LAMBADA: perplexity",
        meaning="How well the model predicts the last word of a passage: the number of equally likely words that would "
        "be as hard to guess.",
        formula="exp(mean negative log-likelihood of the last word, summed over its tokens)",
        ideal=1.0,
        direction="lower is better",
        source=_SOURCE,
        limits=_LIMITS,
    ),
)

#: As OpenAI published it, in English of EleutherAI's copy, and the authors' own, one passage a line.
FILES = ("lambada_test.jsonl", "lambada_test_en.jsonl", "lambada_test_plain_text.txt")


def measure(evaluation: base.Evaluation) -> dict[str, Measurement]:
    """Accuracy and perplexity of the last words; unit: passage.

    Raises:
        UserError: the file is malformed; names the line.
    """
    path = one_of(evaluation, "lambada", FILES)
    passages = read_passages(path)
    found, cut = last_words(evaluation, passages)
    common: dict[str, Any] = {
        "unit": "passage",
        "n": len(passages),
        "counted": "passages",
        "details": {"file": path.name, "texts_longer_than_context": cut, "seed": evaluation.seed},
    }
    units = with_ones(found)
    return {
        "lambada_accuracy": Measurement(units[:, [0, 2]], ratio, **common),
        "lambada_perplexity": Measurement(units[:, [1, 2]], lambda totals: np.exp(ratio(totals)), **common),
    }


def last_words(evaluation: base.Evaluation, passages: Sequence[tuple[str, str]]) -> tuple[np.ndarray, int]:
    """Of each (passage, last word): 1 where all its tokens are the likeliest, and its negative log-likelihood in nats.

    Returns:
        (N, 2), and how many passages were longer than the context.
    """
    sequences, sizes, cut = [], [], 0
    for before, word in passages:
        ids, offsets = evaluation.encode(before + word)
        kept = ids[-evaluation.context :] if evaluation.context else ids
        cut += len(kept) < len(ids)
        sequences.append(kept)
        sizes.append(min(sum(end > len(before) for _, end in offsets), len(kept) - 1))
    found = np.zeros((len(passages), 2))
    done, report = 0, evaluation.report("LAMBADA")
    for batch in evaluation.batches([len(ids) for ids in sequences]):
        places = [range(len(sequences[i]) - 1 - sizes[i], len(sequences[i]) - 1) for i in batch]
        states = evaluation.states_at([sequences[i] for i in batch], places)
        rows = [i for i, of_row in zip(batch, places, strict=True) for _ in of_row]
        targets = torch.tensor(
            [sequences[i][place + 1] for i, of_row in zip(batch, places, strict=True) for place in of_row],
            device=states.device,
        )
        found[batch, 0] = 1.0
        for piece in evaluation.pieces(len(targets)):
            logits = evaluation.logits(states[piece]).float()
            losses = torch.nn.functional.cross_entropy(logits, targets[piece], reduction="none")
            wrong = logits.argmax(dim=-1) != targets[piece]
            for i, loss, missed in zip(rows[piece], losses.tolist(), wrong.tolist(), strict=True):
                hit = math.nan if math.isnan(loss) else float(not missed)
                found[i] = found[i, 0] * hit, found[i, 1] + loss
        done += len(batch)
        report(done, len(passages))
    return found, cut


def read_passages(path: Path) -> list[tuple[str, str]]:
    """(all before the last word, the last word with the space in front of it) of every passage.

    Raises:
        UserError: a passage is of less than two words, or the file is malformed or empty; names the line.
    """
    if path.name.startswith(FILES[-1]):
        lines = enumerate(prose_lines(path, LONGEST_LINE), start=1)
        texts = [(f"{path}, line {number}", line) for number, line in lines if line.strip()]
    else:
        texts = [(where, row["text"]) for where, row in data_rows(path, {"text": str})]
    passages = []
    for where, text in texts:
        before, space, word = text.strip().rpartition(" ")
        if not before.strip():
            raise UserError(f"{where}: a passage of two words or more is expected, as the last one is asked for")
        passages.append((before, space + word))
    if not passages:
        raise UserError(f"{path}: holds no passages; one a line is expected")
    return passages


class Lambada(base.ModelMetric):
    """`evaluate` module of LAMBADA."""
