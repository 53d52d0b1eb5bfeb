"""One model and its metrics -> outcomes, from the cache where they lie there."""

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from distill.base.console import say
from distill.base.errors import UserError
from distill.base.files import DEMO_TEACHER
from distill.base.integrity import file_hash
from distill.metrics import (
    METRICS,
    Evaluation,
    Outcome,
    asks_next_word,
    cards,
    check_settings,
    chosen,
    measured,
    reads_documents,
    reported,
    resampled,
    samples_text,
)
from distill.metrics.audited import read_audited
from distill.metrics.bootstrap import RESAMPLING_SEED
from distill.metrics.evaluation import given_prompts
from distill.models.architecture import least, model_hash, own_context, scored_context
from distill.models.generation import check_context, check_prompts
from distill.models.loading import (
    check_weights,
    gguf_in,
    load_config,
    load_configured,
    load_model,
    load_tokenizer,
    model_source,
)
from distill.models.quantization import quantize_weights, require_torchao
from distill.recipe import WHILE_TRAINING, Recipe, ScoreConfig, TeacherConfig, WeightBits
from distill.scoring.examples import example_prompts, examples_of
from distill.scoring.score_cache import ScoreCache, content_hash, model_version, stamp
from distill.text.conversations import Messages, as_given, chat_prompt
from distill.text.counterfactual import Swapper
from distill.text.prompts import Prompt, limit_prompts, subject_halves, without_listed_words

ModelSource = str | Path | tuple[Any, Any] | Callable[[], tuple[Any, Any]]


# Settings that do not decide, or that name what `decisive` is given, or what `score` keys by its content.
_SAID_ELSEWHERE = {
    "metrics",
    "prompts",
    "batch_size",
    "members",
    "others",
    "canaries",
    "reference",
    "control",
    "quantize",
    *WHILE_TRAINING,
}


_MOST_REPEATS = 0.1  # of all prompts; a few are in published sets too


@dataclass(frozen=True)
class Checkpoint:
    """A folder, hub id or GGUF file whose model is loaded in another way than by its path alone.

    config: Where it lies and how it is loaded, as recipes say it of a teacher.
    quantize: In how many bits the weights of its layers are put then, see `quantize_weights`.
    """

    config: TeacherConfig
    quantize: WeightBits | None = None

    def __call__(self) -> tuple[Any, Any]:
        """Model and tokenizer."""
        model, tokenizer = load_configured(self.config)
        return (quantize_weights(model, self.quantize) if self.quantize else model), tokenizer


def _named(path: str | Path, trust: bool = False) -> TeacherConfig:
    """How a model is loaded that is named by its path alone."""
    folder, file = gguf_in(str(path))
    return TeacherConfig(path=folder, gguf_file=file, trust_remote_code=trust)


def trusted(source: ModelSource, trust: bool = True) -> ModelSource:
    """The same model; if `trust`, its own code is run where it is named by its path."""
    return Checkpoint(_named(source, trust)) if trust and isinstance(source, str | Path) else source


def copy_name(name: str, kind: WeightBits) -> str:
    """What the copy of a model in fewer bits is called."""
    return f"{name} {kind}"


def quantized(source: ModelSource, kind: WeightBits) -> ModelSource:
    """The same model with the weights of its layers in fewer bits, see `quantize_weights`."""
    if (config := _config_of(source)) is not None:
        return Checkpoint(config, kind)

    def load() -> tuple[Any, Any]:
        model, tokenizer = open_model(source, "cpu")
        model = copy.deepcopy(model) if isinstance(source, tuple) else model
        return quantize_weights(model, kind), tokenizer

    return load


def common_context(sources: Iterable[ModelSource]) -> int | None:
    """The least of the contexts in which models are scored, in tokens, from their configurations; `None`: no limit."""
    return least(*(context_of(source, scored_context) for source in sources))


