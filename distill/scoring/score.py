"""Models and metrics -> scores.json: every value with its interval, every difference paired by unit.

    {"format": 1,
     "models":      {NAME: {METRIC: {value, low, high, n, ideal, direction, undetected, details}}},
     "differences": {"LATER - EARLIER": {METRIC: {value, low, high, ratio, ratio_low, ratio_high, n}}},
                    (`instead` in a difference, and in a score's details: why there is no number, shown in its place)
     "cards":       {METRIC: {label, meaning, formula, ideal, direction, source, limits, headline, role, shows}},
     "not_asked":   [names of the other metrics],
     "samples":     [{prompt, group, subject, texts: {NAME: [text, ...]}}],
     "examples":    {decoding, prompts: [{prompt, words, models: {NAME: {next_word, text, words}}}]},
     "settings":    {seed, interval, decoding, word list, prompts, held-out text, weights, models, measured_with},
     "versions":    {...}}

`assets/scores.schema.json` is its JSON Schema; what is written and what is read is checked against it. The cards tell
how each score was measured when it was, so that an old file is explained by itself, and its reader needs no metric.

Nothing in it depends on the clock: the same models, data and seed on the same machine give the same file. How fast each
model writes stands beside it, in `speed.json`.
"""

import gc
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache as cached
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.base.console import counter, phase, say
from distill.base.errors import UserError, suggestion
from distill.base.files import training_record
from distill.data.audit import run_scores
from distill.metrics import Evaluation, chosen
from distill.metrics.audited import Audited, read_audited
from distill.metrics.evaluation import given_documents
from distill.models.architecture import (
    default_device,
    model_hash,
    own_context,
    parameter_count,
    weight_bytes,
    weights_hash,
)
from distill.models.loading import labelled
from distill.models.quantization import require_torchao
from distill.recipe import WHILE_TRAINING, Recipe, ScoreConfig, WeightBits
from distill.recipe_check import check_scores, check_seed, typed
from distill.scoring.contents import Asked, Measured, contents
from distill.scoring.measure import (
    Checkpoint,
    ModelSource,
    check_files,
    check_models,
    common_context,
    copy_name,
    decisive,
    model_outcomes,
    open_model,
    quantized,
    shown_texts,
    source_key,
    trusted,
    usable_prompts,
)
from distill.scoring.score_cache import ScoreCache, installed_version, model_version
from distill.scoring.scores_file import read_speeds, without_nan, write_scores, write_speeds
from distill.scoring.speed import measured_speeds
from distill.text.counterfactual import Swapper
from distill.text.prompts import DEFAULT_PROMPTS, Prompt
from distill.text.wordlist import WordList, load_wordlist

_PACKAGES = ("distill", "torch", "transformers", "tokenizers", "numpy")

Progress = Callable[[str, str, int, int], None]


