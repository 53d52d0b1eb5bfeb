"""Intrinsic against extrinsic scores over checkpoints: does a fairer representation go with fairer behaviour?

1. Several scores.json, those that were measured alike -> one row a checkpoint, a model that stands in several of them
   counted once.
2. A score -> its distance from the ideal, so that "fairer" is "smaller" everywhere.
3. Every intrinsic score against every extrinsic one: Spearman's rank correlation over the checkpoints that have both,
   with a permutation p-value (after Cao et al. 2022, arXiv 2203.13928).
"""

import math
from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# Beginnings of the names of scores that look at the model itself, and of those that look at what it is used for.
INTRINSIC = (
    "weat", "seat", "ceat", "crows_pairs", "stereoset", "winobias", "next_word_disparity", "corpus_disparity",
    "equivariance_gap",
)  # fmt: skip
EXTRINSIC = (
    "hatexplain", "occupation_", "generation_disparity", "fairness_ratio", "gender_", "regard", "sentiment", "toxicity",
    "bbq_",
)  # fmt: skip

MAX_EXACT = 8  # Checkpoints up to which all orders are looked at: 8! = 40,320.
DRAWN = 9_999  # Orders drawn for more.
MIN_CHECKPOINTS = 3  # A correlation of fewer is 1 or -1.
FEWEST_MODELS = 8  # Of fewer, no correlation is shown: many pairs are looked at, and chance makes some of them agree.

_MEASURED_WITH = {
    "regard_model": "classifier of regard",
    "toxicity_model": "classifier of toxicity",
    "word_vectors": "word vectors",
}

Scores = Mapping[str, Mapping[str, Any]]  # Name of a score -> its entry in scores.json.


def checkpoints(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Scores]:
    """One entry a checkpoint: "label: model" -> its scores.

    Args:
        files: Label (a run's folder, say) -> the contents of its scores.json. A model whose values are those of an
            earlier one, the teacher of several runs, say, is the same checkpoint and left out.
    """
    found: dict[str, Scores] = {}
    values_seen = []
    for label, contents in files.items():
        for model, scores in contents["models"].items():
            values = {name: score["value"] for name, score in scores.items()}
            if values not in values_seen:
                values_seen.append(values)
                found[f"{label}: {model}"] = scores
    return found


def measured_alike(files: Mapping[str, Mapping[str, Any]], like: str) -> dict[str, dict[str, Any]]:
    """The files that were measured with the same settings as one of them, and of each weights the first alone.

    Args:
        files: Label -> contents of a scores.json.
        like: The label of that one; it comes first.
    """
    wanted = _ruler(files[like])
    seen: set[str] = set()
    found: dict[str, dict[str, Any]] = {}
    known: dict[str, str] = {}
    for name in (like, *(name for name in files if name != like)):
        own = measured_with(files[name])
        if _ruler(files[name]) != wanted or any(known.get(what, own[what]) != own[what] for what in own):
            continue
        known |= own
        weights = files[name]["settings"].get("weights", {})
        new = [model for model in files[name]["models"] if weights.get(model) not in seen]
        seen |= {weights[model] for model in new if model in weights}
        found[name] = {**files[name], "models": {model: files[name]["models"][model] for model in new}}
    return found


def _ruler(scores: Mapping[str, Any]) -> list[Any]:
    """What scores were measured with: word list, prompts and whether a chat template is around them, texts, decoding,
    seed, how much of a text is read at once.
    """
    settings = scores["settings"]
    parts = [settings[part].get("sha256") for part in ("wordlist", "prompts", "held_out")]
    return [*parts, settings["prompts"].get("chat"), settings["decoding"], settings["seed"], tokens_read(scores)]


def measured_with(scores: Mapping[str, Any]) -> dict[str, str]:
    """What decides scores of fairness beside word list, prompts and texts -> what tells it from another.

    Nothing of what these models were not measured with, and of what an older file does not tell: where either has
    none, two files may be alike.
    """
    told = scores["settings"].get("measured_with", {})
    found = {label: told[key] for key, label in _MEASURED_WITH.items() if told.get(key) is not None}
    for of_model in scores["models"].values():
        for entry in of_model.values():
            files = entry.get("details", {}).get("benchmark_files", {}) if entry.get("value") is not None else {}
            found |= {f"benchmark files of {metric}": digest for metric, digest in files.items()}
    return found


