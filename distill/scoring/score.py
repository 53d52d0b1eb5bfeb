"""Models and metrics -> scores.json: every value with its interval, every difference paired by unit.

    {"format": 1,
     "models":      {NAME: {METRIC: {value, low, high, n, ideal, direction, undetected, details}}},
     "differences": {"LATER - EARLIER": {METRIC: {value, low, high, ratio, ratio_low, ratio_high, n}}},
     "samples":     [{prompt, group, subject, texts: {NAME: [text, ...]}}],
     "examples":    {decoding, prompts: [{prompt, words, models: {NAME: {next_word, text, words}}}]},
     "settings":    {seed, interval, decoding, word list, prompts, held-out text, weights},
     "versions":    {...}}

`assets/scores.schema.json` is its JSON Schema; what is written and what is read is checked against it.

Nothing in it depends on the clock: the same models, data and seed on the same machine give the same file.
"""

import gc
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache as cached
from functools import partial
from importlib import metadata
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from distill.base.console import counter, say
from distill.metrics import CARDS, Evaluation, Outcome, chosen, difference_of, score_of
from distill.metrics.bootstrap import CONFIDENCE
from distill.models.architecture import weights_hash
from distill.models.loading import load_model, load_teacher, load_tokenizer
from distill.recipe import Recipe, ScoreConfig
from distill.scoring.examples import DECODING, example_prompts, listed_words
from distill.scoring.measure import ModelSource, decisive, model_outcomes, open_model, run_prompts, shown_texts
from distill.scoring.score_cache import ScoreCache, content_hash
from distill.scoring.scores_file import FORMAT, without_nan, write_scores
from distill.text.counterfactual import Swapper
from distill.text.prompts import Prompt, limit_prompts
from distill.text.wordlist import WordList

_SAMPLE_PROMPTS = 16
_PACKAGES = ("distill", "torch", "transformers", "tokenizers", "numpy")

Progress = Callable[[str, str, int, int], None]


def score_run(
    recipe: Recipe, models: Mapping[str, str], wordlist: WordList, documents: Sequence[str], path: Path
) -> dict[str, Any]:
    """Score the models of a finished run as its recipe says, and write scores.json.

    Args:
        recipe: Its `scores`, `seed` and `teacher` are read.
        models: Name -> folder or hub id; the teacher first, the mitigated student last.
        wordlist: The recipe's word list.
        documents: Held-out texts.
        path: Where to write. What was measured is kept beside it in `cache/scores`: a stopped evaluation goes on.

    Returns:
        What was written.

    Raises:
        UserError: an unknown metric, prompts or a model that cannot be had.
    """
    swapper = Swapper(wordlist)
    prompts, left_out = run_prompts(recipe, swapper)
    sources: dict[str, ModelSource] = dict(models)
    # The recipe also knows its teacher's revision and number format, which a path does not tell.
    if "teacher" in models and models["teacher"] == recipe.teacher.path:
        sources["teacher"] = lambda: load_teacher(recipe.teacher)
    # Students lie there with the code that was trusted to make them.
    if recipe.teacher.trust_remote_code or recipe.student.trust_remote_code:
        for name in models.keys() - {"teacher"}:
            sources[name] = partial(_load_trusted, models[name])
    scores = score_models(
        sources,
        wordlist=wordlist,
        documents=documents,
        prompts=prompts,
        settings=recipe.scores,
        seed=recipe.seed,
        swapper=swapper,
        progress=_console_progress(),
        cache=path.parent / "cache" / "scores",
    )
    scores["settings"]["prompts"] |= {"source": recipe.scores.prompts, "left_out_with_listed_word": left_out}
    write_scores(scores, path)
    return scores


def _load_trusted(path: str) -> tuple[Any, Any]:
    return load_model(path, trust_remote_code=True), load_tokenizer(path, trust_remote_code=True)