def score(
    checkpoints: str | Path | Sequence[str | Path] | Mapping[str, ModelSource],
    *,
    wordlist: str | Path | WordList = "english_gender",
    texts: Sequence[str] = (),
    prompts: str | Path | Sequence[str | Prompt] = DEFAULT_PROMPTS,
    seed: int = 0,
    folder: str | Path | None = None,
    trust_remote_code: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Measure checkpoints side by side: what `distill score` does, from Python.

        scores = score(
            {"before": "openai-community/gpt2", "after": (model, tokenizer)},
            texts=["The nurse said that she was tired.", "He took his coat."],
            metrics=["next_word_disparity", "perplexity"],
        )
        scores["models"]["after"]["next_word_disparity"]["value"]
        scores["differences"]["after - before"]["perplexity"]["ratio"]

    Args:
        checkpoints: A folder or hub id, or several (named by the last part of their paths), or name -> folder, hub id
            or (model, tokenizer). Each is set against every earlier one.
        wordlist: A word list, or the name or path of one; several joined by +.
        texts: Held-out texts; without any, the metrics that read them are undefined.
        prompts: Beginnings of texts, or where `load_prompts` finds them; those with a listed word are left out.
        seed: Seed of sampling and intervals.
        folder: Where scores.json and speed.json go, and into `cache/scores` what was measured, for a later call. None
            writes nothing.
        trust_remote_code: Run code that comes with the models that are named by a path, reference and control among
            them. Only for sources you trust.
        settings: Any other setting of `distill.recipe.ScoreConfig`: metrics, samples, max_new_tokens, bootstrap, ...

    Returns:
        The contents of scores.json, see this module's head.

    Raises:
        UserError: an unknown setting; a checkpoint, word list, prompt file or metric that cannot be used.
    """
    config = _config(settings)
    check_seed(seed)
    documents = given_documents(texts, "texts")
    named = _named(checkpoints)
    opened = {name: trusted(source, trust_remote_code) for name, source in named.items()}
    models = _with_quantized(opened, config.quantize)
    check_files(config, models, trust_remote_code=trust_remote_code)
    swapper = Swapper(wordlist if isinstance(wordlist, WordList) else load_wordlist(wordlist))
    usable, left_out = usable_prompts(prompts, config.max_prompts, seed, swapper, config.listed_prompts)
    scores = score_models(
        models, wordlist=swapper.wordlist, documents=documents, prompts=usable, settings=config, seed=seed,
        swapper=swapper, progress=_console_progress(), cache=Path(folder, "cache", "scores") if folder else None,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    source = str(prompts) if isinstance(prompts, str | Path) else None
    scores["settings"]["prompts"] |= {"source": source, "left_out_with_listed_word": left_out}
    if folder:
        write_scores(scores, Path(folder, "scores.json"))
        write_speeds(measured_speeds(models, scores["settings"], read_speeds(Path(folder))), Path(folder))
    return scores


def _named(checkpoints: str | Path | Sequence[str | Path] | Mapping[str, ModelSource]) -> Mapping[str, ModelSource]:
    if isinstance(checkpoints, str | Path):
        checkpoints = [checkpoints]
    named = isinstance(checkpoints, Mapping) or all(isinstance(path, str | Path) for path in checkpoints)
    if not checkpoints or not named:
        raise UserError(
            "checkpoints must name one model at least, by folder or hub id; give models in memory a name: "
            "{'mine': (model, tokenizer)}"
        )
    return checkpoints if isinstance(checkpoints, Mapping) else labelled([str(path) for path in checkpoints])


def _with_quantized(models: Mapping[str, ModelSource], kind: WeightBits | None) -> Mapping[str, ModelSource]:
    """The models and, last, a copy of the last one in fewer bits, where that is asked for."""
    if kind is None:
        return models
    require_torchao("scores.quantize", kind)
    last = list(models)[-1]
    return {**models, copy_name(last, kind): quantized(models[last], kind)}


def _config(settings: Mapping[str, Any]) -> ScoreConfig:
    known = {f.name for f in fields(ScoreConfig)} - {"prompts", *WHILE_TRAINING}
    for name in settings:
        if name not in known:
            raise UserError(f"unknown setting '{name}'; {suggestion(name, sorted(known))}")
    if isinstance(settings.get("metrics"), str):
        raise UserError(f"metrics is '{settings['metrics']}', but must be a list of names: [{settings['metrics']!r}]")
    config = typed(ScoreConfig, settings, "score")
    check_scores(config, prefix="")
    return _with_audit_metrics(config)


_AUDIT = {"members": ("membership_inference", "memorisation"), "canaries": ("canary_exposure",)}


def _with_audit_metrics(config: ScoreConfig) -> ScoreConfig:
    """The settings with the metrics that read the audit's files, where these are named."""
    wanted = (metric for key, metrics in _AUDIT.items() if getattr(config, key) for metric in metrics)
    return replace(config, metrics=list(dict.fromkeys([*config.metrics, *wanted])))


def run_models(recipe: Recipe, folder: Path) -> dict[str, str]:
    """Name -> folder or hub id of a run's models, the teacher first and the mitigated student last."""
    teacher = {"teacher": recipe.teacher.path} if recipe.teacher.path is not None else {}
    return teacher | {name: str(folder / name) for name in recipe.variants()}


def score_run(
    recipe: Recipe, models: Mapping[str, str], wordlist: WordList, documents: Sequence[str], folder: Path
) -> dict[str, Any]:
    """Score the models of a finished run as its recipe says, and write scores.json.

    Args:
        recipe: Its `scores`, `seed` and `teacher` are read.
        models: See `run_models`.
        wordlist: The recipe's word list.
        documents: Held-out texts.
        folder: The run's folder. What was measured is kept in its `cache/scores`: a stopped evaluation goes on.

    Returns:
        What was written.

    Raises:
        UserError: an unknown metric, prompts or a model that cannot be had.
    """
    sources: dict[str, ModelSource] = dict(models)
    # The recipe also knows its teacher's revision and number format, which a path does not tell.
    if "teacher" in models and models["teacher"] == recipe.teacher.path:
        sources["teacher"] = Checkpoint(recipe.teacher)
    settings = run_scores(recipe.scores, recipe.audit, folder)
    if settings.members and settings.reference is None and "teacher" in models:
        settings = replace(settings, reference="teacher")
    asked = {key: value for key, value in vars(settings).items() if key not in WHILE_TRAINING}
    # Students lie there with the code that was trusted to make them, and so may reference and control.
    given: dict[str, Any] = {"seed": recipe.seed, "folder": folder, "trust_remote_code": recipe.trusts_code}
    scores = score(sources, wordlist=wordlist, texts=documents, **given, **asked)
    told = training_record(folder / "student")
    if recipe.is_private and told.exists():
        # What was spent is the same for each student of a run: they share the plan.
        scores["privacy"] = json.loads(told.read_text(encoding="utf-8"))["privacy"]
        write_scores(scores, folder / "scores.json")
    return scores


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
    trust_remote_code: bool = False,
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
        trust_remote_code: Run code that comes with the models that the settings name, as reference or control.

    Returns:
        The contents of scores.json (see this module's head); differences are taken of each model against every
        earlier one.

    Raises:
        UserError: an unknown metric or a model that cannot be loaded.
    """
    documents = [document for document in documents if document.strip()]
    asked = Asked(settings, seed, swapper or Swapper(wordlist), documents, prompts)
    named = {name: getattr(settings, name) for name in ("reference", "control")}
    sources = {
        name: trusted(models.get(path, path), trust_remote_code) for name, path in named.items() if path is not None
    }
    check_models(models, settings, seed, asked.swapper, documents, prompts)
    audited = read_audited(settings)
    beside = _measured_with(settings, sources, audited)
    found = _measure_each(models, sources, asked, audited, beside, progress, cache)
    return without_nan(contents(asked, found, versions(default_device()), beside))


def _measured_with(
    settings: ScoreConfig, sources: Mapping[str, ModelSource], audited: Audited
) -> dict[str, str | None]:
    """What was read beside models, prompts and documents: by the name of its setting, what tells it from another."""
    named = ("regard_model", "toxicity_model", "word_vectors")
    found = {name: model_version(getattr(settings, name)) for name in named if getattr(settings, name) is not None}
    if audited.texts or audited.canaries:
        found |= {"audited": audited.digest} | {name: source_key(source) for name, source in sources.items()}
    return found


def _measure_each(
    models: Mapping[str, ModelSource],
    sources: Mapping[str, ModelSource],
    asked: Asked,
    audited: Audited,
    beside: Mapping[str, str | None],
    progress: Progress | None,
    cache: Path | None,
) -> dict[str, Measured]:
    """Model -> what it gave; see `score_models`. `sources` are those of reference and control."""
    metrics, device = chosen(asked.settings.metrics), default_device()
    compared = [*models.values(), *sources.values()]
    common = common_context(compared) if len(compared) > 1 else None
    given = decisive(asked.settings, asked.seed, asked.swapper, asked.documents, asked.prompts, common)
    given |= beside
    losses = {name: _losses_of(source, name, asked, audited, common, progress) for name, source in sources.items()}
    judge, judge_hash = None, ""
    found = {}
    if any(not isinstance(source, tuple) for source in models.values()):
        gc.collect()  # of what was trained before in this process, and holds itself and its optimizer
    for name, source in models.items():
        model, tokenizer = open_model(source, device)
        weights = weights_hash(model)
        of_model = model_hash(model, tokenizer, weights)
        if len(models) > 1 and judge is None:
            judge, judge_hash = cached(partial(open_model, source, device)), of_model
        evaluation = Evaluation(
            model, tokenizer, asked.swapper.wordlist, asked.documents, asked.prompts, asked.settings, asked.seed,
            asked.swapper, partial(progress, name) if progress else None, judge, common, audited, **losses,
        )  # fmt: skip
        show = partial(shown_texts, evaluation, asked.shown, asked.example_texts)
        kept = ScoreCache(cache, given | {"judge": judge_hash})
        outcomes, texts = model_outcomes(evaluation, metrics, kept, of_model, show)
        found[name] = Measured(outcomes, texts, weights, _facts(evaluation))
        del model, evaluation, show
        if not isinstance(source, tuple):  # its memory is wanted for the next one
            gc.collect()
    return found


def _losses_of(
    source: ModelSource, name: str, asked: Asked, audited: Audited, common: int | None, progress: Progress | None
) -> Callable[[], np.ndarray]:
    """What gives a reference's or control's losses of the audited texts; its model is loaded where they are wanted."""

    @cached
    def losses() -> np.ndarray:
        model, tokenizer = open_model(source, default_device())
        return Evaluation(
            model, tokenizer, asked.swapper.wordlist, settings=asked.settings, seed=asked.seed, swapper=asked.swapper,
            progress=partial(progress, name) if progress else None, common=common, audited=audited,
        ).audited_losses  # fmt: skip

    return losses


def _facts(evaluation: Evaluation) -> dict[str, Any]:
    """What decides whether models may be compared, and how large one is: what stands of it in the settings."""
    return {
        "context": own_context(evaluation.model.config),
        "read": evaluation.context,
        "tokenizer": evaluation.vocabulary,
        "parameters": parameter_count(evaluation.model),
        "bytes": weight_bytes(evaluation.model),
        **({"conversations": evaluation.conversations} if evaluation.conversations else {}),
    }


def versions(device: str) -> dict[str, str]:
    """Versions of what decides the figures, and the device."""
    versions = {"python": platform.python_version()}
    versions |= {package: version for package in _PACKAGES if (version := installed_version(package))}
    return versions | {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}


def _console_progress() -> Progress:
    """Progress lines: one counter for each pass over each model."""
    counters: dict[tuple[str, str], Callable[..., None]] = {}

    def report(model: str, what: str, done: int, total: int) -> None:
        if (model, what) not in counters:
            if model not in {name for name, _ in counters} and not phase(f"scoring {model}"):
                say(f"scoring {model}")
            counters[model, what] = counter(f"scoring {model}: {what}", "done", follows=True)
        counters[model, what](done, total)

    return report
