"""Texts of a benchmark, from files of its authors or of our own, and their likelihood under a model."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distill.base.errors import UserError
from distill.base.files import PACKAGE
from distill.base.long_input import read_text
from distill.base.row_files import whole_rows
from distill.metrics.bootstrap import Measurement, finite, ratio, with_ones
from distill.metrics.evaluation import Evaluation, NotMeasured
from distill.models.architecture import begins_itself

_COMPRESSED = ("", ".xz", ".gz", ".bz2")


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
    sequences, firsts = [], []
    for (context, continuation), ids, offsets in zip(
        texts, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        # A text that a chat template made may begin with a special token, which is its start then.
        alone = begins_itself(context or continuation, evaluation.tokenizer)
        sequences.append(ids if alone else [evaluation.start, *ids])
        inside = (i for i, (_, end) in enumerate(offsets[alone:]) if end > len(context))
        firsts.append(next(inside, len(ids) - alone) if context else 0)
    log_probs = evaluation.token_log_probs(sequences, what, firsts)
    kept = [of_text[first:] for of_text, first in zip(log_probs, firsts, strict=True)]
    return Likelihood(
        np.array([of_text.sum() for of_text in kept]),
        np.array([len(of_text) for of_text in kept], dtype=np.int64),
        sum(len(ids) > evaluation.context for ids in sequences) if evaluation.context else 0,
    )


def own_table(name: str) -> list[list[str]]:
    """The rows of `NAME/NAME.tsv`, sentences of our own, without comments and header."""
    lines = read_text(PACKAGE / "metrics" / name / f"{name}.tsv").splitlines()
    return [line.split("\t") for line in lines if not line.startswith("#")][1:]


_KINDS = {str: "a text", dict: "an object", int: "a whole number", int | str: "a whole number or a text"}


def data_rows(path: Path, columns: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Where each row of a .jsonl stands, and what it holds.

    Args:
        path: The file, compressed or not.
        columns: What each row must have, and of which type, one of `_KINDS`; a text must not be blank.

    Raises:
        UserError: a row is malformed, or there is none; names the line.
    """
    rows = []
    for where, row in whole_rows(path, None):
        for column, kind in columns.items():
            value = row.get(column)
            blank = isinstance(value, str) and not value.strip()
            if blank or isinstance(value, bool) or not isinstance(value, kind):
                raise UserError(f"{where}: '{column}' is {value!r:.60}, but must be {_KINDS[kind]}")
        rows.append((where, dict(row)))
    if not rows:
        raise UserError(f"{path}: holds no rows; JSON objects with {', '.join(columns)} are expected")
    return rows


def read_json(path: Path, hint: str) -> Any:
    """What a JSON file holds.

    Args:
        path: The file.
        hint: What to give instead, where it cannot be read.

    Raises:
        UserError: it cannot be read, or is not JSON; names the line where that is known.
    """
    try:
        return json.loads(read_text(path, hint))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def data_files(evaluation: Evaluation, folder: str) -> list[Path]:
    """The .jsonl files of a folder of the benchmark data, by name, compressed or not.

    Raises:
        NotMeasured: there is none.
        UserError: one is there twice, compressed and not: its rows would count twice.
    """
    where = evaluation.data_file(folder)
    found = sorted(path for end in _COMPRESSED for path in where.glob(f"*.jsonl{end}"))
    if not found:
        raise NotMeasured(f"{where} holds no .jsonl file")
    for first, second in pairwise(found):
        if first.name.split(".jsonl")[0] == second.name.split(".jsonl")[0]:
            raise UserError(f"{first} and {second.name} beside it would be read both; remove one of them")
    evaluation.data_read.update(found)
    return found


def one_of(evaluation: Evaluation, folder: str, names: Sequence[str]) -> Path:
    """The first of some files of the benchmark data that is there, compressed or not. Raises NotMeasured."""
    for name in (f"{name}{end}" for name in names for end in _COMPRESSED):
        try:
            return evaluation.data_file(folder, name)
        except NotMeasured:
            continue
    return evaluation.data_file(folder, names[0])  # says what is missing


def larger(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """1.0 where the first is larger, 0.0 where it is not, NaN where one of them is no number."""
    return np.where(np.isnan(first) | np.isnan(second), np.nan, (first > second).astype(float))


def pair_accuracy(
    evaluation: Evaluation, pairs: Sequence[tuple[str, str]], kinds: Sequence[str], what: str
) -> Measurement:
    """How often the first text of a pair is likelier than the second; unit: pair.

    Args:
        evaluation: The model.
        pairs: (good, bad).
        kinds: The phenomenon of each pair; shares of each are in the details, as `phenomena`.
        what: Name of the pass, for progress.
    """
    outcome = likelihood(evaluation, [("", text) for pair in pairs for text in pair], what)
    good, bad = outcome.total.reshape(-1, 2).T
    right, of = larger(good, bad), np.array(kinds)
    return Measurement(
        with_ones(right),
        ratio,
        unit="pair",
        n=len(right),
        counted="pairs",
        undetected=float((good == bad).mean()),
        details={
            "phenomena": {
                kind: {"value": finite(right[of == kind].mean()), "n": int((of == kind).sum())}
                for kind in dict.fromkeys(kinds)
            },
            "mean_difference": finite((good - bad).mean()),
            "texts_longer_than_context": outcome.cut,
            "seed": evaluation.seed,
        },
    )