def score_models(
    models: Mapping[str, ModelSource],
    *,
    wordlist: WordList,
    documents: Sequence[str],
    prompts: Sequence[Prompt],
    settings: ScoreConfig,
    seed: int = 0,
    swapper: Swapper | None = None,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Measure models on the same prompts and texts, one model in memory at a time.

    The first of several models is also the judge of the continuations of all, where a metric asks for one.

    Args:
        models: Name -> a folder or hub id, (model, tokenizer), or a function that returns these two.
        wordlist: Defines the groups.
        documents: Held-out texts; blank ones are left out.
        prompts: Beginnings of texts without listed words.
        settings: Metrics, decoding, batch size, stride, resamples.
        seed: Seed of sampling and resampling.
        swapper: The word list's swapper, if there is one already.
        progress: Called with (model name, what is being done, done, in all).
        cache: Folder that keeps what was measured; None keeps nothing.

    Returns:
        The contents of scores.json (see this module's head); differences are taken of each model against every
        earlier one.

    Raises:
        UserError: an unknown metric or a model that cannot be loaded.
    """
    metrics = chosen(settings.metrics)
    documents = [document for document in documents if document.strip()]
    swapper = swapper or Swapper(wordlist)
    outcomes: dict[str, dict[str, Outcome]] = {}
    shown = limit_prompts(list(prompts), _SAMPLE_PROMPTS, seed)
    samples: dict[Prompt, dict[str, list[str]]] = {prompt: {} for prompt in shown}
    example_texts = example_prompts(prompts, swapper, seed)
    examples: list[dict[str, Any]] = [{} for _ in example_texts]
    weights: dict[str, str] = {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    judge, judge_hash = None, ""
    for name, source in models.items():
        model, tokenizer = open_model(source, device)
        weights[name] = weights_hash(model)
        model_hash = f"{weights[name]} {content_hash(tokenizer.get_vocab())}"
        if len(models) > 1 and judge is None:
            judge, judge_hash = cached(lambda source=source: open_model(source, device)), model_hash
        kept = ScoreCache(cache, decisive(settings, seed, swapper, documents, prompts) | {"judge": judge_hash})
        evaluation = Evaluation(model, tokenizer, wordlist, documents, prompts, settings, seed, swapper, judge=judge)
        if progress:
            evaluation.progress = lambda what, done, total, name=name: progress(name, what, done, total)
        show = partial(shown_texts, evaluation, shown, example_texts)
        outcomes[name], texts = model_outcomes(evaluation, metrics, kept, model_hash, show)
        if texts:
            for prompt, of_prompt in zip(shown, texts["samples"], strict=True):
                samples[prompt][name] = of_prompt
            for example, of_model in zip(examples, texts["examples"], strict=True):
                example[name] = of_model
        del model, evaluation
        if not isinstance(source, tuple):  # its memory is wanted for the next one
            gc.collect()
    scores = {
        "format": FORMAT,
        "models": {
            name: {metric: score_of(CARDS[metric], outcome).to_dict() for metric, outcome in of_model.items()}
            for name, of_model in outcomes.items()
        },
        "differences": {
            f"{later} - {earlier}": {
                metric: difference_of(outcomes[later][metric], outcomes[earlier][metric]) for metric in outcomes[later]
            }
            for earlier, later in combinations(outcomes, 2)
        },
        "samples": [
            {"prompt": prompt.text, "group": prompt.group, "subject": prompt.subject, "texts": texts}
            for prompt, texts in samples.items()
            if texts
        ],
        "examples": {
            "decoding": DECODING | {"max_new_tokens": settings.max_new_tokens, "seed": seed},
            "prompts": [
                {"prompt": text, "words": listed_words(text, swapper), "models": of_models}
                for text, of_models in zip(example_texts, examples, strict=True)
                if of_models
            ],
        },
        "settings": {
            "seed": seed,
            "interval": {
                "confidence": CONFIDENCE,
                "resamples": settings.bootstrap,
                "method": "percentile bootstrap over units (prompts, documents, pairs, words ...); differences paired",
            },
            "decoding": {
                name: getattr(settings, name) for name in ("samples", "max_new_tokens", "temperature", "top_p", "top_k")
            },
            "wordlist": {
                "name": wordlist.name,
                "groups": list(wordlist.groups),
                "rows": len(wordlist.rows),
                "words": _by_group(wordlist, wordlist.group_of.values()),
                "sha256": wordlist.sha256,
            },
            "prompts": {
                "count": len(prompts),
                "groups": len({prompt.group for prompt in prompts}),
                "sha256": content_hash([asdict(prompt) for prompt in prompts]),
            },
            "held_out": _held_out(documents, swapper),
            "weights": weights,
        },
        "versions": versions(device),
    }
    return without_nan(scores)


def _held_out(documents: Sequence[str], swapper: Swapper) -> dict[str, Any]:
    """What was scored beside the prompts, and what the word list covers of it."""
    matches = [swapper.matches(document) for document in documents]
    return {
        "documents": len(documents),
        "bytes": sum(len(document.encode()) for document in documents),
        "sha256": content_hash(documents),
        "documents_with_listed_word": sum(map(bool, matches)),
        "listed_words": _by_group(swapper.wordlist, (match.group for found in matches for match in found)),
    }


def _by_group(wordlist: WordList, numbers: Iterable[int]) -> dict[str, int]:
    """Numbers of groups -> how often each group is among them, by name."""
    counts = Counter(numbers)
    return {group: counts[number] for number, group in enumerate(wordlist.groups)}


def versions(device: str) -> dict[str, str]:
    """Versions of what decides the figures, and the device."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions | {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}


def _console_progress() -> Progress:
    """Progress lines: one counter for each pass over each model."""
    counters: dict[tuple[str, str], Callable[..., None]] = {}

    def report(model: str, what: str, done: int, total: int) -> None:
        if (model, what) not in counters:
            if model not in {name for name, _ in counters}:
                say(f"scoring {model}")
            counters[model, what] = counter(f"scoring {model}: {what}", "done")
        counters[model, what](done, total)

    return report
