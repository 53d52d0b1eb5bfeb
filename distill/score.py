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
import json
import math
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache as cached
from functools import partial
from importlib import metadata
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import torch
from jsonschema.exceptions import best_match

from distill.console import counter, say
from distill.counterfactual import Swapper
from distill.errors import UserError
from distill.examples import DECODING, example_prompts, examples_of, listed_words
from distill.generation import Prompt, limit_prompts, load_prompts, without_listed_words
from distill.long_input import read_whole
from distill.metrics import CARDS, Evaluation, Outcome, chosen, difference_of, measured, resampled, score_of
from distill.metrics.bootstrap import CONFIDENCE
from distill.models import load_model, load_teacher, load_tokenizer, weights_hash
from distill.recipe import Recipe, ScoreConfig
from distill.run_folder import write_json
from distill.score_cache import ScoreCache, content_hash, stamp
from distill.wordlist import WordList

FORMAT = 1
SCHEMA = Path(__file__).parent / "assets" / "scores.schema.json"
_SAMPLE_PROMPTS = 16
_PACKAGES = ("distill", "torch", "transformers", "tokenizers", "numpy")

Progress = Callable[[str, str, int, int], None]
ModelSource = str | Path | tuple[Any, Any] | Callable[[], tuple[Any, Any]]


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


def run_prompts(recipe: Recipe, swapper: Swapper) -> tuple[list[Prompt], int]:
    """The prompts that a recipe asks for, and how many were left out because they hold a listed word.

    Raises:
        UserError: there is no such source, it is malformed, or nothing of it is left.
    """
    source = recipe.scores.prompts
    prompts, left_out = without_listed_words(load_prompts(source), swapper)
    if not prompts:
        raise UserError(
            f"scores.prompts: every prompt of '{source}' holds a word of the list '{swapper.wordlist.name}'; use others"
        )
    return limit_prompts(prompts, recipe.scores.max_prompts, recipe.seed), left_out


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
        model, tokenizer = _open(source, device)
        weights[name] = weights_hash(model)
        model_hash = f"{weights[name]} {content_hash(tokenizer.get_vocab())}"
        if len(models) > 1 and judge is None:
            judge, judge_hash = cached(lambda source=source: _open(source, device)), model_hash
        kept = ScoreCache(cache, decisive(settings, seed, swapper, documents, prompts) | {"judge": judge_hash})
        evaluation = Evaluation(model, tokenizer, wordlist, documents, prompts, settings, seed, swapper, judge=judge)
        if progress:
            evaluation.progress = lambda what, done, total, name=name: progress(name, what, done, total)
        show = partial(_shown_texts, evaluation, shown, example_texts)
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
    return _without_nan(scores)


def _shown_texts(evaluation: Evaluation, shown: Sequence[Prompt], example_texts: Sequence[str]) -> dict[str, Any]:
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
        "documents": content_hash(list(documents)),
        "prompts": content_hash([asdict(prompt) for prompt in prompts]),
        "examples": content_hash(example_prompts(prompts, swapper, seed)),
    }


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


# A 1.0 is an integer to JSON Schema, and no index to Python.
_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int),
)


def write_scores(scores: Mapping[str, Any], path: str | Path) -> None:
    """Write scores as JSON, whole or not at all."""
    path = Path(path)
    jsonschema.validate(scores, _schema())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, scores)


def read_scores(path: str | Path) -> dict[str, Any]:
    """Scores from a file.

    Raises:
        UserError: there is none, it is of another format, or something in it is not as the schema says.
    """
    try:
        scores = json.loads(read_whole(Path(path)).decode(), parse_constant=_no_number)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a scores.json") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(scores, dict) or scores.get("format") != FORMAT:
        raise UserError(f"{path}: not a scores.json of format {FORMAT}; score the models again")
    problem = best_match(_Validator(_schema()).iter_errors(scores))
    if problem is not None:
        where = ".".join(map(str, problem.absolute_path)) or "the whole file"
        raise UserError(f"{path}: {where}: {problem.message[:200]}; score the models again")
    if (what := _contradiction(scores)) is not None:
        raise UserError(f"{path}: {what}; score the models again")
    return scores


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _contradiction(scores: Mapping[str, Any]) -> str | None:
    """What in the examples does not fit to the rest, which no schema can say."""
    groups = len(scores["settings"]["wordlist"]["groups"])
    prompts = (scores.get("examples") or {}).get("prompts", [])
    labels = {tuple(of_model["next_word"]) for prompt in prompts for of_model in prompt["models"].values()}
    if len(labels) > 1:
        return "examples.prompts: the models are not asked for the same next words"
    for number, prompt in enumerate(prompts):
        if unknown := prompt["models"].keys() - scores["models"].keys():
            return f"examples.prompts.{number}: there is no model {min(unknown)!r}"
        places = [*prompt["words"], *(place for of_model in prompt["models"].values() for place in of_model["words"])]
        if any(group >= groups for _, _, group in places):
            return f"examples.prompts.{number}: a listed word of a group that the word list does not have"
    return None


@cached
def _schema() -> dict[str, Any]:
    return json.loads(SCHEMA.read_text(encoding="utf-8"))


def _open(source: ModelSource, device: str) -> tuple[Any, Any]:
    """A model and its tokenizer; a model that was loaded here is put on the device."""
    if isinstance(source, tuple):
        return source
    model, tokenizer = source() if callable(source) else (load_model(str(source)), load_tokenizer(str(source)))
    return model.to(device), tokenizer


def versions(device: str) -> dict[str, str]:
    """Versions of what decides the figures, and the device."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions | {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}


def _without_nan(value: Any) -> Any:
    """The same tree with `None` for numbers that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


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
