"""One model and its metrics -> outcomes, from the cache where they lie there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from distill.base.errors import UserError
from distill.metrics import Evaluation, Outcome, measured, resampled
from distill.metrics.evaluation import given_prompts
from distill.models.loading import load_model, load_tokenizer
from distill.recipe import Recipe, ScoreConfig
from distill.scoring.examples import example_prompts, examples_of
from distill.scoring.score_cache import ScoreCache, content_hash, stamp
from distill.text.conversations import Messages
from distill.text.counterfactual import Swapper
from distill.text.prompts import Prompt, limit_prompts, without_listed_words

ModelSource = str | Path | tuple[Any, Any] | Callable[[], tuple[Any, Any]]


def run_prompts(recipe: Recipe, swapper: Swapper) -> tuple[list[Prompt], int]:
    """`usable_prompts` of a recipe."""
    return usable_prompts(recipe.scores.prompts, recipe.scores.max_prompts, recipe.seed, swapper)


def usable_prompts(
    source: str | Path | Sequence[str | Prompt], maximum: int | None, seed: int, swapper: Swapper
) -> tuple[list[Prompt], int]:
    """At most so many prompts of a source, and how many were left out because they hold a listed word.

    Raises:
        UserError: there is no such source, it is malformed, or nothing of it is left.
    """
    prompts, left_out = without_listed_words(given_prompts(source), swapper)
    if left_out and not prompts:
        which = f"every prompt of '{source}'" if isinstance(source, str | Path) else "every prompt"
        raise UserError(f"scores.prompts: {which} holds a word of the list '{swapper.wordlist.name}'; use others")
    return limit_prompts(prompts, maximum, seed), left_out


def shown_texts(evaluation: Evaluation, shown: Sequence[Prompt], example_texts: Sequence[str]) -> dict[str, Any]:
    """What the reports show of a model's texts: samples of some of the prompts, and the examples."""
    sampled = dict(zip(evaluation.prompts, evaluation.continuations, strict=True))
    return {"samples": [sampled[prompt] for prompt in shown], "examples": examples_of(evaluation, example_texts)}


def model_outcomes(
    evaluation: Evaluation,
    metrics: Mapping[str, ModuleType],
    kept: ScoreCache,
    model_hash: str,
    show: Callable[[], dict[str, Any]] | None = None,
) -> tuple[dict[str, Outcome], dict[str, Any] | None]:
    """The outcomes of one model, by the name of the score; from the cache where they lie there.

    Args:
        evaluation: The model, what it is measured on, and the seed and number of resamples.
        metrics: As `distill.metrics.chosen` gives them.
        kept: The cache of this evaluation's data and settings.
        model_hash: What the model is called there.
        show: Makes the texts that are shown beside the scores; None makes none.

    Returns:
        The outcomes, and the texts; None if no metric asked for continuations.
    """
    outcomes: dict[str, Outcome] = {}
    texts: dict[str, Any] | None = None

    def measure(module: ModuleType) -> dict[str, Outcome]:
        nonlocal texts
        found = _resampled(module, evaluation)
        if show and texts is None and "continuations" in vars(evaluation):
            # Before the outcome: killed between the two, nobody would sample for an outcome that is there.
            texts = kept.keep_texts(model_hash, show())
        return found

    for metric, module in metrics.items():
        outcomes |= kept.outcomes(model_hash, metric, partial(measure, module))
    return outcomes, texts or (kept.texts(model_hash, show) if show else None)


def _resampled(metric: ModuleType, evaluation: Evaluation) -> dict[str, Outcome]:
    given = {"resamples": evaluation.settings.bootstrap, "seed": evaluation.seed}
    return {of: resampled(measurement, **given) for of, measurement in measured(metric, evaluation).items()}


def decisive(
    settings: ScoreConfig, seed: int, swapper: Swapper, documents: Sequence[str], prompts: Sequence[Prompt]
) -> dict[str, Any]:
    """Whatever decides the scores of a model, ready for JSON. The batch size does not."""
    given = {key: value for key, value in asdict(settings).items() if key not in ("metrics", "prompts", "batch_size")}
    for key in ("data", "regard_model", "toxicity_model", "word_vectors"):
        given[key] = stamp(given[key])
    return {
        "settings": given,
        "seed": seed,
        "swapper": swapper.cache_key,
        "documents": content_hash([(d.roles, d.contents) if isinstance(d, Messages) else d for d in documents]),
        "prompts": content_hash([asdict(prompt) for prompt in prompts]),
        "examples": content_hash(example_prompts(prompts, swapper, seed)),
    }


def open_model(source: ModelSource, device: str) -> tuple[Any, Any]:
    """A model and its tokenizer; a model that was loaded here is put on the device."""
    if isinstance(source, tuple):
        return source
    model, tokenizer = source() if callable(source) else (load_model(str(source)), load_tokenizer(str(source)))
    return model.to(device), tokenizer