def context_of(source: ModelSource, told_by: Callable[[PretrainedConfig], int | None] = own_context) -> int | None:
    """A model's context in tokens, from its configuration; where that does not tell, from the model."""
    if isinstance(source, tuple):
        return told_by(source[0].config)
    if (config := _config_of(source)) is not None:
        with suppress(Exception):  # told by what loads the model
            return told_by(load_config(*_place(config), **config.hub))
    return told_by(open_model(source, "cpu")[0].config)


def tokenizer_of(source: ModelSource) -> Any | None:
    """A model's tokenizer, without the model; None where a function makes both."""
    if isinstance(source, tuple):
        return source[1]
    config = _config_of(source)
    return None if config is None else load_tokenizer(*_place(config), **config.hub)


def _config_of(source: ModelSource) -> TeacherConfig | None:
    """How a model is loaded; None where it is in memory, or a function makes it."""
    if isinstance(source, Checkpoint):
        return source.config
    return _named(source) if isinstance(source, str | Path) else None


def _place(config: TeacherConfig) -> tuple[str, bool, str | None]:
    """What `load_config` and `load_tokenizer` are told, beside the revision."""
    assert config.path is not None  # nothing is scored without one
    return config.path, config.trust_remote_code, config.gguf_file


def source_key(source: ModelSource) -> str:
    """What tells a model from others, without loading it where it lies on disk or in the hub."""
    if (config := _config_of(source)) is None:
        return model_hash(*open_model(source, "cpu"))
    path = str(DEMO_TEACHER) if config.path == "demo" else str(config.path)
    if config.gguf_file and (file := Path(path, config.gguf_file)).exists():
        path = str(file)  # its folder may hold many, and what is written meanwhile
    quantize = source.quantize if isinstance(source, Checkpoint) else None
    how = content_hash([asdict(replace(config.as_it_predicts(), path=None)), quantize])
    return f"{model_version(path, **config.hub)} {how}"


def _check_weights(source: ModelSource) -> None:
    """Raises UserError, see `check_weights`, for a model that is named by its path."""
    if (config := _config_of(source)) is not None and not config.gguf_file:
        check_weights(str(config.path), config.allow_pickle)