def tokens_read(scores: Mapping[str, Any]) -> list[str]:
    """How many tokens of a text the models of a scores.json read at once; those of all its models, each once."""
    return sorted({str(of_model["read"]) for of_model in scores["settings"].get("models", {}).values()})


def side_by_side(rows: Mapping[str, Scores]) -> dict[str, Any]:
    """The table and the rank correlations.

    Args:
        rows: Checkpoint -> its scores, as `checkpoints` gives them.

    Returns:
        `intrinsic` and `extrinsic`: the names with a beginning of `INTRINSIC` and of `EXTRINSIC`, those that have no
        ideal or whose better values are not fairer left out; `rows`: checkpoint -> name -> {value, low, high, distance
        from the ideal}; `correlations`: a list of {intrinsic, extrinsic, n, spearman, p_value, exact}, `None` where
        undefined.
    """
    names = list(dict.fromkeys(name for scores in rows.values() for name in scores if _is_fairness(scores[name])))
    intrinsic, extrinsic = ([name for name in names if name.startswith(of)] for of in (INTRINSIC, EXTRINSIC))
    shown = [*intrinsic, *extrinsic]
    table = {row: {name: _cell(scores.get(name)) for name in shown} for row, scores in rows.items()}
    correlations = []
    for one in intrinsic:
        for other in extrinsic:
            pairs = [(cells[one]["distance"], cells[other]["distance"]) for cells in table.values()]
            both = np.array([pair for pair in pairs if None not in pair], dtype=float).reshape(-1, 2)
            correlations.append({"intrinsic": one, "extrinsic": other, **rank_correlation(both[:, 0], both[:, 1])})
    return {"intrinsic": intrinsic, "extrinsic": extrinsic, "rows": table, "correlations": correlations}


def _is_fairness(score: Mapping[str, Any]) -> bool:
    """Whether it has an ideal and is about fairness: accuracy and perplexity are not."""
    return score.get("ideal") is not None and "fair" in str(score.get("direction"))


def _cell(score: Mapping[str, Any] | None) -> dict[str, float | None]:
    score = score or {}
    cell = {key: score.get(key) for key in ("value", "low", "high")}
    defined = cell["value"] is not None and score["ideal"] is not None
    cell["distance"] = abs(cell["value"] - score["ideal"]) if defined else None
    return cell


def rank_correlation(first: ArrayLike, second: ArrayLike) -> dict[str, Any]:
    """Spearman's rank correlation, ties at their mean rank, with a two-sided permutation p-value.

    The p-value is the share of the orders of one side whose correlation is at least as far from 0: of all orders up to
    `MAX_EXACT` values, else of `DRAWN` random ones and the observed one.

    Returns:
        `n`, `spearman`, `p_value`, `exact`; `None` with fewer than `MIN_CHECKPOINTS` values or where a side is
        constant.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    n = len(first)
    outcome: dict[str, Any] = {"n": n, "spearman": None, "p_value": None, "exact": None}
    if n < MIN_CHECKPOINTS or len(set(first.tolist())) == 1 or len(set(second.tolist())) == 1:
        return outcome
    one, other = (mean_ranks(side) - (n + 1) / 2 for side in (first, second))
    exact = n <= MAX_EXACT
    if exact:
        orders = np.array(list(permutations(range(n))))
    else:
        drawn = np.random.default_rng(0).random((DRAWN, n)).argsort(axis=1)
        orders = np.concatenate([np.arange(n)[None], drawn])
    norm = math.sqrt((one**2).sum() * (other**2).sum())
    correlations = other[orders] @ one / norm
    observed = float(one @ other / norm)
    p_value = float((np.abs(correlations) >= abs(observed) - 1e-12).mean())
    return outcome | {"spearman": observed, "p_value": p_value, "exact": exact}


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[where]