def check_templates(settings: ScoreConfig, documents: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the chat template render what will be scored, where that is asked for: a mistake shall not wait till then.

    Raises:
        UserError: see `conversations.as_given` and `chat_prompt`.
    """
    if settings.chat:
        chat_prompt("It", tokenizer)
    for document in documents:
        as_given(document, tokenizer)


def check_room(
    settings: ScoreConfig,
    seed: int,
    swapper: Swapper,
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    contexts: Mapping[str, int | None],
) -> None:
    """Make sure that prompts and continuations fit into the models that will be scored, which may first be trained.

    Args:
        settings: Metrics, length of a continuation, chat or not.
        seed: Decides which prompts are examples.
        swapper: Of the word list.
        prompts: Those that will be scored.
        tokenizer: The models'.
        contexts: Name of a model -> its context in tokens, see `own_context`.

    Raises:
        UserError: names the longest prompt and the first model that has no room, where a metric samples text or asks
            for the next word; or see `chat_prompt`.
    """
    metrics = chosen(settings.metrics).values()
    samples = any(map(samples_text, metrics))
    if not samples and not any(map(asks_next_word, metrics)):
        return
    shown = example_prompts(prompts, swapper, seed) if samples else []
    texts = [*(prompt.text for prompt in prompts), *shown]
    given = [chat_prompt(text, tokenizer) for text in texts] if settings.chat else texts
    for name, limit in contexts.items():
        if samples:
            check_context(limit, tokenizer, given, settings.max_new_tokens, name, settings.max_length)
        else:
            check_prompts(limit, tokenizer, given, name)


def check_models(
    models: Mapping[str, ModelSource],
    settings: ScoreConfig,
    seed: int,
    swapper: Swapper,
    documents: Sequence[str],
    prompts: Sequence[Prompt],
) -> None:
    """`check_weights`, `check_templates` and `check_room` of all models, before the first of them is measured.

    What a function makes is left out: it would be loaded for this alone.

    Raises:
        UserError: see these three; or a tokenizer cannot be had.
    """
    for name, source in models.items():
        _check_weights(source)
        if (tokenizer := tokenizer_of(source)) is not None:
            check_templates(settings, documents, tokenizer)
            check_room(settings, seed, swapper, prompts, tokenizer, {name: context_of(source)})


def check_run(
    recipe: Recipe,
    swapper: Swapper,
    tokenizer: PreTrainedTokenizerBase,
    teacher: PreTrainedModel | None,
    student: PreTrainedModel,
) -> None:
    """`check_room` of a recipe's models and `check_files`, before they are trained.

    Those of the metrics that watch a federation's rounds too.
    """
    watch = recipe.federation.watch if recipe.federation.clients else []
    settings = replace(recipe.scores, metrics=[*recipe.scores.metrics, *watch])
    check_files(settings, _scored_in(recipe), "scores.", recipe.trusts_code)
    models = {"the teacher": teacher, "the student": student}
    contexts = {name: own_context(model.config) for name, model in models.items() if model is not None}
    check_room(settings, recipe.seed, swapper, run_prompts(recipe, swapper)[0], tokenizer, contexts)


def _scored_in(recipe: Recipe) -> list[str]:
    """What the models of a run are called, its students also by the folders into which training has yet to put them."""
    students, kind = [*recipe.variants()], recipe.scores.quantize
    teacher = ["teacher"] if recipe.teacher.path is not None else []
    copies = [copy_name(students[-1], kind)] if kind else []
    return [*teacher, *students, *copies, *(str(Path(recipe.output_dir, name)) for name in students)]


def check_files(
    settings: ScoreConfig, models: Collection[str], prefix: str = "", trust_remote_code: bool = False
) -> None:
    """Make sure that files and models are there, and can be read, which scores will read, perhaps hours later.

    Args:
        settings: They name them.
        models: Names and folders of the models that will be scored: reference and control may be one of them.
        prefix: What their keys stand behind.
        trust_remote_code: Run code that comes with reference and control.

    Raises:
        UserError: one is not there, or not what it should be; see also `read_audited` and `metrics.check_settings`.
    """
    if settings.data is not None and not Path(settings.data).is_dir():
        raise UserError(f"{prefix}data: {settings.data} is no folder; name one, or leave it out to do without")
    for key, kind in (("word_vectors", "word2vec (text or binary) or GloVe"), ("canaries", "JSON lines")):
        if (path := getattr(settings, key)) is not None and not Path(path).is_file():
            raise UserError(f"{prefix}{key}: {path} is no file; give {kind}")
    read_audited(settings)
    for model in (settings.regard_model, settings.toxicity_model):
        if model is not None:
            model_source(model)
    places = {Path(model).resolve() for model in models}  # a folder may be spelled in several ways
    for key in ("reference", "control"):
        if (path := getattr(settings, key)) is not None and Path(path).resolve() not in places:
            _check_compared(f"{prefix}{key}", trusted(path, trust_remote_code))
    for metric in chosen(settings.metrics).values():
        check_settings(metric, settings)


def _check_compared(key: str, source: ModelSource) -> None:
    """Raises UserError, which names the key, if a model to compare with has no weights, tokenizer or configuration."""
    try:
        _check_weights(source)
        tokenizer_of(source)
        context_of(source)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def check_metrics(recipe: Recipe) -> None:
    """Raise UserError if a key of the recipe names a metric that there is none of, or that says nothing there, or asks
    for fewer bits than this installation can make.
    """
    federation = recipe.federation
    if recipe.scores.quantize is not None:
        require_torchao("scores.quantize", recipe.scores.quantize)
    chosen(recipe.scores.metrics, "scores.metrics")
    for name, metric in chosen(federation.watch, "federation.watch").items():
        if any(card.role == "memory" for card in cards(metric)):
            raise UserError(
                f"federation.watch: {name} needs the texts of an audit, which no round is given; "
                "name it in scores.metrics alone"
            )
    of_text = [name for name, metric in METRICS.items() if reads_documents(metric)]
    for name in chosen(federation.client_metrics, "federation.client_metrics"):
        if name not in of_text:
            raise UserError(
                f"federation.client_metrics: {name} does not read a client's documents, so that it tells no client "
                f"from another; take {', '.join(of_text[:-1])} or {of_text[-1]}"
            )


def run_prompts(recipe: Recipe, swapper: Swapper) -> tuple[list[Prompt], int]:
    """`usable_prompts` of a recipe."""
    scores = recipe.scores
    return usable_prompts(scores.prompts, scores.max_prompts, recipe.seed, swapper, scores.listed_prompts)


def halved_prompts(recipe: Recipe, swapper: Swapper, seed: int) -> tuple[list[Prompt], tuple[list[int], list[int]]]:
    """The prompts of a recipe, those that this seed draws of them, and the places of both halves, see `subject_halves`.

    Raises:
        UserError: see `usable_prompts`.
    """
    source, _ = run_prompts(replace(recipe, scores=replace(recipe.scores, max_prompts=None)), swapper)
    drawn = limit_prompts(source, recipe.scores.max_prompts, seed)
    return drawn, subject_halves(drawn, source)


def usable_prompts(
    source: str | Path | Sequence[str | Prompt],
    maximum: int | None,
    seed: int,
    swapper: Swapper,
    listed: bool = False,
) -> tuple[list[Prompt], int]:
    """At most so many prompts of a source, and how many were left out because they hold a listed word.

    With `listed` these stay.

    Raises:
        UserError: there is no such source, it is malformed, or nothing of it is left.
    """
    given = given_prompts(source)
    prompts, left_out = (given, 0) if listed else without_listed_words(given, swapper)
    if left_out and not prompts:
        which = f"every prompt of '{source}'" if isinstance(source, str | Path) else "every prompt"
        raise UserError(f"scores.prompts: {which} holds a word of the list '{swapper.wordlist.name}'; use others")
    if (repeats := len(prompts) - len({prompt.text for prompt in prompts})) > _MOST_REPEATS * len(prompts):
        _tell_of_repeats(repeats, len(prompts))
    return limit_prompts(prompts, maximum, seed), left_out


@cache
def _tell_of_repeats(repeats: int, number: int) -> None:
    say(
        f"{repeats} of {number} prompts repeat others: intervals take each for a prompt of its own, and are too "
        "narrow; leave the repeats out"
    )


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
        found = kept.outcomes(model_hash, metric, partial(measure, module))
        outcomes |= {name: reported(outcome) for name, outcome in found.items()}
    return outcomes, texts or (kept.texts(model_hash, show) if show else None)


def _resampled(metric: ModuleType, evaluation: Evaluation) -> dict[str, Outcome]:
    given = {"resamples": evaluation.settings.bootstrap, "seed": RESAMPLING_SEED}
    found = {}
    evaluation.data_read.clear()
    measurements = measured(metric, evaluation)
    root = evaluation.settings.data or ""
    files = {path.relative_to(root).as_posix(): file_hash(path) for path in evaluation.data_read}
    for name, measurement in measurements.items():
        if files:
            of_files = {"benchmark_files": {metric.__name__.rpartition(".")[2]: content_hash(files)}}
            measurement = replace(measurement, details=measurement.details | of_files)
        if "decoding" in measurement.details:
            # Sampled texts end after a number of tokens, which is more or less text by the tokenizer.
            measurement = replace(measurement, ruler={**measurement.ruler, **evaluation.ruler("tokenizer")})
        found[name] = resampled(measurement, **given)
    return found


def decisive(
    settings: ScoreConfig,
    seed: int,
    swapper: Swapper,
    documents: Sequence[str],
    prompts: Sequence[Prompt],
    common: int | None = None,
) -> dict[str, Any]:
    """Whatever decides the scores of a model, ready for JSON, `common` as in `Evaluation`. The batch size does not."""
    given = {key: value for key, value in asdict(settings).items() if key not in _SAID_ELSEWHERE}
    for key in ("data", "word_vectors"):
        given[key] = stamp(given[key])
    for key in ("regard_model", "toxicity_model"):
        given[key] = model_version(given[key])
    return {
        "settings": given,
        "context": common,
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
